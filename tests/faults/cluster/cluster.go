package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/iomesh/iomesh/internal/diskdir"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/iomesh/iomesh/tests/faultfs"
)

// Options of a cluster.
type Options struct {
	// Dir holds everything; it must be empty or new.
	Dir string
	// Storaged is the program.
	Storaged  string
	Nodes     int
	DiskBytes int64
	// Flat puts all nodes on loopback.
	Flat bool
	// Hybrid puts the journals on a disk of their own.
	Hybrid bool
	// Faulty makes every disk one that misbehaves on demand (Node.Disk), FaultyOn those of some nodes.
	Faulty   bool
	FaultyOn []string
	// Profiles makes every daemon serve its profiles at the Unix socket DIR/logs/NAME.pprof.
	Profiles bool
	// ChunkArgs and MetaArgs are added to the daemons'.
	ChunkArgs, MetaArgs, RedirectArgs []string
}

// Node is one machine.
type Node struct {
	Name    string
	Address string
	Meta    *Process
	Chunk   *Process
	// Disk, if the cluster has faulty ones, and the file behind it.
	Disk    *faultfs.Disk
	Backing string
	place   *place
	flat    bool
}

// Cluster is a running block service.
type Cluster struct {
	Options
	Nodes    []*Node
	Redirect *Process
	Client   *Client
	// CA issued the credentials in DIR/tls.
	CA   *mtls.Authority
	id   string
	here *place
}

// Portal is where initiators log in.
const Portal = "127.0.0.1:3260"

// New makes the nodes with their disks and starts everything. The cluster is up when it returns.
func New(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{Options: o, id: block.NewClusterID().String()}
	for _, d := range []string{"logs", "tls"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	if err := c.issue(); err != nil {
		return nil, err
	}
	var err error
	if c.here, _, err = newPlace(true); err != nil {
		return nil, err
	}
	if !o.Flat {
		if err := makeBridge(ctx); err != nil {
			return nil, err
		}
	}
	for i := range o.Nodes {
		n := &Node{Name: fmt.Sprintf("n%d", i+1), Address: fmt.Sprintf("10.77.0.%d", i+1), place: c.here, flat: o.Flat}
		if o.Flat {
			n.Address = fmt.Sprintf("127.0.77.%d", i+1)
		} else {
			var ns *os.File
			if n.place, ns, err = newPlace(false); err != nil {
				return nil, fmt.Errorf("network namespace of node %s: %w", n.Name, err)
			}
			if err := plug(ctx, n, ns); err != nil {
				return nil, err
			}
			_ = ns.Close()
		}
		if err := c.makeDisk(ctx, n); err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, n)
	}
	c.describe()
	if c.Client, err = newClient(c.metaAddresses(), c.tls(mtls.RoleAdmin)); err != nil {
		return nil, err
	}
	if err := c.StartAll(); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.Client.AwaitOnline(ctx, o.Nodes, 60*time.Second); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) tls(r mtls.Role) string { return filepath.Join(c.Dir, "tls", string(r)) }

func (c *Cluster) issue() error {
	ca, err := mtls.NewAuthority(c.id, 365*24*time.Hour)
	if err != nil {
		return err
	}
	c.CA = ca
	return ca.IssueAll(filepath.Join(c.Dir, "tls"), []string{"localhost"}, 365*24*time.Hour)
}

// makeDisk writes the node's disk in full, so that its speed is that of a disk and not of the filesystem's bookkeeping.
func (c *Cluster) makeDisk(ctx context.Context, n *Node) error {
	path := filepath.Join(c.Dir, n.Name, "disk0.img")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := vdisk.Prewrite(ctx, path, c.DiskBytes, nil); err != nil {
		return err
	}
	n.Backing = path
	if c.Faulty || slices.Contains(c.FaultyOn, n.Name) {
		mnt := filepath.Join(c.Dir, n.Name, "mnt")
		if err := os.Mkdir(mnt, 0o700); err != nil {
			return err
		}
		var err error
		if n.Disk, err = faultfs.Mount(mnt, path, c.DiskBytes, slog.New(slog.DiscardHandler)); err != nil {
			return err
		}
		path = n.Disk.Path()
	}
	disks := filepath.Join(c.Dir, n.Name, "disks")
	e := diskdir.Entry{Name: "disk0", Device: path, MountType: "dataStoreWithJournal", SizeBytes: c.DiskBytes, Format: true, Identity: diskdir.Identity{Serial: n.Name}}
	if c.Hybrid {
		e.MountType = "dataStore"
		ssd := diskdir.Entry{Name: "ssd", Device: filepath.Join(c.Dir, n.Name, "ssd.img"), MountType: "cacheWithJournal", SizeBytes: 512 << 20, Format: true}
		if err := vdisk.Prewrite(ctx, ssd.Device, ssd.SizeBytes, nil); err != nil {
			return err
		}
		if err := diskdir.WriteEntry(disks, ssd); err != nil {
			return err
		}
	}
	return diskdir.WriteEntry(disks, e)
}

