package prepare

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/agent/host"
)

// machine is a made-up host: its files below a directory, and programs that change them as the real ones would.
type machine struct {
	t     *testing.T
	dir   string
	units map[string]*unitState
	// inForce is what multipathd has read.
	inForce string
	ran     []string // commands that change something
	broken  map[string]error
	// killAt is the number of changes before which the run dies; negative for never.
	killAt, changes int
	looks           int
	flushed         []string // names of the files, in the order of their flushes
}

// killed is what a run that dies panics with: nothing of it goes on, not even what follows in the same function.
type killed struct{}

const release = "6.1.0-13-amd64"

// newMachine is a bare Debian with the packages installed and multipathd running.
func newMachine(t *testing.T) *machine {
	m := &machine{t: t, dir: t.TempDir(), killAt: -1, broken: map[string]error{}, units: map[string]*unitState{
		"iscsid.socket":  {Load: "loaded", File: "disabled", Active: "inactive"},
		"iscsid.service": {Load: "loaded", File: "disabled", Active: "inactive"},
	}}
	m.file("proc/sys/kernel/osrelease", release+"\n")
	m.file("proc/1/root/lib/modules/"+release+"/modules.dep", "kernel/drivers/scsi/iscsi_tcp.ko.xz: kernel/drivers/scsi/libiscsi.ko.xz\n")
	m.file("proc/1/root/etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n")
	m.file("proc/1/root/etc/modules-load.d/other.conf", "# iscsi_tcp\nloop\n")
	m.file("proc/1/root/etc/multipath.conf", "defaults {\n\tuser_friendly_names yes\n}\nblacklist_exceptions {\n\tdevice {\n\t\tvendor \"IOMESH\"\n\t}\n}\n")
	m.mkdir("sys/module")
	for _, p := range []string{"usr/sbin/iscsiadm", "usr/sbin/systemctl", "usr/sbin/multipathd", "usr/bin/kmod-of-a-test"} {
		m.file("proc/1/root/"+p, "")
	}
	// Links as Debian has them: absolute, through a directory that is a link itself, and dangling as seen from outside of the machine.
	m.link("proc/1/root/bin", "/usr/bin")
	m.link("proc/1/root/usr/sbin/modprobe", "/bin/kmod-of-a-test")
	m.link("proc/1/root/usr/sbin/rmmod", "../../bin/kmod-of-a-test")
	m.process("300", "multipathd")
	m.inForce = m.multipathConfig()
	return m
}

func (m *machine) mkdir(name string) {
	if err := os.MkdirAll(filepath.Join(m.dir, name), 0o755); err != nil {
		m.t.Fatal(err)
	}
}
func (m *machine) file(name, content string) {
	m.mkdir(filepath.Dir(name))
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(content), 0o755); err != nil {
		m.t.Fatal(err)
	}
}
func (m *machine) link(name, to string) {
	if err := os.Symlink(to, filepath.Join(m.dir, name)); err != nil {
		m.t.Fatal(err)
	}
}
func (m *machine) etc(name, content string) { m.file("proc/1/root/etc/"+name, content) }
func (m *machine) read(name string) string {
	b, err := os.ReadFile(filepath.Join(m.dir, name))
	if err != nil {
		return ""
	}
	return string(b)
}
func (m *machine) remove(name string) {
	if err := os.RemoveAll(filepath.Join(m.dir, name)); err != nil {
		m.t.Fatal(err)
	}
}
func (m *machine) process(pid, comm string) { m.file("proc/"+pid+"/comm", comm+"\n") }
func (m *machine) session(n, target string) {
	m.file("sys/class/iscsi_session/session"+n+"/targetname", target+"\n")
	m.file("sys/module/iscsi_tcp/refcnt", "1\n")
}

func (m *machine) host() host.Machine {
	return host.Machine{ProcDir: filepath.Join(m.dir, "proc"), SysDir: filepath.Join(m.dir, "sys"), DevDir: "/dev"}
}

func (m *machine) preparer() *Preparer {
	p := New(Options{Machine: m.host(), StateDir: filepath.Join(m.dir, "state"), Runner: m,
		Wait: func(context.Context, time.Duration) error { m.looks++; return nil }})
	p.flush = func(f *os.File) error { m.flushed = append(m.flushed, filepath.Clean(f.Name())); return nil } // there are no power failures here, and flushes take time
	p.before = func(string) {
		if m.changes == m.killAt {
			panic(killed{})
		}
		m.changes++
	}
	return p
}

