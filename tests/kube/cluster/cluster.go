package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/tests/image"
	"github.com/iomesh/iomesh/tests/kube/cgroup"
	"github.com/iomesh/iomesh/tests/kube/netns"
	"github.com/iomesh/iomesh/tests/kube/toolchain"
)

// DefaultDir is the work directory used when the caller has no wish.
const DefaultDir = "/tmp/iomesh-kube"

// dirMax bounds the length of the work directory's path: the sockets below it
// must fit the 107 bytes of a unix socket address.
const dirMax = 40

// Options of Open.
type Options struct {
	// Dir is the work directory: absolute, at most 40 bytes; empty: DefaultDir.
	Dir string
	// Source is the directory tests/kube/tools of a checkout. Only Up needs
	// it; empty: that of the checkout around the current directory.
	Source string
	// Progress receives a line now and then; nil for none.
	Progress func(format string, args ...any)
}

// Cluster is a cluster, running or not. Use Open.
type Cluster struct {
	dir      string
	source   string
	id       string
	progress func(format string, args ...any)
}

// record is cluster.json. Invariant: it is written before anything outside
// the work directory is created.
type record struct {
	Bin       string       `json:"bin"` // programs of the cluster
	Control   cgroup.Group `json:"control"`
	MadeNetNS bool         `json:"madeNetNS"` // /run/netns was not there before
}

// Open returns the cluster of a work directory. It touches nothing.
func Open(o Options) (*Cluster, error) {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if !filepath.IsAbs(o.Dir) || filepath.Clean(o.Dir) == "/" {
		return nil, fmt.Errorf("work directory %q: give an absolute path of a directory for the cluster alone", o.Dir)
	}
	o.Dir = filepath.Clean(o.Dir)
	if len(o.Dir) > dirMax {
		return nil, fmt.Errorf("work directory %s: its path has %d bytes, at most %d are possible", o.Dir, len(o.Dir), dirMax)
	}
	if strings.ContainsAny(o.Dir, " ,:\\\n\"'") {
		return nil, fmt.Errorf("work directory %q: use letters, digits, '-', '_', '.' and '/' only", o.Dir)
	}
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	return &Cluster{dir: o.Dir, source: o.Source, id: netns.ClusterID(o.Dir), progress: o.Progress}, nil
}

// Kubeconfig returns the path of the administrator's kubeconfig. Its server
// can be reached from inside the namespace Network only; see DialContext.
func (c *Cluster) Kubeconfig() string { return c.path("pki", "admin.kubeconfig") }

// Network returns the name of the control plane's network namespace.
func (c *Cluster) Network() string { return netns.Name(c.id, "cp") }

// Enter returns the command prefix that runs a program of this machine inside
// the control plane's network, where Kubeconfig works.
func (c *Cluster) Enter() []string {
	return []string{"nsenter", "--net=" + netns.Path(c.Network()), "--"}
}

// DialContext connects from inside the control plane's network. It fits
// rest.Config.Dial. The address must be an IP address with a port.
func (c *Cluster) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return netns.Dialer{Namespace: c.Network()}.DialContext(ctx, network, address)
}

// Bin returns the directory with kubectl, helm and the cluster's own programs.
func (c *Cluster) Bin() (string, error) {
	r, err := c.load()
	return r.Bin, err
}

// Up brings the cluster to nodes Ready nodes: it builds the programs if they
// are not in the cache, makes the base images, and starts what is not running,
// so it also resumes a cluster that was taken down without purge or an Up that
// failed half-way. Nodes beyond that number are left as they are.
func (c *Cluster) Up(ctx context.Context, nodes int) error {
	if nodes < 1 || nodes > nodesMax {
		return fmt.Errorf("start a cluster of %d nodes: 1 to %d are possible", nodes, nodesMax)
	}
	if problems := c.Preflight(ctx); len(problems) > 0 {
		return fmt.Errorf("this machine cannot run the cluster:\n  %s", strings.Join(problems, "\n  "))
	}
	set, err := toolchain.Ensure(ctx, toolchain.Options{Source: c.source, Progress: c.progress})
	if err != nil {
		return err
	}
	names, err := c.up(ctx, nodes, set)
	if err != nil {
		return fmt.Errorf("%w (logs: %s and %s; take down what was started with down)", err, c.path("log"), c.path("nodes", "*", "log"))
	}
	if err := c.waitAccount(ctx); err != nil {
		return err
	}
	return c.WaitReady(ctx, names...)
}

