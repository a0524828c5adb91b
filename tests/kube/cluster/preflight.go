package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/iomesh/iomesh/tests/kube/cgroup"
	"github.com/iomesh/iomesh/tests/kube/command"
	"github.com/iomesh/iomesh/tests/kube/toolchain"
)

// programsOf maps the programs the cluster calls to their Debian packages.
var programsOf = map[string]string{
	"runc": "runc", "ip": "iproute2", "nft": "nftables", "conntrack": "conntrack", "sysctl": "procps",
	"nsenter": "util-linux", "unshare": "util-linux", "setsid": "util-linux", "pivot_root": "util-linux",
	"losetup": "mount", "mount": "mount", "umount": "mount", "hostname": "hostname",
	"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "fusermount3": "fuse3",
	"dpkg-deb": "dpkg", "apt-get": "apt", "cp": "coreutils",
}

// cniPlugin stands for the package of CNI plugins.
const cniPlugin = "/usr/lib/cni/bridge"

// runDiskNeededBytes is what three nodes with our images take.
const runDiskNeededBytes = 6 << 30

// Preflight checks whether this machine can run the cluster. Each string says
// in one line what is missing and what to do; none means that Up can try.
func (c *Cluster) Preflight(ctx context.Context) []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if os.Geteuid() != 0 {
		add("not root: namespaces, mounts and loop devices need it; run with sudo")
	}
	for _, ns := range []string{"net", "mnt", "pid", "uts", "ipc", "cgroup"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			add("the kernel has no %s namespaces", ns)
		}
	}
	var packages []string
	for program, pkg := range programsOf {
		if _, err := exec.LookPath(program); err != nil && !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
	}
	if _, err := os.Stat(cniPlugin); err != nil {
		packages = append(packages, "containernetworking-plugins")
	}
	if len(packages) > 0 {
		slices.Sort(packages)
		add("packages missing: apt-get install -y --no-install-recommends %s", strings.Join(packages, " "))
	}
	if os.Geteuid() == 0 && len(packages) == 0 {
		if err := command.Run(ctx, "unshare", "--mount", "--net", "--pid", "--fork", "true"); err != nil {
			add("namespaces cannot be made, although root: %v (in a container? it must be privileged)", err)
		}
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(dev); err != nil {
			add("%s is missing: load its module, or pass the device into the container", dev)
		}
	}
	if filesystems, err := os.ReadFile("/proc/filesystems"); err == nil && !strings.Contains(string(filesystems), "\toverlay\n") {
		if command.Run(ctx, "modprobe", "overlay") != nil {
			add("the kernel has no overlay file system: modprobe overlay")
		}
	}
	if _, err := cgroup.Plan("preflight"); err != nil {
		add("%v", err)
	}
	if free, err := toolchain.FreeBytes(c.dir); err != nil {
		add("%v", err)
	} else if free < runDiskNeededBytes {
		add("%s has %d MiB free, the nodes need %d MiB: choose another --dir", c.dir, free>>20, int64(runDiskNeededBytes)>>20)
	}
	if _, err := exec.LookPath("go"); err != nil {
		if _, whole, err := toolchain.Locate(ctx, c.source); err != nil || !whole {
			add("go is not in PATH, and the cluster's programs are built with it: https://go.dev/dl")
		}
	}
	return problems
}
