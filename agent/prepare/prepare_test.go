package prepare

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/agent/host"
	"github.com/iomesh/iomesh/agent/preflight"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

const bare = `iscsi-module needed, write /etc/modules-load.d/iomesh.conf "# IOMesh: volumes are attached by the kernel's iSCSI initiator.\niscsi_tcp\n", run /usr/sbin/modprobe iscsi_tcp
iscsid needed, run /usr/sbin/systemctl enable iscsid.service, run /usr/sbin/systemctl start iscsid.service
multipath needed, write /etc/multipath/conf.d/iomesh.conf "# IOMesh: its volumes have one path each.\nblacklist {\n\tdevice {\n\t\tvendor \"IOMESH\"\n\t\tproduct \"VOLUME\"\n\t}\n}\n", run /usr/sbin/multipathd reconfigure
`

const ready = "iscsi-module done\niscsid done\nmultipath done\n"

func TestThePlanOfABareMachineNamesEveryChange(t *testing.T) {
	m := newMachine(t)
	before := m.picture()
	p := m.plan(false)
	if got := summary(p); got != bare {
		t.Errorf("plan:\n%s", got)
	}
	if p.Recorded || m.picture() != before || len(m.ran) > 0 || len(m.stateFiles()) > 0 {
		t.Errorf("a plan changed something: ran %v, state %v", m.ran, m.stateFiles())
	}
}

func TestAPreparedMachineIsReadyAndUndoneAsItWas(t *testing.T) {
	m := newMachine(t)
	before := m.picture()
	done := m.execute(false)
	for _, s := range done.Steps {
		if s.State != Done || !s.Changed {
			t.Errorf("%+v", s)
		}
	}
	if got := summary(m.plan(false)); got != ready {
		t.Errorf("afterwards:\n%s", got)
	}
	if !done.Recorded || !slices.Equal(m.stateFiles(), []string{recordName}) {
		t.Errorf("state %v", m.stateFiles())
	}
	for _, f := range preflight.Run(context.Background(), preflight.Options{Machine: m.host(), Attach: v1alpha1.AttachISCSI, StateDir: t.TempDir()}) {
		if slices.Contains([]string{"iscsi-module", "iscsid", "multipath"}, f.ID) && f.Status != preflight.OK {
			t.Errorf("the examination still finds %+v", f)
		}
	}
	undone := m.execute(true)
	want := []string{"multipath", "iscsid", "iscsi-module"}
	for i, s := range undone.Steps {
		if s.ID != want[i] || s.State != Done || !s.Changed || len(s.Left) > 0 {
			t.Errorf("%+v", s)
		}
	}
	if got := m.picture(); got != before {
		t.Errorf("not as it was:\n%s\nbut\n%s", before, got)
	}
	if undone.Recorded || len(m.stateFiles()) > 0 {
		t.Errorf("state %v", m.stateFiles())
	}
}