func (c *Cluster) up(ctx context.Context, nodes int, set toolchain.Set) ([]string, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := c.plan(set.Bin); err != nil {
		return nil, err
	}
	cache, err := toolchain.CacheDir()
	if err != nil {
		return nil, err
	}
	base, err := image.Builder{Debs: filepath.Join(cache, "debs")}.EnsureBase(ctx, set.Bin, filepath.Join(set.Dir, "images"))
	if err != nil {
		return nil, err
	}
	for _, tar := range base {
		if err := c.keepImage(tar); err != nil {
			return nil, err
		}
	}
	if err := c.certificates(); err != nil {
		return nil, err
	}
	if err := c.startNetwork(ctx); err != nil {
		return nil, err
	}
	var names []string
	var starting []*node
	for i := 1; i <= nodes; i++ {
		n, err := c.planNode(i)
		if err != nil {
			return nil, err
		}
		names = append(names, n.Name)
		if !n.running() {
			starting = append(starting, n)
		}
	}
	// The control plane comes up while the nodes import their images.
	start := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.startControl(gctx, set) })
	for _, n := range starting {
		g.Go(func() error { return n.start(gctx) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	c.progress("control plane and %d containerds are up after %s", len(starting), time.Since(start).Round(100*time.Millisecond))
	for _, n := range starting {
		if err := n.startKubelet(ctx); err != nil {
			return nil, err
		}
	}
	return names, c.routes(ctx)
}

// Down stops everything that Up and AddNode started and leaves no process,
// control group, namespace, loop device or mount behind, also after an Up
// that was killed half-way. With purge the work directory goes too; without,
// the next Up resumes with the same objects, images and disks.
func (c *Cluster) Down(ctx context.Context, purge bool) error {
	if _, err := os.Stat(c.path("cluster.json")); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(c.dir); purge && err == nil {
			return fmt.Errorf("%s holds no cluster.json, so it is not removed", c.dir)
		}
		return nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := c.load()
	if err != nil {
		return err
	}
	nodes, err := c.nodes()
	if err != nil {
		return err
	}
	// All at once: every node sees all loop devices, and a process of one that reads a device of another, whose FUSE server has lost the nodes it
	// needs, ends when that other is off.
	errs := make([]error, len(nodes)+1)
	var off sync.WaitGroup
	for i, n := range nodes {
		off.Go(func() { errs[i] = n.powerOff(ctx) })
	}
	off.Wait()
	errs[len(nodes)] = c.stopControl(ctx, r)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take down the cluster: %w", err)
	}
	names, err := netns.List(netns.Name(c.id, ""))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := netns.Delete(ctx, name); err != nil {
			return err
		}
	}
	if r.MadeNetNS {
		netns.Tidy()
	}
	if !purge {
		return nil
	}
	return c.purge()
}

// purge removes the work directory.
func (c *Cluster) purge() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), " "+c.dir+"/") {
		return fmt.Errorf("something is mounted below %s, so it is not removed; see findmnt", c.dir)
	}
	// cluster.json last, so that an interrupted removal can be repeated.
	for _, name := range []string{"nodes", "etcd", "pki", "images", "log"} {
		if err := os.RemoveAll(c.path(name)); err != nil {
			return fmt.Errorf("remove work directory: %w", err)
		}
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove work directory: %w", err)
	}
	return nil
}

// plan writes cluster.json unless it is there.
func (c *Cluster) plan(bin string) error {
	r, err := c.load()
	if err == nil && r.Bin == bin {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if r.Control.Version == 0 {
		if r.Control, err = cgroup.Plan(netns.Name(c.id, "cp")); err != nil {
			return err
		}
		r.MadeNetNS = !netns.Exists("")
	}
	r.Bin = bin
	return writeJSON(c.path("cluster.json"), r)
}

func (c *Cluster) load() (record, error) {
	var r record
	err := readJSON(c.path("cluster.json"), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("no cluster in %s; start one with up: %w", c.dir, fs.ErrNotExist)
	}
	return r, err
}

func (c *Cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

// lock keeps others from changing the cluster until unlock is called.
func (c *Cluster) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("create work directory: %w", err)
	}
	f, err := os.OpenFile(c.path(".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock work directory: %w", err)
	}
	err = poll(ctx, 50*time.Millisecond, func() (bool, error) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock work directory %s: %w", c.dir, err)
	}
	return func() { f.Close() }, nil
}

// poll calls done until it reports true or an error, or ctx ends.
func poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

// writeJSON replaces a file at once, so that a crash leaves the old or the new.
func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
