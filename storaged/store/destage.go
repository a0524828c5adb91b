package store

import (
	"fmt"
	"slices"
	"time"
)

// sealRequest asks the committer to close the active generation between two batches.
type sealRequest struct {
	done chan struct{}
	out  sealedState
}

// sealedState is the store as of a seal, as the checkpoint will record it.
type sealedState struct {
	root     root
	endAbs   uint64
	replicas []replicaState
	fences   []VolumeFence
	dead     []*layer
	used     uint64 // blocks of the ring the checkpoint will free
}

// replicaState is a replica as of a seal.
type replicaState struct {
	r        *replica
	dir      dirReplica
	reshaped bool
}

// serveSeal does what the destager asked for, if it did. It is the committer's, between two batches: whatever is in an overlay
// is durable then, and a place in the journal separates what is sealed from what is not.
func (s *Store) serveSeal() {
	s.qmu.Lock()
	req := s.seal
	s.seal = nil
	if req != nil {
		s.progress = 0
	}
	s.qmu.Unlock()
	if req == nil {
		return
	}
	s.mu.Lock()
	for _, l := range s.active.layers {
		l.sealed, l.active = l.active, nil
	}
	s.sealed, s.active = s.active, generation{layers: s.sealed.layers[:0], runs: s.sealed.runs[:0]}
	st := &req.out
	st.endAbs = s.ring.head
	st.used = s.ring.head - s.ring.tail.Load()
	st.root = root{
		checkpoint: s.ring.checkpoint.Load() + 1, seq: s.ring.seq,
		lap: uint32(s.ring.head / s.ring.blocks), pos: uint32(s.ring.head % s.ring.blocks), nextHandle: s.nextHandle,
	}
	st.fences = s.fencesLocked()
	st.dead = slices.Clone(s.dead)
	for _, r := range s.dirty {
		r.dirty = false
	}
	clear(s.dirty)
	s.dirty = s.dirty[:0]
	for _, r := range s.replicas {
		x := replicaState{r: r, reshaped: r.reshaped, dir: dirReplica{
			extent: r.id, handle: r.handle, lineage: r.lineage, epoch: r.epoch, generation: r.generation, watermark: r.watermark,
			highest: r.highest, joinStart: r.joinStart,
		}}
		if r.joining {
			x.dir.flags |= replicaJoining
		}
		if r.suspect {
			x.dir.flags |= replicaSuspect
		}
		r.baseTag = replicaTag{r.epoch, r.generation}
		if r.reshaped {
			r.base, r.reshaped = slices.Clone(r.layers), false
		}
		st.replicas = append(st.replicas, x)
	}
	s.mu.Unlock()
	close(req.done)
}

// destageLoop is the destager: the goroutine that moves what is in the journal to its place and writes checkpoints.
func (s *Store) destageLoop() {
	defer s.wg.Done()
	every := time.Second
	if s.opts.DestageIdle > 0 {
		every = min(every, s.opts.DestageIdle)
	}
	tick := time.NewTicker(max(every/2, 5*time.Millisecond))
	defer tick.Stop()
	d := newDestager(s)
	for {
		select {
		case <-s.stop:
			return
		case <-s.kick:
		case <-tick.C:
		}
		for s.failure() == nil && s.wantsCycle() {
			if err := d.cycle(); err != nil {
				_ = s.fail(fmt.Errorf("checkpoint: %w", err))
			}
			select {
			case <-s.stop:
				return
			default:
			}
		}
	}
}

// wantsCycle decides whether to run a destage cycle now.
func (s *Store) wantsCycle() bool {
	used := s.ring.used()
	s.mu.RLock()
	dead, entries := len(s.dead), s.active.entries
	slotsNeeded := s.active.slots() + s.sealed.slots()
	s.mu.RUnlock()
	_, slots := s.alloc.freeCounts()
	s.qmu.Lock()
	defer s.qmu.Unlock()
	switch {
	case s.cycles.wanted > s.cycles.done:
	case used*100 >= s.ring.blocks*uint64(s.opts.DestageFill):
	case entries > entriesMax:
	case slotsNeeded > int64(slots)/2:
	case dead > 0 && time.Since(s.lastBusy) > reclaimIdle, dead > reclaimLayers:
	case s.opts.DestageIdle >= 0 && used > 0 && time.Since(s.lastBusy) > s.opts.DestageIdle:
	default:
		return false
	}
	return true
}