func TestMachinesInAllStates(t *testing.T) {
	const stale = "multipathd has not read its files yet"
	loaded := func(m *machine) {
		if _, err := m.Run(context.Background(), []string{"/usr/sbin/modprobe", "iscsi_tcp"}); err != nil {
			m.t.Fatal(err)
		}
		m.ran = nil
	}
	for _, c := range []struct {
		name string
		odd  func(*machine)
		step string
		want State
		say  string // in the evidence
	}{
		{"the module is built in", func(m *machine) {
			m.file("proc/1/root/lib/modules/"+release+"/modules.builtin", "kernel/drivers/scsi/iscsi_tcp.ko\n")
			m.remove("proc/1/root/lib/modules/" + release + "/modules.dep")
		}, "iscsi-module", Done, "built into"},
		{"the kernel has no such module", func(m *machine) { m.remove("proc/1/root/lib") }, "iscsi-module", Impossible, "install a kernel"},
		{"there is no modprobe", func(m *machine) { m.remove("proc/1/root/usr/sbin/modprobe") }, "iscsi-module", Impossible, "no program modprobe"},
		{"modprobe is a link to itself", func(m *machine) {
			m.remove("proc/1/root/usr/sbin/modprobe")
			m.link("proc/1/root/usr/sbin/modprobe", "modprobe")
		}, "iscsi-module", Impossible, "no program modprobe"},
		{"modprobe is a link out of the machine", func(m *machine) {
			m.remove("proc/1/root/usr/sbin/modprobe")
			m.link("proc/1/root/usr/sbin/modprobe", "../../../../../../../../../../../../../../bin/sh")
		}, "iscsi-module", Impossible, "no program modprobe"},
		{"the module is loaded, but not at each start", loaded, "iscsi-module", Needed, "nothing has it loaded"},
		{"another file has it loaded", func(m *machine) { loaded(m); m.file("proc/1/root/usr/lib/modules-load.d/x.conf", "iscsi-tcp\n") }, "iscsi-module", Done, "x.conf"},
		{"another file would, and is hidden by one in /etc", func(m *machine) {
			loaded(m)
			m.file("proc/1/root/usr/lib/modules-load.d/x.conf", "iscsi_tcp\n")
			m.etc("modules-load.d/x.conf", "")
		}, "iscsi-module", Needed, ""},
		{"a directory is where the file should be", func(m *machine) { m.mkdir("proc/1/root/etc/modules-load.d/iomesh.conf") }, "iscsi-module", Impossible, "directory"},
		{"a link out of the machine is where the file should be", func(m *machine) {
			m.link("proc/1/root/etc/modules-load.d/iomesh.conf", "/dev/null")
		}, "iscsi-module", Impossible, "symbolic link"},
		{"open-iscsi is not installed on Debian", func(m *machine) { m.remove("proc/1/root/usr/sbin/iscsiadm") }, "iscsid", Impossible, "apt-get install open-iscsi"},
		{"it is not installed on Rocky", func(m *machine) {
			m.remove("proc/1/root/usr/sbin/iscsiadm")
			m.etc("os-release", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n")
		}, "iscsid", Impossible, "iscsi-initiator-utils"},
		{"it is not installed on something unheard of", func(m *machine) {
			m.remove("proc/1/root/usr/sbin/iscsiadm")
			m.etc("os-release", "ID=plan9\n")
		}, "iscsid", Impossible, "plan9"},
		{"it is not installed, and the machine has no name", func(m *machine) {
			m.remove("proc/1/root/usr/sbin/iscsiadm")
			m.remove("proc/1/root/etc/os-release")
		}, "iscsid", Impossible, "open-iscsi"},
		{"there is no systemd", func(m *machine) { m.remove("proc/1/root/usr/sbin/systemctl") }, "iscsid", Impossible, "no program systemctl"},
		{"there is no systemd and iscsid runs", func(m *machine) { m.remove("proc/1/root/usr/sbin/systemctl"); m.process("401", "iscsid") }, "iscsid", Done, "process 401"},
		{"systemd does not answer", func(m *machine) {
			m.broken["systemctl show --property=LoadState --property=UnitFileState --property=ActiveState iscsid.service"] = errors.New("no bus")
		}, "iscsid", Impossible, "no bus"},
		{"the unit is masked", func(m *machine) {
			m.units["iscsid.service"] = &unitState{Load: "masked", File: "masked", Active: "inactive"}
		}, "iscsid", Impossible, "masked"},
		{"the unit is gone", func(m *machine) { delete(m.units, "iscsid.service") }, "iscsid", Impossible, "not-found"},
		{"the socket is enabled and the daemon runs", func(m *machine) { m.units["iscsid.socket"].File = "enabled"; m.process("401", "iscsid") }, "iscsid", Done, "iscsid.socket is enabled"},
		{"the daemon runs and is not enabled", func(m *machine) { m.process("401", "iscsid") }, "iscsid", Needed, "not started at each start"},
		{"multipathd does not run", func(m *machine) { m.remove("proc/300") }, "multipath", Done, "does not run"},
		{stale, func(m *machine) { m.etc("multipath/conf.d/own.conf", multipathText) }, "multipath", Needed, "has not read"},
		{"somebody else's file names us", func(m *machine) { m.etc("multipath/conf.d/own.conf", multipathText) }, "multipath", Done, "names IOMESH"},
		{"a blacklist on one line, which multipathd does not read", func(m *machine) { m.etc("multipath.conf", `blacklist { device { vendor "IOMESH" } }`) }, "multipath", Needed, ""},
		{"multipathd reads another directory", func(m *machine) { m.etc("multipath.conf", "defaults {\n\tconfig_dir \"/opt/mp\"\n}\n") }, "multipath", Impossible, "/opt/mp"},
		{"multipathd does not answer", func(m *machine) { m.broken["multipathd show config"] = errors.New("timeout") }, "multipath", Impossible, "timeout"},
		{"multipathd is not the machine's own", func(m *machine) { m.remove("proc/1/root/usr/sbin/multipathd") }, "multipath", Impossible, "no program multipathd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			c.odd(m)
			old := m.inForce
			m.inForce = m.multipathConfig()
			before := m.picture() // what is taken back is what the files said, not what the daemon remembered
			if c.name == stale {
				m.inForce = old
			}
			for _, s := range m.plan(false).Steps {
				if s.ID == c.step && (s.State != c.want || !strings.Contains(s.Evidence, c.say) || s.Evidence == "") {
					t.Errorf("%+v", s)
				}
				if s.State != Needed && (s.File != nil || len(s.Commands) > 0) {
					t.Errorf("%s is not needed and would change something: %+v", s.ID, s)
				}
			}
			// What can be done is done whatever else cannot, and all of it can be taken back.
			for _, s := range m.execute(false).Steps {
				if s.State == Failed || s.State == Needed {
					t.Errorf("%+v", s)
				}
			}
			for _, s := range m.execute(true).Steps {
				if s.State != Done || len(s.Left) > 0 {
					t.Errorf("%+v", s)
				}
			}
			if got := m.picture(); got != before {
				t.Errorf("not as it was:\n%s\nbut\n%s", before, got)
			}
		})
	}
}