// Run plays the machine's programs.
func (m *machine) Run(_ context.Context, argv []string) ([]byte, error) {
	if !strings.HasPrefix(argv[0], "/usr/sbin/") {
		return nil, fmt.Errorf("%s is not where the machine has it", argv[0])
	}
	line := strings.Join(append([]string{filepath.Base(argv[0])}, argv[1:]...), " ")
	if err := m.broken[line]; err != nil {
		return nil, err
	}
	name := argv[len(argv)-1]
	show := strings.HasPrefix(line, "systemctl show ") || line == "multipathd show config"
	if !show {
		m.ran = append(m.ran, line)
	}
	u := m.units[name]
	switch verb := strings.Join(strings.Fields(line)[:2], " "); {
	case line == "modprobe iscsi_tcp":
		for i, mod := range moduleChain {
			if i == 0 {
				m.file("sys/module/"+mod+"/refcnt", "0\n")
				m.mkdir("sys/module/" + mod + "/holders")
				continue
			}
			m.file("sys/module/"+mod+"/refcnt", "1\n")
			m.mkdir("sys/module/" + mod + "/holders/" + moduleChain[i-1])
		}
	case verb == "rmmod "+name:
		if m.read("sys/module/"+name+"/refcnt") != "0\n" {
			return nil, fmt.Errorf("rmmod: ERROR: Module %s is in use", name)
		}
		m.remove("sys/module/" + name)
		if i := slices.Index(moduleChain, name); i+1 < len(moduleChain) {
			m.remove("sys/module/" + moduleChain[i+1] + "/holders/" + name)
			m.file("sys/module/"+moduleChain[i+1]+"/refcnt", "0\n")
		}
	case verb == "systemctl show":
		if u == nil {
			return []byte("LoadState=not-found\nUnitFileState=\nActiveState=inactive\n"), nil
		}
		return fmt.Appendf(nil, "LoadState=%s\nUnitFileState=%s\nActiveState=%s\n", u.Load, u.File, u.Active), nil
	case verb == "systemctl enable":
		u.File = "enabled"
	case verb == "systemctl disable":
		u.File = "disabled"
	case verb == "systemctl start":
		u.Active = "active"
		m.process("400", "iscsid")
	case verb == "systemctl stop":
		u.Active = "inactive"
		if name == "iscsid.service" {
			m.remove("proc/400")
		}
	case line == "multipathd show config":
		return []byte(m.inForce), nil
	case line == "multipathd reconfigure":
		m.inForce = m.multipathConfig()
	default:
		return nil, fmt.Errorf("unexpected command %q", argv)
	}
	return nil, nil
}

func (m *machine) multipathConfig() string {
	text := m.read("proc/1/root/etc/multipath.conf")
	paths, _ := filepath.Glob(filepath.Join(m.dir, "proc/1/root/etc/multipath/conf.d/*.conf"))
	for _, p := range paths {
		text += m.read(strings.TrimPrefix(p, m.dir))
	}
	return text
}

// picture is all that can be seen of the machine, without the record.
func (m *machine) picture() string {
	var b strings.Builder
	err := filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(m.dir, path)
		if rel == "state" {
			return fs.SkipDir
		}
		fmt.Fprint(&b, rel)
		if info, err := d.Info(); err == nil && d.Type().IsRegular() {
			fmt.Fprintf(&b, " %v %q", info.Mode(), m.read(rel))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range iscsidUnits {
		if u := m.units[name]; u != nil {
			fmt.Fprintf(&b, "%s %+v\n", name, *u)
		}
	}
	fmt.Fprintf(&b, "in force %q\n", m.inForce)
	return b.String()
}

// stateFiles are the names in the state directory.
func (m *machine) stateFiles() []string {
	entries, _ := os.ReadDir(filepath.Join(m.dir, "state"))
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func (m *machine) plan(undo bool) *Plan {
	m.t.Helper()
	p, err := m.preparer().Plan(context.Background(), undo)
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// execute plans and executes.
func (m *machine) execute(undo bool) *Plan {
	m.t.Helper()
	p := m.preparer()
	plan, err := p.Plan(context.Background(), undo)
	if err != nil {
		m.t.Fatal(err)
	}
	done, err := p.Execute(context.Background(), undo, plan.ID)
	if err != nil {
		m.t.Fatal(err)
	}
	return done
}

// executeKilledAt dies before change n, and says whether it came so far.
func (m *machine) executeKilledAt(n int, undo bool) (died bool) {
	m.t.Helper()
	defer func() {
		m.killAt = -1
		switch r := recover().(type) {
		case nil:
		case killed:
			died = true
		default:
			panic(r)
		}
	}()
	m.killAt, m.changes = n, 0
	m.execute(undo)
	return false
}

// summary is a plan in few words: a line per step.
func summary(p *Plan) string {
	words := map[State]string{Done: "done", Needed: "needed", Impossible: "impossible", Failed: "failed"}
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s %s", s.ID, words[s.State])
		if s.Changed {
			b.WriteString(", changed")
		}
		if s.File != nil && s.File.Remove {
			b.WriteString(", remove " + s.File.Path)
		} else if s.File != nil {
			fmt.Fprintf(&b, ", write %s %q", s.File.Path, s.File.Content)
		}
		for _, c := range s.Commands {
			b.WriteString(", run " + strings.Join(c, " "))
		}
		for _, l := range s.Left {
			b.WriteString(", left: " + l)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