const (
	// entriesMax bounds the memory of overlays: at about 40 bytes per entry.
	entriesMax = 1 << 20
	// reclaimIdle is how long a disk must have been without writes before deleted layers are freed one by one.
	reclaimIdle = 200 * time.Millisecond
	// reclaimLayers is how many deleted layers are kept waiting for an idle moment.
	reclaimLayers = 64
	// reclaimPages bounds the map pages read per cycle to free deleted layers.
	reclaimPages = 16384
)

// move is a block to be brought from the journal to a unit.
type move struct {
	src uint64 // absolute block of the journal
	dst uint64 // unit × 16 + block
}

// shift is a run of blocks to be copied between units.
type shift struct{ src, dst, n uint64 }

// destager holds one cycle. Everything it builds is new: pages in fresh slots, tables in nodes of its own. Readers see the
// old tables, under the sealed overlays, until the checkpoint is durable and install puts the new ones in place.
type destager struct {
	s      *Store
	st     sealedState
	shadow shadows
	nodes  spareNodes
	moves  []move
	shifts []shift
	units  []uint32 // freed by the checkpoint
	slots  []uint32 // freed by the checkpoint
	// sources are units some shift reads: moves come before shifts, so that nothing may be moved into them.
	sources map[uint32]struct{}
	refs    []uint64 // bitmap of refcount pages to be written
	out     slotWriter
	pinned  []uint32
	hint    uint32
	pg      mapPage
	aux     mapPage
	alone   []destageEntry // scratch of planLayer, as runs and ents are
	runs    []*pageRuns
	ents    []destageEntry // of a page
	mover   mover
	drained []*layer // dead layers all of whose space is free
	dirNew  []uint32
	dir     dirScratch
}

type destageEntry struct {
	b uint32
	e ovEntry
}

func newDestager(s *Store) *destager {
	return &destager{s: s, refs: make([]uint64, (s.geo.refPages()+63)/64), mover: newMover(s)}
}

// cycle destages one generation and writes a checkpoint.
func (d *destager) cycle() error {
	s := d.s
	req := &sealRequest{done: make(chan struct{}), out: sealedState{replicas: d.st.replicas[:0]}}
	s.qmu.Lock()
	s.cycles.started++
	s.seal = req
	s.qcond.Broadcast()
	s.qmu.Unlock()
	select {
	case <-req.done:
	case <-s.stop:
		return nil
	}
	d.begin(req.out)
	t0 := time.Now()
	if err := d.plan(); err != nil {
		return err
	}
	t1 := time.Now()
	if err := d.mover.run(d); err != nil {
		return err
	}
	t2 := time.Now()
	if err := d.reclaim(); err != nil {
		return err
	}
	if err := d.checkpoint(); err != nil {
		return err
	}
	d.install()
	clear(d.st.replicas)
	s.log.Debug("checkpoint", "disk", s.disk.String(), "checkpoint", d.st.root.checkpoint, "moves", len(d.moves), "copies", len(d.shifts),
		"plan", t1.Sub(t0), "move", t2.Sub(t1), "write", time.Since(t2), "journalBlocks", d.st.used)
	return nil
}

func (d *destager) begin(st sealedState) {
	d.st = st
	slices.SortFunc(st.replicas, func(a, b replicaState) int { return int(a.r.handle) - int(b.r.handle) })
	d.moves, d.shifts = d.moves[:0], d.shifts[:0]
	d.units, d.slots = d.units[:0], d.slots[:0]
	d.pinned, d.drained, d.dirNew = d.pinned[:0], d.drained[:0], d.dirNew[:0]
	d.sources = map[uint32]struct{}{}
	clear(d.refs)
	d.out.reset(d.s)
}
