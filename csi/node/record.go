package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/node/mode"
)

// record is what this node knows of a staged volume. No secret is in it.
type record struct {
	Version  int       `json:"version"`
	VolumeID string    `json:"volumeID"`
	Mode     mode.Mode `json:"mode"`
	IQN      string    `json:"iqn"`
	Block    bool      `json:"block"`
	FSType   string    `json:"fstype,omitempty"`
	ReadOnly bool      `json:"readOnly,omitempty"`
	// Staging is the staging path.
	Staging string `json:"staging"`
	// Formatting is set before a format begins and cleared after it.
	Formatting bool `json:"formatting,omitempty"`
	// Published are the target paths that may be mounted.
	Published []string `json:"published,omitempty"`
}

const (
	recordVersion  = 1
	recordSuffix   = ".json"
	recordBytesMax = 256 << 10
)

func (r *record) publish(target string) {
	if !slices.Contains(r.Published, target) {
		r.Published = append(r.Published, target)
	}
}

func (r *record) unpublish(target string) {
	r.Published = slices.DeleteFunc(r.Published, func(s string) bool { return s == target })
}

// records is the directory of records. Calls for one volume are serialised by package rpc.
type records struct{ dir string }

func (r records) path(volume string) string { return filepath.Join(r.dir, volume+recordSuffix) }

func (r records) save(rec record) error {
	rec.Version = recordVersion
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record of volume %s: %w", rec.VolumeID, err)
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("write record of volume %s: %w", rec.VolumeID, err)
	}
	temp := r.path(rec.VolumeID) + ".new"
	if err := os.WriteFile(temp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write record of volume %s: %w", rec.VolumeID, err)
	}
	if err := os.Rename(temp, r.path(rec.VolumeID)); err != nil {
		return fmt.Errorf("write record of volume %s: %w", rec.VolumeID, err)
	}
	return nil
}

// load returns the record of a volume, or false.
func (r records) load(volume string) (record, bool, error) {
	path := r.path(volume)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, fmt.Errorf("read record of volume %s: %w", volume, err)
	}
	if info.Size() > recordBytesMax {
		return record{}, false, fmt.Errorf("record %s has %d bytes, more than a record can have; remove it", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return record{}, false, fmt.Errorf("read record of volume %s: %w", volume, err)
	}
	rec, err := decodeRecord(b)
	if err == nil && rec.VolumeID != volume {
		err = fmt.Errorf("it is about volume %q", rec.VolumeID)
	}
	if err != nil {
		return record{}, false, fmt.Errorf("record %s: %w; remove it after unmounting what it stands for", path, err)
	}
	return rec, true, nil
}

func decodeRecord(b []byte) (record, error) {
	var rec record
	if err := json.Unmarshal(b, &rec); err != nil {
		return record{}, fmt.Errorf("not a record: %w", err)
	}
	switch {
	case rec.Version != recordVersion:
		return record{}, fmt.Errorf("version %d is not known here", rec.Version)
	case !volumeID(rec.VolumeID):
		return record{}, fmt.Errorf("volume id %q is not valid", rec.VolumeID)
	case rec.Mode != mode.ISCSI && rec.Mode != mode.Userspace:
		return record{}, fmt.Errorf("mode %q is not known", rec.Mode)
	}
	for _, p := range append(slices.Clone(rec.Published), rec.Staging) {
		if p != "" && !filepath.IsAbs(p) {
			return record{}, fmt.Errorf("path %q is not absolute", p)
		}
	}
	return rec, nil
}

func (r records) remove(volume string) error {
	if err := os.Remove(r.path(volume)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record of volume %s: %w", volume, err)
	}
	return nil
}

// volumes lists the volumes that have a record.
func (r records) volumes() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var out []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), recordSuffix); ok && volumeID(id) {
			out = append(out, id)
		}
	}
	return out, nil
}

// volumeID says whether an id is one of the block service's, and so safe as a file name.
func volumeID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

// checkPath accepts the absolute paths that Kubernetes hands over.
func checkPath(what, path string) error {
	switch {
	case path == "":
		return code.New(code.Invalid, "%s is missing", what)
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/":
		return code.New(code.Invalid, "%s %q: want a clean absolute path", what, path)
	}
	return nil
}
