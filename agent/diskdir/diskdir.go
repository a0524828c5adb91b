package diskdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// Entry tells a chunk of one disk.
type Entry struct {
	Name      string   `json:"name"`      // of the BlockDevice
	Device    string   `json:"device"`    // path now; rewritten when the kernel names the device otherwise
	MountType string   `json:"mountType"` // dataStoreWithJournal, cacheWithJournal, dataStore
	SizeBytes uint64   `json:"sizeBytes"`
	Identity  Identity `json:"identity"`
	// Format allows the chunk to format a blank device. It is false as soon as the chunk has reported a disk here, so that a device which
	// lost its content is refused and not silently begun anew.
	Format    bool   `json:"format"`
	ClusterID string `json:"clusterID"`
}

// Identity is for messages; the chunk decides by the superblock.
type Identity struct {
	Serial      string `json:"serial,omitempty"`
	WWN         string `json:"wwn,omitempty"`
	BackingFile string `json:"backingFile,omitempty"`
}

// Status is what the chunk reports of a disk.
type Status struct {
	DiskID    string    `json:"diskID"`
	State     string    `json:"state"`
	Message   string    `json:"message"`
	UsedBytes uint64    `json:"usedBytes"`
	SizeBytes uint64    `json:"sizeBytes"`
	Time      time.Time `json:"time"`
}

// StateDetached is the state of a disk that the chunk has let go of.
const StateDetached = "Detached"

// Dir is a disk directory. It is created when first written to. One agent writes to it.
type Dir string

// fileBytesMax bounds what is read of one file.
const fileBytesMax = 1 << 20

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

func (d Dir) path(name, suffix string) (string, error) {
	if !nameRE.MatchString(name) || len(name) > 200 {
		return "", fmt.Errorf("%q is not the name of a disk-directory entry", name)
	}
	return filepath.Join(string(d), name+suffix), nil
}

// Put writes an entry durably, if it differs from what is there. It reports whether it wrote.
func (d Dir) Put(e Entry) (bool, error) {
	path, err := d.path(e.Name, ".json")
	if err != nil {
		return false, err
	}
	want, err := json.Marshal(e)
	if err != nil {
		return false, fmt.Errorf("encode disk entry %s: %w", e.Name, err)
	}
	want = append(want, '\n')
	if have, err := readBounded(path); err == nil && string(have) == string(want) {
		return false, nil
	}
	if err := WriteFile(path, want); err != nil {
		return false, fmt.Errorf("write disk entry %s: %w", e.Name, err)
	}
	return true, nil
}

// Get returns an entry, or an error that is fs.ErrNotExist.
func (d Dir) Get(name string) (Entry, error) {
	var e Entry
	return e, d.read(name, ".json", &e)
}

// Status returns what the chunk reports, or an error that is fs.ErrNotExist.
func (d Dir) Status(name string) (Status, error) {
	var s Status
	return s, d.read(name, ".status", &s)
}

func (d Dir) read(name, suffix string, into any) error {
	path, err := d.path(name, suffix)
	if err != nil {
		return err
	}
	b, err := readBounded(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// Remove takes an entry away: the chunk then lets go of the disk. The status stays. Removing what is not there is no error.
func (d Dir) Remove(name string) error { return d.remove(name, ".json") }

// RemoveStatus takes away what is left of a disk that has been released.
func (d Dir) RemoveStatus(name string) error { return d.remove(name, ".status") }

func (d Dir) remove(name, suffix string) error {
	path, err := d.path(name, suffix)
	if err != nil {
		return err
	}
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove disk entry: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// WriteFile replaces a file durably: temporary file, sync, rename, sync of the directory. Missing directories are made.
func WriteFile(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The leading dot keeps it out of what a watcher of *.json looks at.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if _, err := f.Write(content); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err == nil && len(b) > fileBytesMax {
		err = fmt.Errorf("%s is larger than %d bytes", path, fileBytesMax)
	}
	return b, err
}
