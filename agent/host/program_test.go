package host

import (
	"os"
	"path/filepath"
	"testing"
)

// tree makes a machine of files ("PATH"), which can be executed, and links ("PATH -> TARGET").
func tree(t *testing.T, files map[string]string) Machine {
	t.Helper()
	proc := t.TempDir()
	for name, target := range files {
		p := filepath.Join(proc, "1/root", name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		if err == nil && target != "" {
			err = os.Symlink(target, p)
		} else if err == nil {
			err = os.WriteFile(p, []byte("content"), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Machine{ProcDir: proc, SysDir: filepath.Join(proc, "sys")}
}

func TestProgramsAreFoundAsTheMachineFindsThem(t *testing.T) {
	// A program that this process has and the machine has not: its name behind an absolute link must not lead here.
	here, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"a plain file", map[string]string{"usr/sbin/iscsiadm": ""}, "/usr/sbin/iscsiadm"},
		{"an absolute link to a file of the machine", map[string]string{"usr/sbin/iscsiadm": "/opt/open-iscsi-of-a-test/iscsiadm", "opt/open-iscsi-of-a-test/iscsiadm": ""}, "/usr/sbin/iscsiadm"},
		{"a directory that is an absolute link", map[string]string{"sbin": "/nix-of-a-test/bin", "nix-of-a-test/bin/iscsiadm": "../store/iscsiadm", "nix-of-a-test/store/iscsiadm": ""}, "/sbin/iscsiadm"},
		{"a link to a file of this process only", map[string]string{"usr/sbin/iscsiadm": here}, ""},
		{"a link out of the machine", map[string]string{"usr/sbin/iscsiadm": "../../../../../../../../../../.." + here}, ""},
		{"a link to itself", map[string]string{"usr/sbin/iscsiadm": "iscsiadm"}, ""},
		{"a link to nowhere, and a file further on", map[string]string{"usr/sbin/iscsiadm": "/none", "usr/bin/iscsiadm": ""}, "/usr/bin/iscsiadm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := tree(t, c.files).Binary("iscsiadm"); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
	if got := (Machine{ProcDir: filepath.Join(t.TempDir(), "none")}).Binary("sh"); got != "" {
		t.Errorf("a machine that is not seen has %q", got)
	}
}

func TestModulesAreFoundBehindAbsoluteLinks(t *testing.T) {
	m := tree(t, map[string]string{"lib": "/usr-of-a-test/lib", "usr-of-a-test/lib/modules/6.1/modules.dep": ""})
	write := func(p, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(m.Proc("sys/kernel/osrelease"), "6.1\n")
	write(m.Root("/usr-of-a-test/lib/modules/6.1/modules.dep"), "kernel/drivers/scsi/iscsi_tcp.ko.xz: kernel/drivers/scsi/libiscsi.ko.xz\n")
	if state, evidence := m.Module("iscsi_tcp"); state != ModuleLoadable {
		t.Errorf("%s: %s", state, evidence)
	}
}
