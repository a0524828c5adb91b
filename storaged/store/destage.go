package store

import (
	"fmt"
	"slices"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
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

// plan brings the sealed overlays into map pages, older layers first: a layer that begins as another shares its pages once
// those are complete.
func (d *destager) plan() error {
	s := d.s
	for _, x := range d.st.replicas {
		base := x.r.base
		for i, l := range base {
			if l.sealed == nil && l.inherit == nil && !x.reshaped {
				continue
			}
			sh := d.layer(l)
			sh.reshaped = x.reshaped
			if i > 0 {
				sh.prev = base[i-1]
			}
			if i+1 < len(base) {
				sh.next = base[i+1]
			}
		}
	}
	for _, x := range d.st.replicas {
		for _, l := range x.r.base {
			if err := d.planLayer(l); err != nil {
				return err
			}
		}
	}
	for _, x := range d.st.replicas {
		if x.reshaped {
			if err := d.recount(x.r.base); err != nil {
				return err
			}
		}
	}
	// Units of large writes that were replaced before they came into a page.
	s.alloc.mu.Lock()
	for _, r := range s.sealed.runs {
		for u := r.start; u < r.start+r.count; u++ {
			if s.alloc.unitRef[u] == 0 {
				d.units = append(d.units, u)
			}
		}
	}
	s.alloc.mu.Unlock()
	return nil
}

// layer returns the shadow of a layer.
func (d *destager) layer(l *layer) *shadowLayer { return d.shadow.of(l) }

// planLayer plans one layer, after those it needs.
func (d *destager) planLayer(l *layer) error {
	if l.sealed == nil && l.inherit == nil {
		return nil
	}
	sh := d.layer(l)
	if sh.planned {
		return nil
	}
	sh.planned = true
	if l.inherit != nil {
		if err := d.planLayer(l.inherit); err != nil {
			return err
		}
		from := d.layer(l.inherit)
		sh.nodes, sh.mapped = from.nodes, from.mapped
		for _, n := range sh.nodes {
			if n != nil {
				n.refs.Add(1)
			}
		}
	}
	if l.sealed == nil {
		return nil
	}
	d.alone = d.alone[:0]
	for b, e := range l.sealed.blocks.all() {
		d.alone = append(d.alone, destageEntry{b, e})
	}
	slices.SortFunc(d.alone, func(a, b destageEntry) int { return int(a.b) - int(b.b) })
	d.runs = l.sealed.runs.sorted(d.runs[:0])
	defer clear(d.runs)
	pages := make([]uint32, 0, len(l.sealed.pages))
	for p := range l.sealed.pages {
		pages = append(pages, p)
	}
	slices.Sort(pages)
	alone, runs := d.alone, d.runs
	for len(alone) > 0 || len(runs) > 0 || len(pages) > 0 {
		p := ^uint32(0)
		if len(alone) > 0 {
			p = alone[0].b / pageBlocks
		}
		if len(runs) > 0 {
			p = min(p, runs[0].page)
		}
		var unmap *uint64
		if len(pages) > 0 && pages[0] <= p {
			p = pages[0]
			stamp := l.sealed.pages[p]
			unmap = &stamp
			pages = pages[1:]
		}
		n := 0
		for n < len(alone) && alone[n].b/pageBlocks == p {
			n++
		}
		ents := alone[:n]
		alone = alone[n:]
		if len(runs) > 0 && runs[0].page == p {
			d.ents = runs[0].merge(d.ents[:0], ents)
			ents, runs = d.ents, runs[1:]
		}
		if err := d.planPage(l, sh, p, unmap, ents); err != nil {
			return fmt.Errorf("page %d of %s: %w", p, l.rep.id, err)
		}
	}
	return nil
}

// writable returns the node of the page for change.
func (d *destager) writable(sh *shadowLayer, page uint32) *node {
	s := d.s
	n := sh.nodes[page/nodePages]
	if n != nil && n.disk == 0 && n.refs.Load() == 1 {
		return n
	}
	c := d.nodes.copy(n)
	if n != nil {
		if n.refs.Load() > 1 {
			n.refs.Add(-1)
			s.alloc.mu.Lock()
			for _, slot := range c.slot {
				if slot != 0 && slot != slotLost {
					s.alloc.slotRef[slot]++
				}
			}
			s.alloc.mu.Unlock()
		} else {
			d.slots = append(d.slots, n.disk)
			d.nodes.replaced(n)
		}
	}
	sh.nodes[page/nodePages] = c
	return c
}

// loadInto fills pg with a page of a layer as planned so far.
func (d *destager) loadInto(pg *mapPage, l *layer, n *node, page uint32) error {
	if n == nil {
		*pg = mapPage{}
		return nil
	}
	i := page % nodePages
	switch slot := n.slot[i]; slot {
	case 0:
		*pg = mapPage{}
		for k := range pg.stamp {
			pg.stamp[k] = n.high[i]
		}
	case slotLost:
		lostPage(pg)
	default:
		s := d.s
		s.mu.RLock()
		c := s.cache.get(slot)
		if c != nil {
			*pg = *c
		}
		s.mu.RUnlock()
		if c != nil {
			return nil
		}
		// Like loadPage, but without a place in the cache: the page is about to be replaced.
		if err := s.readPage(pg, slotRef{slot, n.crc[i]}, l.rep.family(), page); err != nil {
			s.n.metaErrors.Add(1)
			s.corrupt(fmt.Sprintf("map page %d: %v", page, err), l.rep.id)
			lostPage(pg)
		}
	}
	return nil
}

// planPage makes a new version of one page of a layer.
func (d *destager) planPage(l *layer, sh *shadowLayer, page uint32, unmap *uint64, ents []destageEntry) error {
	s := d.s
	n := d.writable(sh, page)
	i := page % nodePages
	if err := d.loadInto(&d.pg, l, n, page); err != nil {
		return err
	}
	pg := &d.pg
	old := pg.phys
	if slot := n.slot[i]; slot != 0 && slot != slotLost {
		s.alloc.mu.Lock()
		s.alloc.slotRef[slot]--
		shared := s.alloc.slotRef[slot] > 0
		s.alloc.mu.Unlock()
		if shared {
			// The old page stays for others, so that its units now have one page more.
			for _, p := range pg.phys {
				if p != 0 {
					d.ref(p - 1)
				}
			}
		} else {
			d.slots = append(d.slots, slot)
		}
	}
	if unmap != nil {
		for _, p := range pg.phys {
			if p != 0 {
				d.deref(p - 1)
			}
		}
		*pg = mapPage{}
		for k := range pg.stamp {
			pg.stamp[k] = *unmap
		}
	}
	for len(ents) > 0 {
		u := ents[0].b / block.UnitBlocks
		k := 1
		for k < len(ents) && ents[k].b/block.UnitBlocks == u {
			k++
		}
		if err := d.planUnit(l, sh, page, int(u%pageUnits), ents[:k]); err != nil {
			return err
		}
		ents = ents[k:]
	}
	if pg.uniform() {
		n.slot[i], n.crc[i], n.high[i], n.mask[i] = 0, 0, pg.stamp[0], 0
	} else {
		slot, ok := s.alloc.allocSlot()
		if !ok {
			return fmt.Errorf("%w: no slot for a map page", ErrNoSpace)
		}
		h := slotHeader{
			checkpoint: d.st.root.checkpoint, volume: l.rep.lineage, index: l.rep.id.Index, number: page,
			epoch: l.rep.baseTag.epoch, generation: l.rep.baseTag.generation,
		}
		p, err := d.out.next(slot)
		if err != nil {
			return err
		}
		pg.encode(p, &h)
		n.slot[i], n.crc[i], n.high[i], n.mask[i] = slot, slotCRC(p), pg.highest(), pg.mask()
		s.alloc.mu.Lock()
		s.alloc.slotRef[slot] = 1
		s.alloc.mu.Unlock()
		s.mu.Lock()
		s.cache.put(slot, pg)
		s.cache.pin(slot, true)
		s.mu.Unlock()
		d.pinned = append(d.pinned, slot)
		if len(d.pinned) >= pinnedMax {
			if err := d.unpin(); err != nil {
				return err
			}
		}
	}
	return d.count(sh, page, &old, &pg.phys)
}

// pinnedMax is the number of pages kept in memory until they are written.
const pinnedMax = 256

// unpin writes the pages that are only in memory.
func (d *destager) unpin() error {
	if err := d.out.flush(); err != nil {
		return err
	}
	d.s.mu.Lock()
	for _, slot := range d.pinned {
		d.s.cache.pin(slot, false)
	}
	d.s.mu.Unlock()
	d.pinned = d.pinned[:0]
	return nil
}

func (d *destager) ref(u uint32) {
	a := d.s.alloc
	a.mu.Lock()
	a.unitRef[u]++
	a.mu.Unlock()
	d.refs[u/refsPerPage/64] |= 1 << (u / refsPerPage % 64)
}

func (d *destager) deref(u uint32) {
	a := d.s.alloc
	a.mu.Lock()
	a.unitRef[u]--
	free := a.unitRef[u] == 0
	a.mu.Unlock()
	d.refs[u/refsPerPage/64] |= 1 << (u / refsPerPage % 64)
	if free {
		d.units = append(d.units, u)
	}
}

func (d *destager) refcount(u uint32) uint16 {
	a := d.s.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unitRef[u]
}
