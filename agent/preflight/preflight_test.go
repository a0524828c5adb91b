package preflight

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/agent/host"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// machine is a made-up host: files below a directory, and answers of the kernel.
type machine struct {
	t    *testing.T
	dir  string
	opts Options
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, dir: t.TempDir()}
	m.opts = Options{
		Machine: host.Machine{ProcDir: filepath.Join(m.dir, "proc"), SysDir: filepath.Join(m.dir, "sys"), DevDir: "/dev"},
		Attach:  v1alpha1.AttachISCSI, StateDir: "/var/lib/iomesh", DataCIDR: "10.1.0.0/16",
		System: &System{
			Interfaces: func() ([]host.Interface, error) {
				return []host.Interface{{Name: "eth0", MTUBytes: 1500, Address: netip.MustParseAddr("192.168.0.5")}, {Name: "eth1", MTUBytes: 9000, Address: netip.MustParseAddr("10.1.2.3")}}, nil
			},
			FreeBytes:         func(string) (uint64, error) { return 50 * gib, nil },
			ClockSynchronised: func() (bool, time.Duration, error) { return true, time.Millisecond, nil },
			FlushFile:         func(string, int) ([]time.Duration, error) { return []time.Duration{time.Millisecond}, nil },
			FlushDevice:       func(string, int) ([]time.Duration, error) { return []time.Duration{time.Millisecond}, nil },
		},
	}
	m.file("proc/sys/kernel/osrelease", "6.1.0-13-amd64\n")
	m.file("sys/module/iscsi_tcp/refcnt", "1")
	m.program("iscsiadm")
	m.process("100", "iscsid")
	m.file("proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n")
	return m
}

func (m *machine) file(name, content string) {
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		m.t.Fatal(err)
	}
}
func (m *machine) remove(name string) {
	if err := os.RemoveAll(filepath.Join(m.dir, name)); err != nil {
		m.t.Fatal(err)
	}
}
func (m *machine) program(name string)      { m.file("proc/1/root/usr/sbin/"+name, "") }
func (m *machine) process(pid, comm string) { m.file("proc/"+pid+"/comm", comm+"\n") }
func (m *machine) listens(port string, pid, comm string) {
	m.file("proc/net/tcp", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"+
		"   0: 00000000:"+port+" 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0\n")
	m.process(pid, comm)
	if err := os.MkdirAll(filepath.Join(m.dir, "proc", pid, "fd"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink("socket:[4711]", filepath.Join(m.dir, "proc", pid, "fd/3")); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) find(id string) Finding {
	m.t.Helper()
	for _, f := range Run(context.Background(), m.opts) {
		if f.ID == id {
			return f
		}
	}
	m.t.Fatalf("no finding %q", id)
	return Finding{}
}

func TestAGoodMachineHasNoFailures(t *testing.T) {
	m := newMachine(t)
	for _, f := range Run(context.Background(), m.opts) {
		if f.Status != OK && f.ID != "fuse" && f.ID != "loop" {
			t.Errorf("%+v", f)
		}
	}
}

func TestPlantedFaultsAreFoundWithTheirFix(t *testing.T) {
	for _, c := range []struct {
		name   string
		plant  func(*machine)
		id     string
		status Status
		fix    string
	}{
		{"an old kernel", func(m *machine) { m.file("proc/sys/kernel/osrelease", "3.10.0-1160.el7\n") }, "kernel", Failed, "4.18"},
		{"a kernel that says nothing", func(m *machine) { m.remove("proc/sys") }, "kernel", Unknown, ""},
		{"iscsi_tcp is not loaded", func(m *machine) {
			m.remove("sys/module")
			m.file("proc/1/root/lib/modules/6.1.0-13-amd64/modules.dep", "kernel/drivers/scsi/iscsi_tcp.ko.xz: kernel/drivers/scsi/libiscsi.ko.xz\n")
		}, "iscsi-module", Failed, "modprobe iscsi_tcp"},
		{"iscsi_tcp is not there", func(m *machine) { m.remove("sys/module") }, "iscsi-module", Failed, "spec.attach"},
		{"iscsi_tcp is not there and not needed", func(m *machine) { m.remove("sys/module"); m.opts.Attach = v1alpha1.AttachUserspace }, "iscsi-module", OK, ""},
		{"open-iscsi is not installed", func(m *machine) { m.remove("proc/1/root/usr") }, "iscsid", Failed, "open-iscsi"},
		{"iscsid does not run", func(m *machine) { m.remove("proc/100") }, "iscsid", Failed, "systemctl"},
		{"multipathd would take our volumes", func(m *machine) { m.process("101", "multipathd") }, "multipath", Failed, "blacklist"},
		{"multipathd is told", func(m *machine) {
			m.process("101", "multipathd")
			m.file("proc/1/root/etc/multipath/conf.d/iomesh.conf", "blacklist {\n  device {\n    vendor \"IOMESH\"\n  }\n}\n")
		}, "multipath", OK, ""},
		{"multipathd is told on one line, which it does not read", func(m *machine) {
			m.process("101", "multipathd")
			m.file("proc/1/root/etc/multipath/conf.d/iomesh.conf", "blacklist { device { vendor \"IOMESH\" } }")
		}, "multipath", Failed, "blacklist"},
		{"a foreign program has a port", func(m *machine) { m.listens("27D9", "102", "minio") }, "ports", Failed, "stop"}, // 10201
		{"our own program has a port", func(m *machine) { m.listens("27D9", "102", "storaged") }, "ports", OK, ""},
		{"the clock is not synchronised", func(m *machine) {
			m.opts.System.ClockSynchronised = func() (bool, time.Duration, error) { return false, 0, nil }
		}, "clock", Warning, "chrony"},
		{"no address in the data network", func(m *machine) { m.opts.DataCIDR = "172.16.0.0/12" }, "data-network", Failed, "dataCIDR"},
		{"several addresses in the data network", func(m *machine) { m.opts.DataCIDR = "0.0.0.0/0" }, "data-network", Warning, "narrow"},
		{"a data network that is none", func(m *machine) { m.opts.DataCIDR = "10.1.0.0" }, "data-network", Failed, "chunk.dataCIDR"},
		{"a full disk", func(m *machine) { m.opts.System.FreeBytes = func(string) (uint64, error) { return gib, nil } }, "free-space", Failed, "20 GiB"},
		{"little space", func(m *machine) { m.opts.System.FreeBytes = func(string) (uint64, error) { return 10 * gib, nil } }, "free-space", Warning, "20 GiB"},
		{"a slow disk under the metadata", func(m *machine) {
			m.opts.System.FlushFile = func(string, int) ([]time.Duration, error) {
				return []time.Duration{time.Second, time.Second, time.Millisecond}, nil
			}
		}, "state-flush", Failed, "SSD"},
		{"a disk that cannot be measured", func(m *machine) {
			m.opts.FlushDevices = map[string]string{"bd-1": "/dev/sdb"}
			m.opts.System.FlushDevice = func(string, int) ([]time.Duration, error) { return nil, errors.New("input/output error") }
		}, "disk-flush", Unknown, ""},
		{"no memory left", func(m *machine) { m.file("proc/meminfo", "MemAvailable: 500000 kB\n") }, "memory", Warning, "1 GiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			c.plant(m)
			f := m.find(c.id)
			if f.Status != c.status || !strings.Contains(f.Fix, c.fix) || f.Evidence == "" {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestAnInterruptedExaminationSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := Run(ctx, newMachine(t).opts); len(got) != 1 || got[0].Status != Unknown {
		t.Errorf("%+v", got)
	}
}
