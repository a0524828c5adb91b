package chunk

import (
	"context"
	"fmt"
	"sync"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// peerEvent is a chunk that can be reached, or not any more, or (volume set) a new owned volume that has to learn who can.
type peerEvent struct {
	chunk  block.ChunkID
	boot   uint64
	up     bool
	volume *volume
}

// peers tells the owned volumes which chunks can be reached, in one order for all.
type peers struct {
	s *Server

	mu    sync.Mutex
	queue []peerEvent
	wake  chan struct{}
	// changed tells the reporter that a chunk has come or gone (capacity 1).
	changed chan struct{}

	up   map[block.ChunkID]uint64           // only in run
	away map[block.ChunkID]replication.Time // likewise: lost since
}

func newPeers(s *Server) *peers {
	return &peers{s: s, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1), up: map[block.ChunkID]uint64{}, away: map[block.ChunkID]replication.Time{}}
}

func (p *peers) post(e peerEvent) {
	p.mu.Lock()
	p.queue = append(p.queue, e)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *peers) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		p.mu.Lock()
		batch := p.queue
		p.queue = nil
		p.mu.Unlock()
		for _, e := range batch {
			p.handle(e)
		}
	}
}

func (p *peers) handle(e peerEvent) {
	switch {
	case e.volume != nil:
		e.volume.peerUp(p.s.id, p.s.boot)
		for id, boot := range p.up {
			e.volume.peerUp(id, boot)
		}
		for id, since := range p.away {
			e.volume.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
				return o.PeerAway(now, id, since, out)
			})
		}
		return
	case e.up:
		p.up[e.chunk] = e.boot
		delete(p.away, e.chunk)
	default:
		if _, was := p.up[e.chunk]; was {
			p.away[e.chunk] = p.s.now()
		}
		delete(p.up, e.chunk)
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
	p.s.volumes.change(func() {}) // logins may wait for an owner that is reached
	for _, v := range p.s.volumes.all() {
		if e.up {
			v.peerUp(e.chunk, e.boot)
		} else {
			v.peerDown(e.chunk)
		}
	}
}

func (v *volume) peerUp(id block.ChunkID, boot uint64) {
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.PeerUp(now, id, boot, out)
	})
}

func (v *volume) peerDown(id block.ChunkID) {
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.PeerDown(now, id, out)
	})
}

// liveness drops the connections to chunks that have stopped answering heartbeats: a process that is frozen keeps its
// connections, and what is queued to it would arrive late.
type liveness struct {
	mu   sync.Mutex
	last map[block.ChunkID]replication.Time
}

func (l *liveness) heard(id block.ChunkID, now replication.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		l.last = map[block.ChunkID]replication.Time{}
	}
	l.last[id] = now
}

// silent returns the chunks that have a control connection and have not answered for timeouts.ReplicaDrop, and when the next of the others will
// be such a one if it stays silent.
func (l *liveness) silent(now replication.Time) (out []block.ChunkID, next replication.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next = replication.NeverDue
	for id, t := range l.last {
		end := t.Add(timeouts.ReplicaDrop)
		if now >= end {
			out = append(out, id)
			delete(l.last, id)
			continue
		}
		next = min(next, end)
	}
	return out, next
}

// dropSilent ends the connections to silent chunks and returns when to look again.
func (s *Server) dropSilent() replication.Time {
	ids, next := s.alive.silent(s.now())
	for _, id := range ids {
		r := s.routes.get(id)
		for c := range r.out {
			if conn := r.out[c].Load(); conn != nil {
				conn.Close(fmt.Errorf("chunk %s has not answered heartbeats for %s", id, timeouts.ReplicaDrop))
			}
		}
	}
	return next
}

// unreachable lists the chunks of the cluster to which there is no data connection now.
func (s *Server) unreachable() []uint32 {
	s.mu.Lock()
	ids := make([]block.ChunkID, 0, len(s.chunks))
	for id := range s.chunks {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	var out []uint32
	for _, id := range ids {
		if id != s.id && !s.reaches(id) {
			out = append(out, uint32(id))
		}
	}
	return out
}
