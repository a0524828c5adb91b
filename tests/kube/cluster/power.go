package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/tests/kube/command"
	"github.com/iomesh/iomesh/tests/kube/loopdev"
	"github.com/iomesh/iomesh/tests/kube/netns"
)

// AddNode adds a node to a running cluster and returns its name when it is
// Ready.
func (c *Cluster) AddNode(ctx context.Context) (string, error) {
	name, err := c.addNode(ctx)
	if err != nil {
		return "", err
	}
	return name, c.WaitReady(ctx, name)
}

func (c *Cluster) addNode(ctx context.Context) (string, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	nodes, err := c.nodes()
	if err != nil {
		return "", err
	}
	if len(nodes) == 0 {
		return "", fmt.Errorf("no cluster in %s; start one with up", c.dir)
	}
	last := nodes[len(nodes)-1].Index
	if last >= nodesMax {
		return "", fmt.Errorf("add a node: there are %d, more are not possible", nodesMax)
	}
	n, err := c.planNode(last + 1)
	if err != nil {
		return "", err
	}
	return n.Name, c.boot(ctx, n)
}

// Boot switches a node on that PowerOff switched off: its disks, its images
// and its pods come back. It returns when the node is Ready; one whose network
// is cut cannot be, so for that one it returns when kubelet has started.
func (c *Cluster) Boot(ctx context.Context, nodeName string) error {
	var cut bool
	err := c.locked(ctx, nodeName, func(n *node) error {
		if n.running() {
			return fmt.Errorf("boot node %s: it is on", n.Name)
		}
		cut = n.Cut
		return c.boot(ctx, n)
	})
	if err != nil || cut {
		return err
	}
	return c.WaitReady(ctx, nodeName)
}

func (c *Cluster) boot(ctx context.Context, n *node) error {
	if err := n.start(ctx); err != nil {
		return err
	}
	if err := c.routes(ctx); err != nil {
		return err
	}
	return n.startKubelet(ctx)
}

// PowerOff switches a node off without warning. See the package's text on
// what it loses. A node that is off stays off.
func (c *Cluster) PowerOff(ctx context.Context, nodeName string) error {
	return c.locked(ctx, nodeName, func(n *node) error { return n.powerOff(ctx) })
}

// Freeze stops every process of a node, as if the machine hung. Its kernel
// goes on acknowledging what it receives.
func (c *Cluster) Freeze(ctx context.Context, nodeName string) error {
	return c.locked(ctx, nodeName, func(n *node) error {
		if !n.running() {
			return fmt.Errorf("freeze node %s: it is off", n.Name)
		}
		return n.Group.Freeze(ctx)
	})
}

// Thaw lets a frozen node go on.
func (c *Cluster) Thaw(ctx context.Context, nodeName string) error {
	return c.locked(ctx, nodeName, func(n *node) error {
		if !n.running() {
			return fmt.Errorf("thaw node %s: it is off", n.Name)
		}
		return n.Group.Thaw(ctx)
	})
}

// CutNetwork pulls the node's cable: nothing gets in or out.
func (c *Cluster) CutNetwork(ctx context.Context, nodeName string) error {
	return c.locked(ctx, nodeName, func(n *node) error { return n.setCut(ctx, true) })
}

// HealNetwork plugs the node's cable in again.
func (c *Cluster) HealNetwork(ctx context.Context, nodeName string) error {
	return c.locked(ctx, nodeName, func(n *node) error { return n.setCut(ctx, false) })
}

// CutAPI severs the node and its pods from the API server only, in both
// directions; the nodes still reach one another.
func (c *Cluster) CutAPI(ctx context.Context, nodeName string) error {
	return c.locked(ctx, nodeName, func(n *node) error { return n.setCutAPI(ctx, "add") })
}

// notCut is what nft says of an element that is not in its set.
var notCut = regexp.MustCompile("No such file or directory|does not exist")

// HealAPI undoes CutAPI.
func (c *Cluster) HealAPI(ctx context.Context, nodeName string) error {
	return c.locked(ctx, nodeName, func(n *node) error {
		err := n.setCutAPI(ctx, "delete")
		var failed *command.Error
		if errors.As(err, &failed) && notCut.MatchString(failed.Stderr) {
			return nil // was not cut
		}
		return err
	})
}

