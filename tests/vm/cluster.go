package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/diskdir"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/block"
)

const (
	metaAddress = "10.78.0.4"
	chunks      = 3
	diskBytes   = 8 << 30
)

func chunkAddress(i int) string { return fmt.Sprintf("10.78.0.%d", i+1) }

// setUpNetwork makes addresses and the guest's link in this network namespace, which hack/e2e-vm.sh made for us.
func setUpNetwork() error {
	commands := [][]string{{"ip", "link", "set", "lo", "up"}, {"ip", "tuntap", "add", "dev", "tap0", "mode", "tap"},
		{"ip", "addr", "add", "10.77.0.1/24", "dev", "tap0"}, {"ip", "link", "set", "tap0", "up"}, {"ip", "addr", "add", metaAddress + "/32", "dev", "lo"}}
	for i := range chunks {
		commands = append(commands, []string{"ip", "addr", "add", chunkAddress(i) + "/32", "dev", "lo"})
	}
	for _, c := range commands {
		if err := command(c...); err != nil {
			return fmt.Errorf("%w (run it by make e2e-vm, which makes a network namespace)", err)
		}
	}
	return nil
}

func command(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// cutPortals drops what the guest sends to the chunks' portals, as a broken switch would: nobody is told.
func cutPortals() error {
	for _, c := range [][]string{{"nft", "add", "table", "ip", "cut"}, {"nft", "add", "chain", "ip", "cut", "in", "{ type filter hook input priority 0 ; }"},
		{"nft", "add", "rule", "ip", "cut", "in", "iifname", "tap0", "tcp", "dport", "10202", "drop"}} {
		if err := command(c...); err != nil {
			return err
		}
	}
	return nil
}

func healPortals() error { return command("nft", "delete", "table", "ip", "cut") }

// daemon is one process of the cluster, started again when it dies.
type daemon struct {
	name string
	args []string
	log  *os.File

	mu   sync.Mutex
	cmd  *exec.Cmd
	stop bool
	done chan struct{}
}

func (d *daemon) run(program string) {
	defer close(d.done)
	for {
		cmd := exec.Command(program, d.args...)
		cmd.Stdout, cmd.Stderr = d.log, d.log
		d.mu.Lock()
		if d.stop {
			d.mu.Unlock()
			return
		}
		err := cmd.Start()
		d.cmd = cmd
		d.mu.Unlock()
		if err == nil {
			err = cmd.Wait()
		}
		fmt.Fprintln(d.log, d.name, "ended:", err)
		time.Sleep(restartAfter)
	}
}

// restartAfter is how long a dead daemon stays dead: about what kubelet takes.
const restartAfter = 3 * time.Second

func (d *daemon) signal(s syscall.Signal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Signal(s)
}

func (d *daemon) end() {
	d.mu.Lock()
	d.stop = true
	_ = d.cmd.Process.Signal(syscall.SIGCONT)
	_ = d.cmd.Process.Kill()
	d.mu.Unlock()
	<-d.done
}

// cluster is a metadata member and three chunks, each a process with an address of its own.
type cluster struct {
	dir     string
	id      string
	daemons map[string]*daemon
	conn    *grpc.ClientConn
	status  storagedv1.ClusterClient
	volumes storagedv1.VolumesClient
}

func (c *cluster) tls(r mtls.Role) string { return filepath.Join(c.dir, "tls", string(r)) }

func startCluster(ctx context.Context, dir, program string) (*cluster, error) {
	c := &cluster{dir: dir, id: block.NewClusterID().String(), daemons: map[string]*daemon{}}
	ca, err := mtls.NewAuthority(c.id, 24*time.Hour)
	if err != nil {
		return nil, err
	}
	if err := ca.IssueAll(filepath.Join(dir, "tls"), []string{metaAddress}, 24*time.Hour); err != nil {
		return nil, err
	}
	meta := metaAddress + ":10100"
	c.start(program, "meta", "meta", "--name", "m1", "--members", "m1="+metaAddress, "--data-dir", filepath.Join(dir, "meta"), "--tls-dir", c.tls(mtls.RoleMeta), "--cluster-id", c.id)
	for i := range chunks {
		name := fmt.Sprintf("n%d", i+1)
		disks, data := filepath.Join(dir, name, "disks"), filepath.Join(dir, name, "disk.img")
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(data, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(data, diskBytes); err != nil {
			return nil, err
		}
		e := diskdir.Entry{Name: "disk", Device: data, MountType: "dataStoreWithJournal", SizeBytes: diskBytes, Format: true, Identity: diskdir.Identity{Serial: name}}
		if err := diskdir.WriteEntry(disks, e); err != nil {
			return nil, err
		}
		c.start(program, name, "chunk", "--node", name, "--disk-dir", disks, "--meta", meta, "--tls-dir", c.tls(mtls.RoleChunk), "--advertise", chunkAddress(i))
	}
	src, err := mtls.Load(c.tls(mtls.RoleAdmin))
	if err != nil {
		return nil, err
	}
	if c.conn, err = grpc.NewClient(meta, grpc.WithTransportCredentials(src.ClientCredentials(mtls.RoleMeta))); err != nil {
		return nil, err
	}
	c.status, c.volumes = storagedv1.NewClusterClient(c.conn), storagedv1.NewVolumesClient(c.conn)
	return c, c.awaitOnline(ctx)
}

func (c *cluster) start(program, name string, args ...string) {
	log, err := os.OpenFile(filepath.Join(c.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		log = os.Stderr
	}
	d := &daemon{name: name, args: args, log: log, done: make(chan struct{})}
	c.daemons[name] = d
	go d.run(program)
}

func (c *cluster) close() {
	for _, d := range c.daemons {
		d.end()
	}
}

// awaitOnline returns when every chunk and disk is there.
func (c *cluster) awaitOnline(ctx context.Context) error {
	return poll(ctx, 2*time.Minute, "all chunks are online", func() bool {
		st, err := c.status.GetStatus(ctx, &storagedv1.GetStatusRequest{})
		if err != nil {
			return false
		}
		n := 0
		for _, x := range st.Nodes {
			if x.State == "Online" {
				n++
			}
		}
		for _, x := range st.Disks {
			if x.State == "Active" {
				n++
			}
		}
		return n == 2*chunks
	})
}

// awaitWhole returns when no volume misses a replica.
func (c *cluster) awaitWhole(ctx context.Context) error {
	if err := c.awaitOnline(ctx); err != nil {
		return err
	}
	return poll(ctx, 3*time.Minute, "all replicas are in sync", func() bool {
		r, err := c.volumes.ListVolumes(ctx, &storagedv1.ListVolumesRequest{})
		if err != nil {
			return false
		}
		for _, v := range r.Volumes {
			if v.Status.GetHealth() != storagedv1.Health_HEALTH_OK {
				return false
			}
		}
		return true
	})
}

// owner is the daemon that owns a volume.
func (c *cluster) owner(ctx context.Context, id string) (*daemon, error) {
	v, err := c.volumes.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: id})
	if err != nil {
		return nil, err
	}
	l, err := c.volumes.Locate(ctx, &storagedv1.LocateRequest{Iqn: v.Iqn})
	if err != nil {
		return nil, err
	}
	for i := range chunks {
		if strings.HasPrefix(l.Portal, chunkAddress(i)+":") {
			return c.daemons[fmt.Sprintf("n%d", i+1)], nil
		}
	}
	return nil, fmt.Errorf("volume %s has no owner", id)
}

func poll(ctx context.Context, most time.Duration, what string, ok func() bool) error {
	for deadline := time.Now().Add(most); !ok(); time.Sleep(200 * time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s", most, what)
		}
	}
	return nil
}
