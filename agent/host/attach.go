package host

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Machine is where the machine's files are seen from here. Zero values mean the usual places of the agent's container.
type Machine struct {
	ProcDir string // /proc with hostPID
	SysDir  string // /sys
	DevDir  string // /dev
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// Proc is a path below the machine's /proc.
func (m Machine) Proc(parts ...string) string {
	return filepath.Join(append([]string{or(m.ProcDir, "/proc")}, parts...)...)
}

// Sys is the machine's /sys.
func (m Machine) Sys() string { return or(m.SysDir, "/sys") }

// Root is where a path of the machine itself is seen. Links in it are left to the kernel; see Resolve.
func (m Machine) Root(path string) string { return m.Proc("1", "root", path) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// KernelRelease is as `uname -r` says.
func (m Machine) KernelRelease() string {
	b, err := os.ReadFile(m.Proc("sys/kernel/osrelease"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// ModuleState says whether a kernel module is there, and the evidence.
type ModuleState string

// States of a kernel module.
const (
	ModuleLoaded   ModuleState = "loaded"   // or built in
	ModuleLoadable ModuleState = "loadable" // its file is in the machine's /lib/modules
	ModuleMissing  ModuleState = "missing"
)

// Module looks for a kernel module.
func (m Machine) Module(name string) (ModuleState, string) {
	if dir := filepath.Join(m.Sys(), "module", name); exists(dir) {
		return ModuleLoaded, dir + " exists"
	}
	release := m.KernelRelease()
	for _, base := range []string{"/lib/modules", "/usr/lib/modules"} {
		dir := m.Resolve(base + "/" + release)
		for _, list := range []struct {
			file  string
			state ModuleState
		}{{"modules.builtin", ModuleLoaded}, {"modules.dep", ModuleLoadable}} {
			b, err := os.ReadFile(filepath.Join(dir, list.file))
			if err != nil {
				continue
			}
			for _, line := range strings.Split(string(b), "\n") {
				path, _, _ := strings.Cut(line, ":")
				file := strings.ReplaceAll(filepath.Base(strings.TrimSpace(path)), "-", "_")
				if file == name+".ko" || strings.HasPrefix(file, name+".ko.") {
					return list.state, fmt.Sprintf("%s/%s/%s names it", base, release, list.file)
				}
			}
		}
	}
	return ModuleMissing, fmt.Sprintf("neither /sys/module/%s nor /lib/modules/%s has it", name, release)
}

// Process returns the id of a process of the machine with this command name, "" when none runs.
func (m Machine) Process(comm string) string {
	entries, err := os.ReadDir(m.Proc())
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if n := e.Name(); n[0] < '0' || n[0] > '9' {
			continue
		}
		b, err := os.ReadFile(m.Proc(e.Name(), "comm"))
		if err == nil && strings.TrimSpace(string(b)) == comm {
			return e.Name()
		}
	}
	return ""
}

// initialNetNS reports whether this process is in the network namespace of the kernel's own threads: only there the kernel's iSCSI
// initiator can be spoken to. Process 2 is kthreadd.
func (m Machine) initialNetNS() (bool, error) {
	mine, err := os.Readlink(m.Proc("self/ns/net"))
	if err != nil {
		return false, err
	}
	kernel, err := os.Readlink(m.Proc("2/ns/net"))
	if err != nil {
		return false, err
	}
	return mine == kernel, nil
}

// Attach decides how volumes are attached on this machine, given what the cluster wishes, and says why.
func (m Machine) Attach(wish v1alpha1.AttachMode) (v1alpha1.AttachMode, string) {
	switch wish {
	case v1alpha1.AttachISCSI, v1alpha1.AttachUserspace:
		return wish, "spec.attach demands it"
	}
	if obstacle := m.iscsiObstacle(); obstacle != "" {
		return v1alpha1.AttachUserspace, "no kernel initiator: " + obstacle
	}
	return v1alpha1.AttachISCSI, "the kernel has iscsi_tcp and the machine has iscsiadm"
}

func (m Machine) iscsiObstacle() string {
	state, evidence := m.Module("iscsi_tcp")
	if state == ModuleMissing {
		return "kernel module iscsi_tcp is missing (" + evidence + ")"
	}
	if m.Binary("iscsiadm") == "" {
		return "iscsiadm is not installed on the machine (package open-iscsi or iscsi-initiator-utils)"
	}
	initial, err := m.initialNetNS()
	if err != nil {
		return fmt.Sprintf("cannot tell the network namespace: %v", err)
	}
	if !initial {
		return "this node runs in a network namespace of its own, which the kernel's initiator does not serve"
	}
	return ""
}

// HasDevice reports whether a device node is there: "fuse", "loop-control".
func (m Machine) HasDevice(name string) bool {
	st, err := os.Stat(filepath.Join(or(m.DevDir, "/dev"), name))
	return err == nil && st.Mode()&fs.ModeDevice != 0
}
