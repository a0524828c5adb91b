package chunk

import (
	"sync"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// replicas holds the Replica machines of this chunk: one per volume somebody asked about.
type replicas struct {
	s  *Server
	mu sync.RWMutex
	m  map[block.VolumeID]*replicaShell
}

// replicaShell is a Replica with its lock. Effects are performed outside the lock: stamps, sessions and generations make the
// order of messages irrelevant (package replication).
type replicaShell struct {
	s    *Server
	load replicaLoad
	mu   sync.Mutex
	r    *replication.Replica
}

func newReplicas(s *Server) *replicas {
	return &replicas{s: s, m: map[block.VolumeID]*replicaShell{}}
}

// get returns the machine of a volume, made from the fences on the disks if it is new.
func (t *replicas) get(v block.VolumeID) *replicaShell {
	t.mu.RLock()
	x := t.m[v]
	t.mu.RUnlock()
	if x != nil {
		return x
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if x := t.m[v]; x != nil {
		return x
	}
	o := replication.ReplicaOptions{Volume: v, Self: t.s.id, Feature: block.FeatureLevel, Chain: t.s.chain}
	for _, d := range t.s.disks.all() {
		if f := d.store.FenceOf(v); f.Epoch > o.Epoch {
			o.Epoch, o.Owner = f.Epoch, f.Owner
		}
	}
	x = &replicaShell{s: t.s, r: replication.NewReplica(o)}
	replication.Plant{Bugs: t.s.o.Host.Bugs}.Replica(x.r)
	t.m[v] = x
	return x
}

// diskOpened makes the machines of volumes with a higher fence on a new disk begin anew: a fence is the highest of all disks.
func (t *replicas) diskOpened(d *disk) {
	fences := d.store.Fences()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range fences {
		x := t.m[f.Volume]
		if x == nil {
			continue
		}
		x.mu.Lock()
		e, _ := x.r.Epoch()
		x.mu.Unlock()
		if f.Epoch > e {
			delete(t.m, f.Volume)
		}
	}
}

// forget drops the machine of a deleted volume.
func (t *replicas) forget(v block.VolumeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, v)
}

func (t *replicas) epochFree(v block.VolumeID, e block.Epoch) {
	t.mu.RLock()
	x := t.m[v]
	t.mu.RUnlock()
	if x == nil {
		return
	}
	out := getEffects()
	x.mu.Lock()
	out.list = x.r.EpochFree(e, out.list)
	x.mu.Unlock()
	x.perform(out, nil)
}

// receive hands a message to the machine. buf, if any, is what m.Data lies in; the caller keeps its reference.
func (x *replicaShell) receive(from block.ChunkID, m *replication.Message, buf *pagebuf.Buf, later *wakes.List) {
	out := getEffects()
	out.later, out.own = later, from == x.s.id
	x.mu.Lock()
	out.list = x.r.Receive(from, m, out.list)
	x.mu.Unlock()
	x.perform(out, buf)
}

// stored hands the outcome of a store operation to the machine. buf as in receive.
func (x *replicaShell) stored(d *replication.StoreDone, buf *pagebuf.Buf, later *wakes.List) {
	out := getEffects()
	out.later = later
	x.mu.Lock()
	out.list = x.r.StoreDone(d, out.list)
	x.mu.Unlock()
	x.perform(out, buf)
}

func (x *replicaShell) perform(out *effects, buf *pagebuf.Buf) {
	for i := range out.list {
		e := &out.list[i]
		switch e.Kind {
		case replication.EffSend:
			x.s.metrics.noteAnswer(&e.Msg)
			x.s.send(e.To, &e.Msg, buf, out.later)
		case replication.EffStore:
			x.s.store(x, e, buf, out)
		case replication.EffAskLease:
			x.s.leases.wanted(replication.VolumeEpoch{Volume: e.Msg.Volume, Epoch: e.Msg.Epoch}, e.Holder, e.To)
		}
	}
	out.put()
}
