package preflight

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/iomesh/iomesh/agent/host"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Status of a check.
type Status int

// Results of a check. Warning: works, or is not needed now, but deserves a look.
const (
	OK Status = iota + 1
	Warning
	Failed
	Unknown
)

// Finding is the result of one check.
type Finding struct {
	ID       string
	Status   Status
	Evidence string
	Fix      string
}

// Options say what to examine.
type Options struct {
	Machine  host.Machine
	Attach   v1alpha1.AttachMode // in use, or to be used, on this node
	DataCIDR string
	StateDir string
	// FlushDevices maps names for people to device paths.
	FlushDevices map[string]string
	// System is how the kernel is asked; nil means the real one.
	System *System
}

// System is what is not a file of the machine.
type System struct {
	Interfaces func() ([]host.Interface, error)
	FreeBytes  func(dir string) (uint64, error)
	// ClockSynchronised reports whether the kernel's clock is disciplined by somebody, and its estimated error.
	ClockSynchronised func() (bool, time.Duration, error)
	// FlushFile writes and flushes a small file n times and returns how long each took.
	FlushFile func(dir string, n int) ([]time.Duration, error)
	// FlushDevice makes a device flush its cache n times, writing nothing.
	FlushDevice func(path string, n int) ([]time.Duration, error)
}

// Run makes all checks. It stops between two of them when ctx ends.
func Run(ctx context.Context, o Options) []Finding {
	if o.System == nil {
		o.System = realSystem()
	}
	var out []Finding
	for _, check := range []func(Options) []Finding{
		kernel, attachModules, iscsid, multipath, userspace, ports, clock, dataNetwork, freeSpace, stateFlush, deviceFlush, selinux, memory,
	} {
		if ctx.Err() != nil {
			return append(out, Finding{ID: "rest", Status: Unknown, Evidence: "not examined: " + ctx.Err().Error()})
		}
		out = append(out, check(o)...)
	}
	return out
}

func one(id string, s Status, evidence, fix string) []Finding {
	return []Finding{{ID: id, Status: s, Evidence: evidence, Fix: fix}}
}

// bad is Failed where the check concerns the way of attaching in use, otherwise a Warning.
func bad(needed bool) Status {
	if needed {
		return Failed
	}
	return Warning
}

// byUs begins the fixes that the plugin carries out (package prepare); what follows is the same by hand.
const byUs = "kubectl iomesh node prepare NODE; by hand: "

func kernel(o Options) []Finding {
	release := o.Machine.KernelRelease()
	major, rest, _ := strings.Cut(release, ".")
	minor, _, _ := strings.Cut(rest, ".")
	ma, err1 := strconv.Atoi(major)
	mi, err2 := strconv.Atoi(strings.TrimRight(minor, "-+abcdefghijklmnopqrstuvwxyz"))
	switch {
	case err1 != nil || err2 != nil:
		return one("kernel", Unknown, fmt.Sprintf("release %q", release), "")
	case ma < 4 || ma == 4 && mi < 18:
		return one("kernel", Failed, "Linux "+release, "use a distribution with kernel 4.18 or newer")
	}
	return one("kernel", OK, "Linux "+release, "")
}

func attachModules(o Options) []Finding {
	needed := o.Attach == v1alpha1.AttachISCSI
	state, evidence := o.Machine.Module("iscsi_tcp")
	switch state {
	case host.ModuleLoaded:
		return one("iscsi-module", OK, evidence, "")
	case host.ModuleLoadable:
		if !needed {
			return one("iscsi-module", OK, evidence+", not loaded and not needed: volumes are attached in user space", "")
		}
		return one("iscsi-module", Failed, evidence+", but it is not loaded", byUs+"modprobe iscsi_tcp; and a line iscsi_tcp in /etc/modules-load.d/iomesh.conf")
	}
	if !needed {
		return one("iscsi-module", OK, evidence+"; not needed: volumes are attached in user space", "")
	}
	return one("iscsi-module", Failed, evidence, "install a kernel with iscsi_tcp, or set spec.attach to auto or userspace")
}

func iscsid(o Options) []Finding {
	if o.Attach != v1alpha1.AttachISCSI {
		return one("iscsid", OK, "not needed: volumes are attached in user space", "")
	}
	if o.Machine.Binary("iscsiadm") == "" {
		return one("iscsid", Failed, "iscsiadm is not installed", "install the package open-iscsi (Debian) or iscsi-initiator-utils (Red Hat)")
	}
	if pid := o.Machine.Process("iscsid"); pid != "" {
		return one("iscsid", OK, "runs as process "+pid, "")
	}
	return one("iscsid", Failed, "no process iscsid", byUs+"systemctl enable --now iscsid (or iscsid.socket)")
}

// multipath: multipathd claims every SCSI disk it may, ours included, unless it is told not to.
func multipath(o Options) []Finding {
	if o.Machine.Process("multipathd") == "" {
		return one("multipath", OK, "multipathd does not run", "")
	}
	needed := o.Attach == v1alpha1.AttachISCSI
	// multipathd wants each word of a section on a line of its own; a blacklist on one line is silently without effect.
	const fix = byUs + `printf 'blacklist {\n\tdevice {\n\t\tvendor "IOMESH"\n\t\tproduct "VOLUME"\n\t}\n}\n' >/etc/multipath/conf.d/iomesh.conf; multipathd reconfigure`
	var texts []string
	paths, _ := filepath.Glob(filepath.Join(o.Machine.Resolve("/etc/multipath/conf.d"), "*.conf"))
	for _, p := range append([]string{o.Machine.Resolve("/etc/multipath.conf")}, paths...) {
		if b, err := os.ReadFile(p); err == nil {
			texts = append(texts, string(b))
		}
	}
	// Looking for the vendor inside a blacklist; multipath.conf's grammar has no other use for the name.
	blacklist, named := false, false
	for line := range strings.Lines(strings.Join(texts, "\n")) {
		line = strings.TrimSpace(line)
		blacklist = blacklist || strings.HasPrefix(line, "blacklist")
		named = named || blacklist && strings.HasPrefix(line, "vendor") && strings.Contains(line, "IOMESH")
	}
	if named {
		return one("multipath", OK, "multipathd runs and its blacklist names IOMESH", "")
	}
	return one("multipath", bad(needed), "multipathd runs and is not told to leave IOMESH volumes alone", fix)
}

