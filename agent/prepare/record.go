package prepare

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// recordName is the record's file in the state directory, and recordVersion the one version known here.
const (
	recordName    = "prepared.json"
	recordVersion = 1
	recordMax     = 8 << 20 // bytes
)

// record is what the machine was like; see the package documentation.
type record struct {
	Version int      `json:"version"`
	Entries []*entry `json:"entries"`
}

type entry struct {
	Step    string    `json:"step"`
	File    *fileNote `json:"file,omitempty"`
	Modules []string  `json:"modules,omitempty"`
	Units   []unit    `json:"units,omitempty"`
}

// fileNote is about the one file of a step.
type fileNote struct {
	Before *content `json:"before,omitempty"` // nil: there was none
	Wrote  [][]byte `json:"wrote,omitempty"`
	Made   []string `json:"made,omitempty"` // directories, outermost first, relative to the machine's root
}

// content of a file and to whom it belongs.
type content struct {
	Bytes []byte      `json:"bytes"`
	Mode  fs.FileMode `json:"mode"`
	UID   int         `json:"uid"`
	GID   int         `json:"gid"`
}

// unit of systemd, as it was.
type unit struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
	Active  bool   `json:"active"`
}

// entry returns that of a step, nil if there is none. The record may be nil.
func (r *record) entry(step string) *entry {
	if r == nil {
		return nil
	}
	for _, e := range r.Entries {
		if e.Step == step {
			return e
		}
	}
	return nil
}

// loadRecord returns nil where there is no record.
func loadRecord(state *os.Root) (*record, error) {
	b, err := readMax(state, recordName, recordMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeRecord(b)
}

// decodeRecord refuses a record that this agent did not write or does not understand: it says what is to be done to the machine.
func decodeRecord(b []byte) (*record, error) {
	var r record
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("has version %d and this agent knows %d: was the agent rolled back? use the newer one", r.Version, recordVersion)
	}
	for i, e := range r.Entries {
		if e == nil || r.entry(e.Step) != e {
			return nil, fmt.Errorf("entry %d is empty or there twice", i)
		}
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("entry %d (%q): %w", i, e.Step, err)
		}
	}
	return &r, nil
}

// check refuses what no step would have written.
func (e *entry) check() error {
	file, modules, units := "", []string(nil), []string(nil)
	switch e.Step {
	case moduleStep{}.id():
		file, modules = modulesFile, moduleChain
	case iscsidStep{}.id():
		units = iscsidUnits
	case multipathStep{}.id():
		file = multipathFile
	default:
		return errors.New("there is no such step")
	}
	for _, m := range e.Modules {
		if !slices.Contains(modules, m) {
			return fmt.Errorf("module %q is none of its", m)
		}
	}
	for _, u := range e.Units {
		if !slices.Contains(units, u.Name) {
			return fmt.Errorf("unit %q is none of its", u.Name)
		}
	}
	if (e.File != nil) != (file != "") {
		return errors.New("what was there instead of its file is missing, or too much")
	}
	if e.File == nil {
		return nil
	}
	if c := e.File.Before; c != nil && c.Mode&^fs.ModePerm != 0 {
		return fmt.Errorf("file mode %o", c.Mode)
	}
	for _, dir := range e.File.Made {
		if path.Clean(dir) != dir || !strings.HasPrefix(file, "/"+dir+"/") {
			return fmt.Errorf("directory %q does not hold its file", dir)
		}
	}
	return nil
}

// save puts an entry into the record, which is stable on disk afterwards.
func (r *run) save(e *entry) error {
	next := &record{Version: recordVersion}
	if r.rec != nil {
		next.Entries = slices.Clone(r.rec.Entries)
	}
	if i := slices.IndexFunc(next.Entries, func(x *entry) bool { return x.Step == e.Step }); i >= 0 {
		next.Entries[i] = e
	} else {
		next.Entries = append(next.Entries, e)
	}
	b, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if err := r.replace(r.state, recordName, &content{Bytes: append(b, '\n'), Mode: 0o600, UID: -1, GID: -1}); err != nil {
		return err
	}
	r.rec = next
	return nil
}

// forget deletes the record: everything is as it was, or reported.
func (r *run) forget() error {
	for _, name := range []string{temporary(recordName), recordName} {
		if err := r.remove(r.state, name); err != nil {
			return fmt.Errorf("delete the record: %w", err)
		}
	}
	r.rec = nil
	return nil
}