func TestTextOfOthersInOurFilesStays(t *testing.T) {
	m := newMachine(t)
	m.etc("modules-load.d/iomesh.conf", "loop\nfuse") // without an end of line
	if err := os.Chmod(filepath.Join(m.dir, "proc/1/root/etc/modules-load.d/iomesh.conf"), 0o640); err != nil {
		t.Fatal(err)
	}
	before := m.picture()
	m.execute(false)
	if got := m.read("proc/1/root/etc/modules-load.d/iomesh.conf"); got != "loop\nfuse\n"+modulesLine {
		t.Errorf("%q", got)
	}
	m.execute(true)
	if got := m.picture(); got != before {
		t.Errorf("not as it was:\n%s\nbut\n%s", before, got)
	}
}

func TestWhatOthersChangedSinceIsLeftAloneAndReported(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*machine)
		step   string
		left   string
	}{
		{"the file for modules was edited", func(m *machine) { m.etc("modules-load.d/iomesh.conf", "iscsi_tcp\nloop\n") }, "iscsi-module", "changed since"},
		{"the file for multipathd was edited", func(m *machine) {
			m.etc("multipath/conf.d/iomesh.conf", multipathText+"# mine\n")
			m.inForce = m.multipathConfig()
		}, "multipath", "changed since"},
		{"the file became a directory", func(m *machine) {
			m.remove("proc/1/root/etc/modules-load.d/iomesh.conf")
			m.mkdir("proc/1/root/etc/modules-load.d/iomesh.conf")
		}, "iscsi-module", "directory"},
		{"the unit was masked", func(m *machine) {
			m.units["iscsid.service"] = &unitState{Load: "masked", File: "masked", Active: "active"}
		}, "iscsid", "masked"},
		{"a session to other storage needs module and daemon", func(m *machine) { m.session("7", "iqn.2001-05.com.equallogic:x") }, "iscsi-module", "iscsi_tcp stays loaded"},
		{"a session to other storage needs the daemon", func(m *machine) { m.session("7", "iqn.2001-05.com.equallogic:x") }, "iscsid", "goes on"},
		{"another driver uses the library", func(m *machine) {
			m.mkdir("sys/module/libiscsi/holders/qedi")
			m.file("sys/module/libiscsi/refcnt", "2\n")
		}, "iscsi-module", "qedi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			m.execute(false)
			c.change(m)
			file := m.read("proc/1/root/etc/multipath/conf.d/iomesh.conf") + m.read("proc/1/root/etc/modules-load.d/iomesh.conf")
			done := m.execute(true)
			for _, s := range done.Steps {
				if s.State != Done {
					t.Errorf("%+v", s)
				}
				if s.ID == c.step && !strings.Contains(strings.Join(s.Left, ";"), c.left) {
					t.Errorf("what was left: %q", s.Left)
				}
			}
			if strings.Contains(c.name, "edited") {
				if now := m.read("proc/1/root/etc/multipath/conf.d/iomesh.conf") + m.read("proc/1/root/etc/modules-load.d/iomesh.conf"); now == "" || !strings.Contains(file, now) {
					t.Errorf("somebody's text was changed: %q", now)
				}
			}
			if done.Recorded || len(m.stateFiles()) > 0 {
				t.Errorf("the record is still there")
			}
		})
	}
}

