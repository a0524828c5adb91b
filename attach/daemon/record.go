package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/iomesh/iomesh/attach/loop"
	"golang.org/x/sys/unix"
)

// record is what a volume leaves on disk for a later run of the daemon.
type record struct {
	Version   int          `json:"version"`
	VolumeID  string       `json:"volumeID"`
	IQN       string       `json:"iqn"`
	Initiator string       `json:"initiator"`
	ReadOnly  bool         `json:"readOnly"`
	SizeBytes int64        `json:"sizeBytes"`
	Since     time.Time    `json:"since"`
	Device    string       `json:"device,omitempty"` // "" until the loop device exists
	Backing   loop.Backing `json:"backing"`          // identity of the FUSE file; zero until it is mounted
	// Orphaned means that the process that served the device has ended.
	Orphaned bool `json:"orphaned,omitempty"`
}

const (
	recordVersion  = 1
	recordSuffix   = ".json"
	recordBytesMax = 64 << 10
)

// records is the directory of records.
type records struct{ dir string }

func (r records) path(volume string) string     { return filepath.Join(r.dir, volume+recordSuffix) }
func (r records) mountDir(volume string) string { return filepath.Join(r.dir, volume) }

// save replaces a record at once. The directory is on a RAM disk: nothing is synced, because nothing survives a boot.
func (r records) save(rec record) error {
	rec.Version = recordVersion
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", rec.VolumeID, err)
	}
	temp := r.path(rec.VolumeID) + ".new"
	if err := os.WriteFile(temp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write record of %s: %w", rec.VolumeID, err)
	}
	if err := os.Rename(temp, r.path(rec.VolumeID)); err != nil {
		return fmt.Errorf("write record of %s: %w", rec.VolumeID, err)
	}
	return nil
}

func (r records) remove(volume string) error {
	if err := os.Remove(r.path(volume)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record of %s: %w", volume, err)
	}
	return nil
}

// load reads all records; those that cannot be read are returned as errors beside them, never as a failure of the whole.
func (r records) load() (recs []record, bad []error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, []error{fmt.Errorf("read state directory: %w", err)}
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok || e.IsDir() {
			continue
		}
		rec, err := r.read(name)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		recs = append(recs, rec)
	}
	return recs, bad
}

func (r records) read(volume string) (record, error) {
	info, err := os.Stat(r.path(volume))
	if err != nil {
		return record{}, fmt.Errorf("read record of %s: %w", volume, err)
	}
	if info.Size() > recordBytesMax {
		return record{}, fmt.Errorf("read record %s: %d bytes is more than a record can have; remove it", r.path(volume), info.Size())
	}
	b, err := os.ReadFile(r.path(volume))
	if err != nil {
		return record{}, fmt.Errorf("read record of %s: %w", volume, err)
	}
	rec, err := decodeRecord(b)
	if err != nil {
		return record{}, fmt.Errorf("read record %s: %w; remove it", r.path(volume), err)
	}
	if rec.VolumeID != volume {
		return record{}, fmt.Errorf("read record %s: it is about volume %q; remove it", r.path(volume), rec.VolumeID)
	}
	return rec, nil
}

func decodeRecord(b []byte) (record, error) {
	var rec record
	if err := json.Unmarshal(b, &rec); err != nil {
		return record{}, fmt.Errorf("not a record: %w", err)
	}
	if rec.Version != recordVersion {
		return record{}, fmt.Errorf("version %d is not known here", rec.Version)
	}
	if err := checkVolumeID(rec.VolumeID); err != nil {
		return record{}, err
	}
	if rec.Device != "" && !isLoopPath(rec.Device) {
		return record{}, fmt.Errorf("device %q is no loop device", rec.Device)
	}
	return rec, nil
}

func isLoopPath(path string) bool {
	number, ok := strings.CutPrefix(path, "/dev/loop")
	return ok && number != "" && len(number) <= 7 && strings.Trim(number, "0123456789") == ""
}

// checkVolumeID accepts what can be a file name in the state directory.
func checkVolumeID(id string) error {
	if id == "" || len(id) > 128 || id[0] == '.' || strings.HasSuffix(id, recordSuffix) {
		return fmt.Errorf("volume id %q: want 1 to 128 of [A-Za-z0-9._-], not starting with a dot, not ending in %s", id, recordSuffix)
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("volume id %q: character %q is not of [A-Za-z0-9._-]", id, c)
		}
	}
	return nil
}

// isMounted says whether something is mounted on dir, which may be a mount whose server has died.
func isMounted(dir string) bool {
	var st, parent unix.Stat_t
	err := unix.Lstat(dir, &st)
	if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
		return true
	}
	if err != nil || unix.Lstat(filepath.Dir(dir), &parent) != nil {
		return false
	}
	return st.Dev != parent.Dev
}
