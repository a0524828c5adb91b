// Package diskdir is the disk directory: how a chunk server is told of its disks without knowing who found them.
//
// The directory holds, per disk, <name>.json (an Entry, written by the agent or by `storaged dev`) and <name>.status (a
// Status, written by the chunk). Files are replaced atomically and are durable when the writing call returns; readers see
// the old or the new content. Removing the entry asks the chunk to let the disk go; the chunk then says so in the status.
//
// An Entry names the disk by what its owner verified just before writing it: the kernel name in Device is valid only as long as
// the file is kept up to date, and the chunk checks the superblock in any case (I13).
package diskdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Entry asks the chunk to use a disk.
type Entry struct {
	// Name is stable and unique on the node; it is the file name without suffix.
	Name string `json:"name"`
	// Device is the path to open now: a block device or a written file.
	Device string `json:"device"`
	// MountType is dataStoreWithJournal, dataStore or cacheWithJournal.
	MountType string `json:"mountType"`
	SizeBytes int64  `json:"sizeBytes"`
	// Identity is what the disk said of itself; for people and reports.
	Identity Identity `json:"identity"`
	// Format allows the chunk to format the disk if it is blank. A disk that is not blank is never formatted.
	Format bool `json:"format"`
	// ClusterID is the cluster the disk is given to; empty accepts the chunk's own.
	ClusterID string `json:"clusterID,omitempty"`
	// DiskID, when set, is the only store identity that is accepted on the device.
	DiskID string `json:"diskID,omitempty"`
}

// Identity is how hardware names a disk.
type Identity struct {
	WWN    string `json:"wwn,omitempty"`
	Serial string `json:"serial,omitempty"`
	Model  string `json:"model,omitempty"`
}

// States of a disk as the chunk sees it.
const (
	StateActive   = "Active"   // open and in use
	StateRefused  = "Refused"  // not used, Message says why
	StateStalled  = "Stalled"  // a request has not come back from the device; used again as soon as it answers
	StateFailed   = "Failed"   // was in use and is fenced (I7)
	StateReleased = "Released" // the entry is gone and the chunk has let go of the device
)

// Status is the chunk's answer.
type Status struct {
	Name      string    `json:"name"`
	DiskID    string    `json:"diskID,omitempty"`
	State     string    `json:"state"`
	Message   string    `json:"message,omitempty"`
	UsedBytes int64     `json:"usedBytes"`
	SizeBytes int64     `json:"sizeBytes"`
	Replicas  int       `json:"replicas"`
	Time      time.Time `json:"time"`
}

// Check reports what is wrong with an entry.
func (e Entry) Check() error {
	switch {
	case e.Name == "" || strings.ContainsAny(e.Name, "/\x00") || strings.HasPrefix(e.Name, "."):
		return fmt.Errorf("disk entry: name %q must be a plain file name", e.Name)
	case !filepath.IsAbs(e.Device):
		return fmt.Errorf("disk entry %s: device %q must be an absolute path", e.Name, e.Device)
	case e.MountType != "dataStoreWithJournal" && e.MountType != "dataStore" && e.MountType != "cacheWithJournal":
		return fmt.Errorf("disk entry %s: mountType %q must be dataStoreWithJournal, dataStore or cacheWithJournal", e.Name, e.MountType)
	}
	return nil
}

// WriteEntry stores an entry.
func WriteEntry(dir string, e Entry) error {
	if err := e.Check(); err != nil {
		return err
	}
	return write(filepath.Join(dir, e.Name+".json"), e)
}

// RemoveEntry asks the chunk to let the disk go. No entry is no error.
func RemoveEntry(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove disk entry %s: %w", name, err)
	}
	return syncDir(dir)
}

// Entries returns all entries in the order of their names. A file that does not hold a good entry is reported in errs, and
// hides no other; a missing directory holds none.
func Entries(dir string) (entries []Entry, errs []error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, []error{fmt.Errorf("list disk entries in %s: %w", dir, err)}
	}
	sort.Strings(names)
	for _, n := range names {
		var e Entry
		if err := read(n, &e); err != nil {
			errs = append(errs, err)
			continue
		}
		if want := strings.TrimSuffix(filepath.Base(n), ".json"); e.Name != want {
			errs = append(errs, fmt.Errorf("disk entry %s: names itself %q; the name must be the file's", n, e.Name))
			continue
		}
		if err := e.Check(); err != nil {
			errs = append(errs, err)
			continue
		}
		entries = append(entries, e)
	}
	return entries, errs
}

// WriteStatus stores the chunk's view of a disk.
func WriteStatus(dir string, s Status) error {
	return write(filepath.Join(dir, s.Name+".status"), s)
}

// ReadStatus returns the chunk's view of a disk; fs.ErrNotExist (wrapped) if it has said nothing.
func ReadStatus(dir, name string) (Status, error) {
	var s Status
	err := read(filepath.Join(dir, name+".status"), &s)
	return s, err
}

// RemoveStatus forgets the chunk's view of a disk that was released.
func RemoveStatus(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name+".status")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove disk status %s: %w", name, err)
	}
	return nil
}

const fileMax = 64 << 10

func read(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > fileMax {
		return fmt.Errorf("%s: %d bytes are no disk entry", path, st.Size())
	}
	if err := json.NewDecoder(f).Decode(v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func write(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(append(b, '\n')); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