// locked calls f with a node while nobody else changes the cluster.
func (c *Cluster) locked(ctx context.Context, nodeName string, f func(*node) error) error {
	if _, err := c.load(); err != nil {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := c.node(nodeName)
	if err != nil {
		return err
	}
	return f(n)
}

func (n *node) setCut(ctx context.Context, cut bool) error {
	n.Cut = cut
	if err := n.save(); err != nil {
		return err
	}
	if !netns.Exists(n.network()) {
		return nil // off; it comes up that way
	}
	state := map[bool]string{true: "down", false: "up"}[cut]
	return command.Run(ctx, "ip", "-n", n.c.Network(), "link", "set", n.link(), state)
}

func (n *node) setCutAPI(ctx context.Context, verb string) error {
	argv := append(n.c.Enter(), "nft", verb, "element", "ip", "lab", "cut", "{ "+n.ip()+", "+n.podCIDR()+" }")
	return command.Run(ctx, argv...)
}

// offMax is how long the kernel may take to end a node's processes.
const offMax = time.Minute

// powerOff ends the node and removes what it had outside its own disk. On a
// node that is off it clears away what an interrupted start or stop left.
func (n *node) powerOff(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, offMax, fmt.Errorf("not done within %s", offMax))
	defer cancel()
	// The cable first: a machine that loses power sends no FIN and no RST. It is
	// removed, not switched off, because the kernel keeps the node's namespace
	// and its end of the cable as long as it still tries to close a connection.
	if netns.Exists(n.c.Network()) {
		err := command.Run(ctx, "ip", "-n", n.c.Network(), "link", "delete", n.link())
		var failed *command.Error
		if err != nil && !(errors.As(err, &failed) && strings.Contains(failed.Stderr, "Cannot find device")) {
			return fmt.Errorf("power off node %s: %w", n.Name, err)
		}
	}
	// While its mounts are there, they tell which loop devices are its own.
	own, err := n.loopOwner()
	if err != nil {
		return fmt.Errorf("power off node %s: %w", n.Name, err)
	}
	before, err := loopdev.List()
	if err != nil {
		return fmt.Errorf("power off node %s: %w", n.Name, err)
	}
	connections, err := n.fuseConnections()
	if err != nil {
		return fmt.Errorf("power off node %s: %w", n.Name, err)
	}
	if mine := loopdev.Select(before, own); len(mine) > 0 {
		n.Doomed = append(n.Doomed, mine...)
		if err := n.save(); err != nil {
			return err
		}
	}
	if pid, err := n.init(); err == nil {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("power off node %s: %w", n.Name, err)
		}
	}
	if err := n.abortFUSE(connections); err != nil {
		return fmt.Errorf("power off node %s: %w", n.Name, err)
	}
	if err := endGroup(ctx, n.Group); err != nil {
		return fmt.Errorf("power off node %s: %w", n.Name, err)
	}
	after, err := loopdev.List()
	if err != nil {
		return fmt.Errorf("power off node %s: %w", n.Name, err)
	}
	if err := loopdev.Detach(ctx, append(loopdev.Select(after, own), n.Doomed...)); err != nil {
		return fmt.Errorf("power off node %s: %w", n.Name, err)
	}
	if len(n.Doomed) > 0 {
		n.Doomed = nil
		if err := n.save(); err != nil {
			return err
		}
	}
	if err := netns.Delete(ctx, n.network()); err != nil {
		return fmt.Errorf("power off node %s: %w", n.Name, err)
	}
	return nil
}

// loopOwner returns a test for loop devices that a node would lose with
// power: those over files on its disk, and those over file systems that only
// its mount namespaces hold (FUSE, tmpfs, or a file system on such a device).
func (n *node) loopOwner() (func(loopdev.Device) bool, error) {
	files := map[loopdev.FileID]bool{}
	err := filepath.WalkDir(n.root(), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if d.IsDir() && p == n.root("var/lib/containerd") {
			return filepath.SkipDir // images: large, and nobody loops over them
		}
		if !d.Type().IsRegular() {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err == nil {
			files[loopdev.FileID{Dev: st.Dev, Inode: st.Ino}] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ours, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	elsewhere := map[uint64]bool{}
	for _, m := range parseMountinfo(string(ours)) {
		elsewhere[m.dev] = true
	}
	pids, err := n.Group.Pids()
	if err != nil {
		return nil, err
	}
	devices, fusePoints := map[uint64]bool{}, map[string]bool{}
	seen := map[string]bool{}
	for _, pid := range pids {
		proc := filepath.Join("/proc", strconv.Itoa(pid))
		ns, err := os.Readlink(filepath.Join(proc, "ns/mnt"))
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		text, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
		if err != nil {
			continue // ended meanwhile
		}
		for _, m := range parseMountinfo(string(text)) {
			if elsewhere[m.dev] {
				continue
			}
			devices[m.dev] = true
			if strings.HasPrefix(m.fsType, "fuse") {
				fusePoints[m.point] = true
			}
		}
	}
	return func(d loopdev.Device) bool {
		if d.Known {
			return files[d.Backing] || devices[d.Backing.Dev]
		}
		for p := d.BackingPath; p != "/" && p != "."; p = filepath.Dir(p) {
			if fusePoints[p] {
				return true
			}
		}
		return false
	}, nil
}

// mountInfo is a line of /proc/PID/mountinfo, as far as it is used.
type mountInfo struct {
	dev           uint64
	point, fsType string
}

// parseMountinfo leaves out lines it does not understand.
func parseMountinfo(text string) []mountInfo {
	var ms []mountInfo
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(line, " - ")
		f, fs := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 5 || len(fs) < 1 {
			continue
		}
		major, minor, ok := strings.Cut(f[2], ":")
		ma, err1 := strconv.ParseUint(major, 10, 32)
		mi, err2 := strconv.ParseUint(minor, 10, 32)
		if !ok || err1 != nil || err2 != nil {
			continue
		}
		ms = append(ms, mountInfo{dev: unix.Mkdev(uint32(ma), uint32(mi)), point: f[4], fsType: fs[0]})
	}
	return ms
}
