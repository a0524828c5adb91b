package prepare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/iomesh/iomesh/agent/host"
)

// modulesFile makes the machine load modules at each start, see modules-load.d(5).
const modulesFile = "/etc/modules-load.d/iomesh.conf"

// modulesLine is what we put there.
const modulesLine = "# IOMesh: volumes are attached by the kernel's iSCSI initiator.\niscsi_tcp\n"

// moduleChain is iscsi_tcp and what it stands on, in the order in which they can be unloaded. Loading the first loads the others.
var moduleChain = []string{"iscsi_tcp", "libiscsi_tcp", "libiscsi", "scsi_transport_iscsi"}

// moduleStep loads iscsi_tcp, now and at each start.
type moduleStep struct{}

func (moduleStep) id() string { return "iscsi-module" }

// wantModules is the content of modulesFile on top of what is there.
func wantModules(base []byte) []byte { return onNewLine(base, modulesLine) }

// onNewLine appends text to a file, on a line of its own.
func onNewLine(base []byte, text string) []byte {
	out := slices.Clone(base)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return append(out, text...)
}

// loadedAtStart says which file makes the machine load the module, "" if none does. As modules-load.d(5): a file in /etc hides those of the
// same name elsewhere.
func (r *run) loadedAtStart() string {
	seen := map[string]bool{}
	for _, dir := range []string{"/etc/modules-load.d", "/run/modules-load.d", "/usr/local/lib/modules-load.d", "/usr/lib/modules-load.d", "/lib/modules-load.d"} {
		for name, text := range r.configs(dir) {
			if seen[name] {
				continue
			}
			seen[name] = true
			for line := range strings.Lines(text) {
				if strings.ReplaceAll(strings.TrimSpace(line), "-", "_") == moduleChain[0] {
					return filepath.Join(dir, name)
				}
			}
		}
	}
	return ""
}

func (moduleStep) look(_ context.Context, r *run, e *entry) (Step, error) {
	state, evidence := r.opts.Machine.Module(moduleChain[0])
	switch {
	case state == host.ModuleMissing:
		return Step{State: Impossible, Evidence: evidence + "; install a kernel that has it (some distributions put it into a package of extra modules), or attach in user space"}, nil
	case state == host.ModuleLoaded && !r.isLoaded(moduleChain[0]):
		return Step{State: Done, Evidence: "built into the kernel: " + evidence}, nil
	}
	st := Step{State: Done, Evidence: evidence}
	if file := r.loadedAtStart(); file != "" {
		st.Evidence += "; " + file + " has it loaded at each start"
	} else {
		now, err := r.present(modulesFile)
		if err != nil {
			return Step{State: Impossible, Evidence: err.Error()}, nil
		}
		st.State, st.File = Needed, &File{Path: modulesFile, Content: wantModules(e.fileNote().base(now))}
		st.Evidence += "; nothing has it loaded at each start"
	}
	if state != host.ModuleLoaded {
		argv, err := r.command("modprobe", moduleChain[0])
		if err != nil {
			return Step{State: Impossible, Evidence: evidence + "; " + err.Error()}, nil
		}
		st.State, st.Commands = Needed, [][]string{argv}
	}
	r.lookForLitter(e, modulesFile, &st)
	return st, nil
}

// fileNote of an entry that may be nil.
func (e *entry) fileNote() *fileNote {
	if e == nil {
		return nil
	}
	return e.File
}

func (r *run) isLoaded(module string) bool {
	_, err := os.Stat(filepath.Join(r.opts.Machine.Sys(), "module", module))
	return err == nil
}

func (moduleStep) note(_ context.Context, r *run, old *entry) (*entry, error) {
	file, err := r.noteFile(old.fileNote(), modulesFile, wantModules)
	if err != nil {
		return nil, err
	}
	e := &entry{File: file}
	if old != nil {
		e.Modules = old.Modules
		return e, nil
	}
	for _, m := range moduleChain {
		if r.isLoaded(m) {
			e.Modules = append(e.Modules, m)
		}
	}
	return e, nil
}

func (s moduleStep) do(ctx context.Context, r *run, e *entry) error {
	st, err := s.look(ctx, r, e)
	if err != nil {
		return err
	}
	if err := r.sweep(modulesFile); err != nil {
		return err
	}
	if st.File != nil {
		if err := r.write(e.File, modulesFile, wantModules); err != nil {
			return err
		}
	}
	return r.perform(ctx, st.Commands)
}

func (moduleStep) lookBack(_ context.Context, r *run, e *entry) (Step, error) {
	st := Step{State: Done}
	r.lookFileBack(e.File, modulesFile, &st)
	for _, m := range moduleChain {
		if slices.Contains(e.Modules, m) || !r.isLoaded(m) {
			continue
		}
		if used, err := r.moduleUsed(m, st.Commands); err != nil {
			return st, err
		} else if used != "" {
			st.Left = append(st.Left, "module "+m+" stays loaded: "+used)
			break // it uses those below it
		}
		argv, err := r.command("rmmod", m)
		if err != nil {
			st.Left = append(st.Left, fmt.Sprintf("module %s stays loaded: %v", m, err))
			break
		}
		st.State, st.Commands = Needed, append(st.Commands, argv)
	}
	return st, nil
}

// moduleUsed says who uses a module besides those modules that are unloaded before it, "" for nobody.
func (r *run) moduleUsed(module string, unloaded [][]string) (string, error) {
	dir := filepath.Join(r.opts.Machine.Sys(), "module", module)
	count, err := os.ReadFile(filepath.Join(dir, "refcnt"))
	if errors.Is(err, fs.ErrNotExist) {
		return "it cannot be unloaded", nil // built in, or a kernel without unloading
	}
	if err != nil {
		return "", err
	}
	holders, err := os.ReadDir(filepath.Join(dir, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	ours := 0
	for _, h := range holders {
		if !slices.ContainsFunc(unloaded, func(argv []string) bool { return argv[len(argv)-1] == h.Name() }) {
			return "module " + h.Name() + " uses it", nil
		}
		ours++
	}
	if strings.TrimSpace(string(count)) != fmt.Sprint(ours) {
		return "it is in use", nil
	}
	return "", nil
}

func (s moduleStep) takeBack(ctx context.Context, r *run, e *entry) error {
	if err := r.restore(e.File, modulesFile); err != nil {
		return err
	}
	st, err := s.lookBack(ctx, r, e)
	if err != nil {
		return err
	}
	return r.perform(ctx, st.Commands)
}
