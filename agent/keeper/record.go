package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/iomesh/iomesh/agent/signature"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// phase is how far a claim is; see the package's drawing.
type phase string

const (
	preparing phase = "Preparing"
	prepared  phase = "Prepared"
	releasing phase = "Releasing"
	erased    phase = "Erased"
	retained  phase = "Retained"
)

// recordVersion of the file. A newer one is refused: its phases are not known here.
const recordVersion = 1

// record is what survives a kill.
type record struct {
	Version   int            `json:"version"`
	Name      string         `json:"name"`
	ObjectUID string         `json:"objectUID"` // of the BlockDevice in which the claim was seen
	Phase     phase          `json:"phase"`
	Claim     v1alpha1.Claim `json:"claim"`
	// Signatures are what may be erased while Preparing.
	Signatures []signature.Found `json:"signatures,omitempty"`
	// HandedOver: the entry has been (or is about to be) written, so the chunk may have the device open.
	HandedOver bool `json:"handedOver,omitempty"`
	// Format: the chunk has not reported a disk on this device yet.
	Format bool   `json:"format,omitempty"`
	DiskID string `json:"diskID,omitempty"` // once the chunk has reported it
}

func (k *Keeper) recordPath(name string) string {
	return filepath.Join(k.opts.StateDir, "claims", name+".json")
}

// load returns the record of a claim, nil if there is none.
func (k *Keeper) load(name string) (*record, error) {
	b, err := os.ReadFile(k.recordPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read claim record: %w", err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("decode claim record %s: %w", k.recordPath(name), err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("claim record %s has version %d; this agent knows %d: was the agent rolled back?", k.recordPath(name), r.Version, recordVersion)
	}
	return &r, nil
}

func (k *Keeper) save(r *record) error {
	if err := k.step("save " + string(r.Phase)); err != nil {
		return err
	}
	r.Version = recordVersion
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode claim record: %w", err)
	}
	if err := replace(k.recordPath(r.Name), append(b, '\n')); err != nil {
		return fmt.Errorf("write claim record: %w", err)
	}
	return nil
}

func (k *Keeper) forget(name string) error {
	if err := k.step("forget"); err != nil {
		return err
	}
	if err := os.Remove(k.recordPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove claim record: %w", err)
	}
	return nil
}

// Known returns the names of all devices with a record, also of those that are gone from the machine.
func (k *Keeper) Known() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(k.opts.StateDir, "claims"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list claim records: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	return names, nil
}

// replace replaces a file durably: temporary file, sync, rename, sync of the directory.
func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