func userspace(o Options) []Finding {
	needed := o.Attach == v1alpha1.AttachUserspace
	var out []Finding
	for _, d := range []struct{ id, dev, module string }{{"fuse", "fuse", "fuse"}, {"loop", "loop-control", "loop"}} {
		state, evidence := o.Machine.Module(d.module)
		switch {
		case o.Machine.HasDevice(d.dev):
			out = append(out, Finding{ID: d.id, Status: OK, Evidence: "/dev/" + d.dev + " exists"})
		case state == host.ModuleMissing:
			out = append(out, Finding{ID: d.id, Status: bad(needed), Evidence: "no /dev/" + d.dev + "; " + evidence, Fix: "use a kernel with " + d.module + ", or attach by the kernel's initiator (spec.attach: iscsi)"})
		default:
			out = append(out, Finding{ID: d.id, Status: bad(needed), Evidence: "no /dev/" + d.dev, Fix: "modprobe " + d.module + "; and a line " + d.module + " in /etc/modules-load.d/iomesh.conf"})
		}
	}
	return out
}

func clock(o Options) []Finding {
	synced, estimate, err := o.System.ClockSynchronised()
	switch {
	case err != nil:
		return one("clock", Unknown, err.Error(), "")
	case !synced:
		return one("clock", Warning, "the kernel says its clock is not synchronised", "run a time service: chrony or systemd-timesyncd")
	}
	return one("clock", OK, fmt.Sprintf("synchronised, estimated error %s", estimate), "")
}

func dataNetwork(o Options) []Finding {
	if o.DataCIDR == "" {
		return one("data-network", OK, "no dataCIDR is set: the node's internal address is used", "")
	}
	network, err := netip.ParsePrefix(o.DataCIDR)
	if err != nil {
		return one("data-network", Failed, fmt.Sprintf("dataCIDR %q is no network", o.DataCIDR), "set chunk.dataCIDR to a network such as 10.234.1.0/24")
	}
	links, err := o.System.Interfaces()
	if err != nil {
		return one("data-network", Unknown, err.Error(), "")
	}
	var inside, others []string
	mtu := 0
	for _, l := range links {
		if network.Contains(l.Address) {
			inside = append(inside, fmt.Sprintf("%s on %s, MTU %d", l.Address, l.Name, l.MTUBytes))
			mtu = l.MTUBytes
		} else {
			others = append(others, l.Address.String())
		}
	}
	switch {
	case len(inside) == 0:
		return one("data-network", Failed, fmt.Sprintf("no address in %s; this node has %s", network, strings.Join(others, ", ")), "give the node an address in it, or correct chunk.dataCIDR")
	case len(inside) > 1:
		return one("data-network", Warning, fmt.Sprintf("several addresses in %s: %s", network, strings.Join(inside, "; ")), "narrow chunk.dataCIDR to one of them")
	case mtu < 1500:
		return one("data-network", Warning, inside[0], "an MTU below 1500 costs throughput")
	}
	return one("data-network", OK, inside[0], "")
}

// DataMTU returns the MTU of the link whose address is in the network, 0 when there is none.
func DataMTU(cidr string) uint32 {
	network, err := netip.ParsePrefix(cidr)
	if err != nil {
		return 0
	}
	links, err := host.Interfaces()
	if err != nil {
		return 0
	}
	for _, l := range links {
		if network.Contains(l.Address) {
			return uint32(l.MTUBytes)
		}
	}
	return 0
}

const gib = 1 << 30

func freeSpace(o Options) []Finding {
	free, err := o.System.FreeBytes(o.StateDir)
	text := fmt.Sprintf("%s has %.1f GiB free", o.StateDir, float64(free)/gib)
	switch {
	case err != nil:
		return one("free-space", Unknown, err.Error(), "")
	case free < 2*gib:
		return one("free-space", Failed, text, "free at least 20 GiB: metadata and its snapshots are kept there")
	case free < 20*gib:
		return one("free-space", Warning, text, "20 GiB are recommended: metadata and its snapshots are kept there")
	}
	return one("free-space", OK, text, "")
}

func selinux(o Options) []Finding {
	b, err := os.ReadFile(filepath.Join(o.Machine.Sys(), "fs/selinux/enforce"))
	switch {
	case err != nil:
		return one("selinux", OK, "not in use", "")
	case strings.TrimSpace(string(b)) == "1":
		return one("selinux", OK, "enforcing; the privileged containers are not confined by it", "")
	}
	return one("selinux", OK, "permissive", "")
}

func memory(o Options) []Finding {
	b, err := os.ReadFile(o.Machine.Proc("meminfo"))
	if err != nil {
		return one("memory", Unknown, err.Error(), "")
	}
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemAvailable:" {
			continue
		}
		kb, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			break
		}
		text := fmt.Sprintf("%.1f GiB available", float64(kb)/(1<<20))
		if kb < 1<<20 {
			return one("memory", Warning, text, "leave at least 1 GiB to the storage service")
		}
		return one("memory", OK, text, "")
	}
	return one("memory", Unknown, "/proc/meminfo does not say what is available", "")
}
