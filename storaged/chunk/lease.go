package chunk

import (
	"sync"
	"sync/atomic"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// leases is the shell of the chunk's Lease machine. Its effects are performed in the order in which they were emitted, by
// whichever goroutine is at it: an exclusion must be known to the owner before the grant that came with it extends the
// promise, also when grants of several peers arrive at once.
type leases struct {
	s *Server

	// next is when tick has something to do.
	next atomic.Int64

	mu       sync.Mutex
	l        *replication.Lease
	queue    []replication.Effect
	draining bool
}

func newLeases(s *Server) *leases {
	x := &leases{s: s, l: replication.NewLease(replication.LeaseOptions{
		Self: s.id, Incarnation: s.boot, Started: s.now(), Feature: block.FeatureLevel})}
	replication.Plant{Bugs: s.o.Host.Bugs}.Lease(x.l)
	x.next.Store(int64(replication.NeverDue))
	return x
}

// due notes when the machine wants its next tick. x.mu is held.
func (x *leases) due() {
	next := int64(x.l.Next())
	switch before := x.next.Swap(next); {
	case next < before:
		x.s.ticker.poke()
	case next > before:
		x.s.ticker.beats() // heartbeats have been sent
	}
}

func (x *leases) receive(from block.ChunkID, m *replication.Message) {
	x.step(func(out []replication.Effect) []replication.Effect { return x.l.Receive(x.s.now(), from, m, out) })
}

func (x *leases) tick() {
	x.step(func(out []replication.Effect) []replication.Effect { return x.l.Tick(x.s.now(), out) })
}

func (x *leases) wanted(v replication.VolumeEpoch, holder, asker block.ChunkID) {
	x.step(func(out []replication.Effect) []replication.Effect {
		return x.l.Wanted(x.s.now(), v, holder, asker, out)
	})
}

func (x *leases) released(v replication.VolumeEpoch) {
	x.step(func(out []replication.Effect) []replication.Effect { return x.l.Released(x.s.now(), v, out) })
}

func (x *leases) peer(id block.ChunkID, up bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if up {
		x.l.PeerUp(id)
	} else {
		x.l.PeerDown(id)
	}
	x.due()
}

// promise is what is held from a chunk; for concurrent use.
func (x *leases) promise(id block.ChunkID) *replication.Promise { return x.l.Promise(id) }

func (x *leases) step(f func([]replication.Effect) []replication.Effect) {
	x.mu.Lock()
	x.queue = f(x.queue)
	x.due()
	if x.draining {
		x.mu.Unlock()
		return
	}
	x.draining = true
	for len(x.queue) > 0 {
		batch := x.queue
		x.queue = nil
		x.mu.Unlock()
		for i := range batch {
			x.perform(&batch[i])
		}
		x.mu.Lock()
	}
	x.draining = false
	x.mu.Unlock()
}

func (x *leases) perform(e *replication.Effect) {
	switch e.Kind {
	case replication.EffSend:
		x.s.send(e.To, &e.Msg, nil, nil)
	case replication.EffFree:
		x.s.replicas.epochFree(e.Msg.Volume, e.Msg.Epoch)
	case replication.EffExclude:
		v := replication.VolumeEpoch{Volume: e.Msg.Volume, Epoch: e.Msg.Epoch}
		if !x.s.volumes.excluded(v) {
			x.released(v)
		}
	case replication.EffExtend:
		x.promise(e.To).Extend(e.Until, e.Msg.Chain)
	}
}
