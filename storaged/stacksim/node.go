package stacksim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/iomesh/iomesh/internal/diskdir"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/chunk"
	"github.com/iomesh/iomesh/storaged/meta"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// node is a machine with a chunk and its disks.
type node struct {
	w     *World
	name  string
	ip    string
	dir   string // disk directory, with a file per disk that stands for the device
	host  *host
	disks map[string]*machineDisk // by device path
	rate  int64                   // of its clock, in parts per million too fast

	mu     sync.Mutex
	paused time.Duration // that its clock has stood still
	stood  time.Time     // since when it does; zero: it runs

	// The process; nil while there is none. Of the goroutine that runs the faults.
	run *running
}

// running is a process.
type running struct {
	cancel context.CancelFunc
	end    context.CancelFunc // of its way to etcd
	etcd   *etcdClient
	done   chan error
}

const diskBytes = 96 << 20

func (w *World) newNode(i, disks int) (*node, error) {
	n := &node{w: w, name: fmt.Sprintf("n%d", i+1), ip: fmt.Sprintf("10.0.0.%d", i+1), disks: map[string]*machineDisk{}}
	n.host = w.net.host(n.ip)
	n.dir = filepath.Join(w.dir, n.name)
	n.rate = w.rng.Int64N(80001) - 40000
	for range disks {
		if err := n.addDisk(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// addDisk puts a blank disk into the node.
func (n *node) addDisk() error {
	name := fmt.Sprintf("d%d", len(n.disks))
	path := filepath.Join(n.dir, name+".device")
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	n.mu.Lock()
	n.disks[path] = newMachineDisk(n.name+"/"+name, diskBytes, n.w.fork())
	n.mu.Unlock()
	return diskdir.WriteEntry(n.dir, diskdir.Entry{Name: name, Device: path, MountType: "dataStoreWithJournal", SizeBytes: diskBytes, Format: true})
}

func (n *node) machineDisk(path string) *machineDisk {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.disks[path]
}

// now is the node's CLOCK_BOOTTIME.
func (n *node) now() replication.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := time.Now()
	if !n.stood.IsZero() {
		at = n.stood
	}
	d := at.Sub(n.w.began) - n.paused
	return replication.Time(time.Hour + d + d*time.Duration(n.rate)/1_000_000)
}

// stopClock makes the clock stand still, as that of a virtual machine that is paused, or go on.
func (n *node) stopClock(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case on && n.stood.IsZero():
		n.stood = time.Now()
	case !on && !n.stood.IsZero():
		n.paused += time.Since(n.stood)
		n.stood = time.Time{}
	}
}

// start runs the chunk.
func (n *node) start() {
	w := n.w
	p := n.host.start()
	ctx, cancel := context.WithCancel(context.Background())
	ectx, end := context.WithCancel(context.Background())
	r := &running{cancel: cancel, end: end, etcd: newEtcdClient(ectx, w.etcd, w.fork()), done: make(chan error, 1)}
	n.run = r
	n.stopClock(false)
	o := chunk.Options{
		Node: n.name, DiskDir: n.dir, Meta: w.metaAddresses(), TLSDir: w.tls(mtls.RoleChunk), Advertise: n.ip,
		DataListen: n.ip + ":10201", ISCSIListen: n.ip + ":10202", ControlListen: n.ip + ":10200", Log: w.log(n.name),
		ResyncBytesPerSecond: w.cfg.ResyncBytes, ScrubBytesPerSecond: w.cfg.ScrubBytes,
		Host: chunk.Host{
			Now: n.now, Listen: p.listen, Dial: p.dial, Bugs: w.cfg.Bugs, TargetBug: w.cfg.TargetBug,
			OpenDisk: func(path string) (vdisk.Disk, error) {
				d := n.machineDisk(path)
				if d == nil {
					return nil, os.ErrNotExist
				}
				return d.open(), nil
			},
			OpenMeta: func([]string) (*metadb.DB, error) { return r.etcd.db(w, n.name), nil },
		},
	}
	go func() { r.done <- chunk.Run(ctx, o) }()
}

// stop ends the process: at once and without the power, or killed, or in good order.
func (n *node) stop(how ending) {
	r := n.run
	if r == nil {
		return
	}
	n.run = nil
	if how != orderly {
		n.host.stop(how == powerLoss)
		r.end()
		for _, d := range n.all() {
			d.release(how == powerLoss)
		}
	}
	r.cancel()
	if err := <-r.done; err != nil && !errors.Is(err, context.Canceled) {
		n.w.tracef("chunk of %s ended with: %v", n.name, err)
	}
	if how == orderly {
		n.host.stop(false)
		r.end()
		for _, d := range n.all() {
			d.release(false)
		}
	}
}

func (n *node) all() []*machineDisk {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*machineDisk
	for i := range len(n.disks) {
		out = append(out, n.disks[filepath.Join(n.dir, fmt.Sprintf("d%d.device", i))])
	}
	return out
}

// freeze stops the process with everything that others see of it, or lets it go on.
func (n *node) freeze(on bool) {
	n.host.freeze(on)
	if n.run != nil {
		if on {
			n.run.etcd.set(etcdStalled)
		} else {
			n.run.etcd.set(etcdUp)
		}
	}
	for _, d := range n.all() {
		d.hold(on)
	}
}

// ending is how a process ends.
type ending uint8

const (
	powerLoss ending = iota
	killed
	orderly
)

// member is a machine with a meta member.
type member struct {
	w    *World
	i    int
	ip   string
	host *host
	run  *running
}

func (w *World) newMember(i int) *member {
	m := &member{w: w, i: i, ip: fmt.Sprintf("10.0.1.%d", i+1)}
	m.host = w.net.host(m.ip)
	return m
}

func (m *member) name() string { return fmt.Sprintf("m%d", m.i+1) }

func (w *World) metaAddresses() (out []string) {
	for _, m := range w.members {
		out = append(out, m.ip+":10100")
	}
	return out
}

func (m *member) start() {
	w := m.w
	p := m.host.start()
	ctx, cancel := context.WithCancel(context.Background())
	ectx, end := context.WithCancel(context.Background())
	r := &running{cancel: cancel, end: end, etcd: newEtcdClient(ectx, w.etcd, w.fork()), done: make(chan error, 1)}
	m.run = r
	var all []meta.Member
	for _, x := range w.members {
		all = append(all, meta.Member{Name: x.name(), GRPC: x.ip + ":10100", Client: x.ip + ":10101", Peer: x.ip + ":10102"})
	}
	o := meta.Options{
		Name: m.name(), Members: all, DataDir: filepath.Join(w.dir, m.name()), TLSDir: w.tls(mtls.RoleMeta), Version: "simulated", Log: w.log(m.name()),
		OverProvisioning: 100, RepairDelay: w.cfg.RepairDelay,
		Host: &meta.Host{Etcd: r.etcd.client(), Raft: w.raft.members[m.i], Endpoints: []string{"etcd:10101"}, Listen: p.listen, Dial: p.dial},
	}
	go func() { r.done <- meta.Run(ctx, o) }()
}

// stop kills the member; the raft leader's place is taken by another after the time of an election.
func (m *member) stop() {
	r := m.run
	if r == nil {
		return
	}
	m.run = nil
	m.host.stop(false)
	r.end()
	r.cancel()
	if err := <-r.done; err != nil {
		m.w.tracef("meta member %s ended with: %v", m.name(), err)
	}
}