func TestPreparingAgainAfterSomebodyElsesChangeKeepsTheirs(t *testing.T) {
	m := newMachine(t)
	m.execute(false)
	m.etc("modules-load.d/iomesh.conf", "loop\n") // our line is gone
	m.execute(false)
	if got := m.read("proc/1/root/etc/modules-load.d/iomesh.conf"); got != "loop\n"+modulesLine {
		t.Errorf("%q", got)
	}
	m.execute(true)
	if got := m.read("proc/1/root/etc/modules-load.d/iomesh.conf"); got != "loop\n" {
		t.Errorf("after undo %q", got)
	}
}

func TestOnlyWhatWasMissingIsTakenAway(t *testing.T) {
	m := newMachine(t)
	m.units["iscsid.socket"].Active = "active"
	for _, mod := range moduleChain[2:] { // somebody uses the library
		m.file("sys/module/"+mod+"/refcnt", "0\n")
	}
	m.execute(false)
	m.execute(true)
	for i, mod := range moduleChain {
		if _, err := os.Stat(filepath.Join(m.dir, "sys/module", mod)); (err == nil) != (i >= 2) {
			t.Errorf("module %s: %v", mod, err)
		}
	}
	if m.units["iscsid.socket"].Active != "active" || m.units["iscsid.service"].Active != "inactive" {
		t.Errorf("units %+v %+v", m.units["iscsid.socket"], m.units["iscsid.service"])
	}
}

func TestNothingIsTakenBackWhileVolumesAreAttached(t *testing.T) {
	m := newMachine(t)
	m.execute(false)
	m.session("1", "iqn.2016-02.com.iomesh:11111111-0000-0000-0000-000000000000")
	if _, err := m.preparer().Plan(context.Background(), true); !errors.Is(err, ErrInUse) {
		t.Errorf("plan: %v", err)
	}
	m.remove("sys/class/iscsi_session")
	p := m.plan(true)
	m.session("1", "iqn.2016-02.com.iomesh:11111111-0000-0000-0000-000000000000")
	before := m.picture()
	if _, err := m.preparer().Execute(context.Background(), true, p.ID); !errors.Is(err, ErrInUse) || m.picture() != before {
		t.Errorf("execute: %v", err)
	}
}

func TestAnotherPlanThanTheReviewedOneIsRefused(t *testing.T) {
	m := newMachine(t)
	p := m.plan(false)
	m.etc("multipath/conf.d/iomesh.conf", "# somebody was here\n")
	before := m.picture()
	for _, id := range []string{p.ID, "", strings.Repeat("0", 64)} {
		if _, err := m.preparer().Execute(context.Background(), false, id); !errors.Is(err, ErrChanged) {
			t.Errorf("%q: error %v", id, err)
		}
	}
	if _, err := m.preparer().Execute(context.Background(), true, p.ID); !errors.Is(err, ErrChanged) {
		t.Errorf("the plan to prepare was taken for one to undo: %v", err)
	}
	if m.picture() != before {
		t.Error("something was changed")
	}
}