func (c *Cluster) metaAddresses() []string {
	var out []string
	for _, n := range c.Nodes {
		out = append(out, n.Address+":10100")
	}
	return out
}

// describe fills in the daemons of all nodes.
func (c *Cluster) describe() {
	var members []string
	for _, n := range c.Nodes {
		members = append(members, n.Name+"="+n.Address)
	}
	metas := strings.Join(c.metaAddresses(), ",")
	daemon := func(name string, at *place, args ...string) *Process {
		if c.Profiles {
			args = append(args, "--pprof-socket", c.ProfileSocket(name))
		}
		return &Process{Name: name, place: at, exe: c.Storaged, args: args, log: filepath.Join(c.Dir, "logs", name+".log")}
	}
	for _, n := range c.Nodes {
		n.Meta = daemon("meta-"+n.Name, n.place, append([]string{"meta", "--name", n.Name, "--members", strings.Join(members, ","),
			"--data-dir", filepath.Join(c.Dir, n.Name, "meta"), "--tls-dir", c.tls(mtls.RoleMeta), "--cluster-id", c.id}, c.MetaArgs...)...)
		n.Chunk = daemon("chunk-"+n.Name, n.place, append([]string{"chunk", "--node", n.Name, "--disk-dir", filepath.Join(c.Dir, n.Name, "disks"), "--meta", metas,
			"--tls-dir", c.tls(mtls.RoleChunk), "--advertise", n.Address}, c.ChunkArgs...)...)
	}
	c.Redirect = daemon("redirect", c.here, append([]string{"redirect", "--listen", Portal, "--meta", metas, "--tls-dir", c.tls(mtls.RoleNode)}, c.RedirectArgs...)...)
}

// ProfileSocket is where a daemon serves its profiles, with Options.Profiles.
func (c *Cluster) ProfileSocket(name string) string {
	return filepath.Join(c.Dir, "logs", name+".pprof")
}

// Processes are all daemons.
func (c *Cluster) Processes() []*Process {
	var out []*Process
	for _, n := range c.Nodes {
		out = append(out, n.Meta, n.Chunk)
	}
	return append(out, c.Redirect)
}

// StartAll starts what does not run.
func (c *Cluster) StartAll() error {
	var errs []error
	for _, p := range c.Processes() {
		errs = append(errs, p.Start())
	}
	return errors.Join(errs...)
}

// StartMeta starts the meta members that do not run.
func (c *Cluster) StartMeta() error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.Meta.Start())
	}
	return errors.Join(errs...)
}

// RestoreArgs are the arguments of `storaged meta restore` for the first member.
func (c *Cluster) RestoreArgs() []string {
	var members []string
	for _, n := range c.Nodes {
		members = append(members, n.Name+"="+n.Address)
	}
	n := c.Nodes[0]
	return []string{"--name", n.Name, "--members", strings.Join(members, ","), "--data-dir", filepath.Join(c.Dir, n.Name, "meta"), "--tls-dir", c.tls(mtls.RoleMeta)}
}

// Supervise starts daemons again when they end by themselves, as a kubelet does, until ctx ends; those that were killed
// by Kill stay dead until Start.
func (c *Cluster) Supervise(ctx context.Context) {
	for _, p := range c.Processes() {
		go p.supervise(ctx)
	}
}

// KillAll is a power cut of everything: kill -9 of all processes at once.
func (c *Cluster) KillAll() error {
	var wg sync.WaitGroup
	all := c.Processes()
	errs := make([]error, len(all))
	for i, p := range all {
		wg.Go(func() { errs[i] = p.Kill() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Node returns the node of a name.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Close ends all processes and waits for them.
func (c *Cluster) Close() {
	for _, n := range c.Nodes {
		if n.Disk != nil {
			n.Disk.Set(nil)
		}
	}
	var wg sync.WaitGroup
	for _, p := range c.Processes() {
		wg.Go(p.end)
	}
	wg.Wait()
	if c.Client != nil {
		c.Client.Close()
	}
	for _, n := range c.Nodes {
		if n.Disk != nil {
			_ = n.Disk.Close()
		}
	}
	for _, n := range c.Nodes {
		if n.place != c.here {
			n.place.close()
		}
	}
	c.here.close()
}