func TestTheRecordIsStableBeforeTheFirstChange(t *testing.T) {
	m := newMachine(t)
	p := m.preparer()
	plan, err := p.Plan(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(m.dir, "state")
	p.before = func(what string) {
		if strings.Contains(what, "prepared.json") {
			return
		}
		want := []string{filepath.Join(state, ".prepared.json.new"), state}
		if len(m.flushed) < 2 || !slices.Equal(m.flushed[:2], want) {
			t.Errorf("before %q were flushed %q", what, m.flushed)
		}
	}
	if _, err := p.Execute(context.Background(), false, plan.ID); err != nil {
		t.Fatal(err)
	}
}

func TestAFailedStepIsReportedAndTheOthersAreDone(t *testing.T) {
	m := newMachine(t)
	before := m.picture()
	m.broken["systemctl start iscsid.service"] = errors.New("Job for iscsid.service failed")
	p := m.execute(false)
	if s := p.Steps[1]; s.State != Failed || !strings.Contains(s.Evidence, "Job for") {
		t.Errorf("%+v", s)
	}
	if p.Steps[0].State != Done || p.Steps[2].State != Done {
		t.Errorf("%s", summary(p))
	}
	for _, s := range m.execute(true).Steps {
		if s.State != Done {
			t.Errorf("%+v", s)
		}
	}
	if got := m.picture(); got != before {
		t.Errorf("not as it was:\n%s", got)
	}
}

func TestWithoutARecordOnDiskNothingIsChanged(t *testing.T) {
	m := newMachine(t)
	p := m.plan(false)
	m.mkdir("state/.prepared.json.new/x") // where the record would be made
	before := m.picture()
	got, err := m.preparer().Execute(context.Background(), false, p.ID)
	if err != nil || got.Steps[0].State != Failed || got.Steps[1].State != Needed || m.picture() != before {
		t.Errorf("%v\n%s", err, summary(got))
	}
}

func TestAFailedUndoKeepsTheRecord(t *testing.T) {
	m := newMachine(t)
	before := m.picture()
	m.execute(false)
	m.broken["systemctl disable iscsid.service"] = errors.New("read-only file system")
	if p := m.execute(true); !p.Recorded || p.Steps[1].State != Failed {
		t.Errorf("%s", summary(p))
	}
	delete(m.broken, "systemctl disable iscsid.service")
	if p := m.execute(true); p.Recorded || m.picture() != before {
		t.Errorf("%s", summary(p))
	}
}

func TestACommandWithoutEffectIsAFailure(t *testing.T) {
	m := newMachine(t)
	m.units["iscsid.service"].File = "enabled"
	p := New(Options{Machine: m.host(), StateDir: filepath.Join(m.dir, "state"), Runner: deaf{m}, Wait: func(context.Context, time.Duration) error { m.looks++; return nil }})
	plan, err := p.Plan(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	if plan, err = p.Execute(context.Background(), false, plan.ID); err != nil || plan.Steps[1].State != Failed || !strings.Contains(plan.Steps[1].Evidence, "no effect") {
		t.Errorf("%v\n%s", err, summary(plan))
	}
	if m.looks != looksMax-1 {
		t.Errorf("waited %d times", m.looks)
	}
}

// deaf starts nothing and says that it did.
type deaf struct{ *machine }

func (d deaf) Run(ctx context.Context, argv []string) ([]byte, error) {
	if len(argv) > 1 && argv[1] == "start" {
		return nil, nil
	}
	return d.machine.Run(ctx, argv)
}

func TestAMachineThatCannotBeSeenIsAnError(t *testing.T) {
	p := New(Options{Machine: host.Machine{ProcDir: filepath.Join(t.TempDir(), "proc")}, StateDir: t.TempDir()})
	if _, err := p.Plan(context.Background(), false); err == nil || !strings.Contains(err.Error(), "hostPID") {
		t.Errorf("error %v", err)
	}
}

func TestAnInterruptedRunStopsBetweenSteps(t *testing.T) {
	m := newMachine(t)
	p := m.plan(false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := m.preparer().Execute(ctx, false, p.ID); !errors.Is(err, context.Canceled) || len(m.ran) > 0 {
		t.Errorf("error %v, ran %v", err, m.ran)
	}
}
