package store

import (
	"encoding/binary"
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
)

func putU32(p []byte, v uint32) { binary.LittleEndian.PutUint32(p, v) }

// verdict is what apply came to.
type verdict struct {
	what uint8
	page pageRef
}

const (
	applied   uint8 = iota // done, or w.Err is set
	needPage               // a map page has to be loaded first
	needBatch              // the batch has no room for the entries
	needCycle              // the disk has no room; a destage cycle may find some
)

// change is a run of blocks of a write that one entry describes.
type change struct {
	layer *layer
	from  int // first block, in the write
	n     int
	flags uint8
	pages bool // whole pages unmapped
}

// applier is scratch space of apply, the committer's.
type applier struct {
	own     []ovEntry
	take    []bool
	other   []ovEntry
	changes []change
}

// applyScratch grows the scratch to n blocks.
func (a *applier) size(n int) {
	if cap(a.own) < n {
		a.own, a.take, a.other = make([]ovEntry, n), make([]bool, n), make([]ovEntry, n)
	}
	a.own, a.take, a.other = a.own[:n], a.take[:n], a.other[:n]
}

// ownState fills out with the blocks of the range in l; a nil layer has none.
func (s *Store) ownState(l *layer, r block.Range, out []ovEntry) (pageRef, bool) {
	if l == nil {
		clear(out)
		return pageRef{}, true
	}
	for at := r.Start; at < r.End(); {
		end := min(r.End(), (at/pageBlocks+1)*pageBlocks)
		o := out[at-r.Start : end-r.Start]
		if ref, ok := s.lookup(l, at, o); !ok {
			return ref, false
		}
		at = end
	}
	return pageRef{}, true
}

// ownLower reports without loading anything that every block of the range in l has a stamp lower than stamp.
func (s *Store) ownLower(l *layer, r block.Range, stamp uint64) bool {
	if l == nil || stamp > l.max || s.opts.planted == bugStaleWrite {
		return true
	}
	if r.Count > blocksMax {
		return false
	}
	for p := uint32(r.Start) / pageBlocks; p <= uint32(r.End()-1)/pageBlocks; p++ {
		if l.baseHigh(p) >= stamp {
			return false
		}
		for x := l; x != nil; x = x.inherit {
			for _, o := range [2]*overlay{x.active, x.sealed} {
				if o == nil {
					continue
				}
				if len(o.pages) > 0 && o.pages[p] >= stamp {
					return false
				}
				if !o.below(max(uint32(r.Start), p*pageBlocks), min(uint32(r.End()), (p+1)*pageBlocks)-1, stamp) {
					return false
				}
			}
		}
	}
	return true
}

// takes decides whether block i of w replaces what the replica has (I14, and the rules of Kind).
func (w *Write) takes(i int, own ovEntry, r *replica) bool {
	stamp := w.stampOf(i)
	switch w.Kind {
	case Data, Unmap:
		return own.stamp < stamp
	case Copy:
		if own.stamp == stamp {
			return own.state() == Bad && w.stateOf(i) != Bad
		}
		return own.stamp < stamp || r.joining && !w.NewerOnly && own.stamp < r.joinStart
	case Repair:
		return own.stamp == stamp
	case MarkBad:
		if own.stamp == stamp {
			return own.state() != Bad
		}
		return own.stamp < stamp || r.joining && own.stamp < r.joinStart
	}
	return false
}

// apply gives w its effect in memory and adds its entries to the batch. Store.mu is held. Nothing is changed unless it is applied.
func (s *Store) apply(w *Write, room int) verdict {
	b, a := &s.batch, &s.applier
	r := s.replicaOf(w)
	if r == nil {
		w.Err = fmt.Errorf("%w: %s", ErrNoReplica, w.Extent)
		return verdict{}
	}
	if f := s.volumes[w.Extent.Volume]; w.Epoch != 0 && w.Epoch < f.Epoch {
		w.Err = fmt.Errorf("%w: write of epoch %d, volume %s is at %d", ErrStaleEpoch, w.Epoch, w.Extent.Volume, f.Epoch)
		return verdict{}
	}
	live := r.live()
	seq := w.SnapSeq
	if seq == block.LiveView {
		seq = 0
		if live != nil {
			seq = live.seq
		}
	}
	at, exists := r.find(seq)
	var target, from *layer
	if exists {
		target, from = r.layers[at], r.layers[at]
	} else if at > 0 {
		from = r.layers[at-1]
	}
	newer := r.layers[at:]
	if exists {
		newer = r.layers[at+1:]
	}
	a.changes = a.changes[:0]
	n := int(w.Range.Count)
	all := len(newer) == 0 && (w.Kind == Data || w.Kind == Unmap) && s.ownLower(from, w.Range, uint64(w.Stamp))
	if all {
		s.plan(w, target, n, nil, 0)
	} else if v := s.planSlow(w, r, target, from, newer); v.what != applied || w.Err != nil {
		return v
	}
	r.epoch = max(r.epoch, w.Epoch)
	r.generation = max(r.generation, w.Generation)
	r.watermark = max(r.watermark, uint64(w.Watermark))
	if len(a.changes) == 0 {
		return verdict{}
	}
	size := 0
	if !exists {
		size += entryBytes
		if s.layersOfKin(r) >= layersMax {
			w.Err = fmt.Errorf("%w: %s", ErrTooManyLayers, r.id)
			return verdict{}
		}
	}
	for _, c := range a.changes {
		size += entryBytes
		if c.flags&fWritten != 0 {
			size += 4 * c.n
		}
		if c.flags&fStamps != 0 {
			size += 8 * c.n
		}
	}
	if len(b.head)+size > room {
		return verdict{what: needBatch}
	}
	for _, c := range a.changes {
		if c.layer != nil && c.layer.clones > 0 {
			// A clone that still looks through this layer must not see the change: give it its own pages first.
			return verdict{what: needCycle}
		}
	}
	if v := s.reserve(w, r); v.what != applied {
		return v
	}
	b.touch(r.handle)
	if !exists {
		e := entry{typ: eLayer, handle: s.nextHandle, extent: r.id, snapSeq: seq, epoch: w.Epoch, generation: r.generation}
		if from != nil {
			e.start = from.handle
		}
		target = s.addLayer(r, e.handle, seq, from)
		b.add(&e)
	}
	for _, c := range a.changes {
		if c.layer == nil {
			c.layer = target
		}
		s.enact(w, r, c)
	}
	if w.q.units > 0 {
		s.active.runs = append(s.active.runs, w.q.runs...)
		w.q.runs = w.q.runs[:0]
	}
	return verdict{}
}

// planSlow decides block by block, for the target layer and for newer layers that share what is replaced.
func (s *Store) planSlow(w *Write, r *replica, target, from *layer, newer []*layer) verdict {
	a := &s.applier
	n := int(w.Range.Count)
	a.size(n)
	if ref, ok := s.ownState(from, w.Range, a.own); !ok {
		return verdict{needPage, ref}
	}
	var flags uint8
	for i := range n {
		a.take[i] = w.takes(i, a.own[i], r)
		if a.take[i] && w.Kind == Repair && a.own[i].state() == Written {
			if sums := w.sumsOf(); w.stateOf(i) != Written || sums[i] != a.own[i].crc {
				w.Err = fmt.Errorf("%w: repair of block %d of %s is not what was written with stamp %s", ErrInvalid,
					w.Range.Start+block.No(i), w.Extent, block.Stamp(a.own[i].stamp))
				return verdict{}
			}
			flags = fRepair
		}
	}
	s.plan(w, target, n, a.take, flags)
	if w.Kind == Repair {
		return verdict{}
	}
	for _, l := range newer {
		if ref, ok := s.ownState(l, w.Range, a.other); !ok {
			a.changes = a.changes[:0]
			return verdict{needPage, ref}
		}
		more := false
		for i := range n {
			// A newer view has the block from this one if it has the same stamp. And whatever belongs to this view belongs to
			// each newer one that has nothing newer: stamps order all writes of the extent.
			a.take[i] = a.take[i] && (a.other[i].stamp == a.own[i].stamp || a.other[i].stamp < w.stampOf(i))
			more = more || a.take[i]
		}
		if !more {
			break
		}
		s.plan(w, l, n, a.take, fInherit)
	}
	return verdict{}
}

// plan appends the changes of layer l (nil: the layer to be created) for the blocks taken (nil: all).
func (s *Store) plan(w *Write, l *layer, n int, take []bool, flags uint8) {
	a := &s.applier
	for i := 0; i < n; {
		if take != nil && !take[i] {
			i++
			continue
		}
		j := i + 1
		st, unit := w.stateOf(i), w.inUnits(i)
		perBlock := false
		for j < n && (take == nil || take[j]) && w.stateOf(j) == st && w.inUnits(j) == unit {
			if st == Written && w.dataOf(j) != w.dataOf(i)+uint64(j-i) {
				break
			}
			if w.stampOf(j) != w.stampOf(i) {
				perBlock = true
			}
			j++
		}
		c := change{layer: l, from: i, n: j - i, flags: flags}
		if perBlock {
			c.flags |= fStamps
		}
		switch st {
		case Written:
			c.flags |= fWritten
			if unit {
				c.flags |= fUnits
			}
		case Bad:
			c.flags |= fBad
		case Unwritten:
			if !perBlock {
				a.planUnmap(w, c)
				i = j
				continue
			}
		}
		a.changes = append(a.changes, c)
		i = j
	}
}

// planUnmap splits an unmap into blocks, whole pages, blocks.
func (a *applier) planUnmap(w *Write, c change) {
	first := int(w.Range.Start) + c.from
	end := first + c.n
	lo := (first + pageBlocks - 1) / pageBlocks * pageBlocks
	hi := end / pageBlocks * pageBlocks
	if lo >= hi || c.flags&fInherit != 0 {
		a.changes = append(a.changes, c)
		return
	}
	part := func(from, to int, pages bool) {
		if from < to {
			p := c
			p.from, p.n, p.pages = from-int(w.Range.Start), to-from, pages
			a.changes = append(a.changes, p)
		}
	}
	part(first, lo, false)
	part(lo, hi, true)
	part(hi, end, false)
}

// inUnits reports whether the data of block i of w was written to units.
func (w *Write) inUnits(i int) bool {
	return w.q.units > 0 && i >= int(w.q.head) && i < int(w.q.head+w.q.units*block.UnitBlocks)
}

// dataOf is where the data of block i of w is: a block of the batch's data or of the data region.
func (w *Write) dataOf(i int) uint64 {
	if !w.inUnits(i) {
		if w.q.units > 0 && i >= int(w.q.head) {
			i -= int(w.q.units) * block.UnitBlocks
		}
		return uint64(w.q.data) + uint64(i)
	}
	i -= int(w.q.head)
	u := uint32(i / block.UnitBlocks)
	for _, r := range w.q.runs {
		if u < r.count {
			return uint64(r.start+u)*block.UnitBlocks + uint64(i%block.UnitBlocks)
		}
		u -= r.count
	}
	panic("store: large write without units")
}

// enact adds the entry of one change to the batch and puts its blocks into the overlay.
func (s *Store) enact(w *Write, r *replica, c change) {
	b := &s.batch
	first := w.Range.Start + block.No(c.from)
	e := entry{
		typ: ePut, flags: c.flags, handle: c.layer.handle, extent: r.id, start: uint32(first), count: uint32(c.n), snapSeq: c.layer.seq,
		stamp: w.stampOf(c.from), epoch: w.Epoch, generation: r.generation, watermark: r.watermark,
	}
	if c.pages {
		e.typ = eUnmapPage
		e.start, e.count = e.start/pageBlocks, e.count/pageBlocks
		b.add(&e)
		for p := range e.count {
			s.putPage(c.layer, e.start+p, e.stamp)
		}
		return
	}
	var sums []uint32
	loc := uint64(0)
	if c.flags&fWritten != 0 {
		sums = w.sumsOf()[c.from : c.from+c.n]
		e.data = w.dataOf(c.from)
		loc = e.loc(b.start + b.headLen)
	}
	loc |= e.locFlags()
	if c.takesUnits() {
		s.promise(r, c.layer, uint32(first), uint32(first)+uint32(c.n)-1)
	}
	b.add(&e)
	for _, x := range sums {
		b.head = binary.LittleEndian.AppendUint32(b.head, x)
	}
	if sums != nil && c.flags&fStamps == 0 {
		s.putWritten(c.layer, first, e.stamp, loc, sums)
		return
	}
	for i := range c.n {
		o := ovEntry{stamp: e.stamp, loc: loc}
		if c.flags&fStamps != 0 {
			o.stamp = w.stampOf(c.from + i)
			b.head = binary.LittleEndian.AppendUint64(b.head, o.stamp)
		}
		if sums != nil {
			o.crc = sums[i]
			loc++
		}
		s.put(c.layer, first+block.No(i), o)
	}
}

// loc is where the first block of a put with data lies; dataAbs is the absolute position of the batch's data.
func (e *entry) loc(dataAbs uint64) uint64 {
	if e.flags&fUnits != 0 {
		return locWritten | e.data
	}
	return locWritten | locJournal | (dataAbs + e.data)
}

func (e *entry) locFlags() (f uint64) {
	if e.flags&fBad != 0 {
		f |= locBad
	}
	if e.flags&fInherit != 0 {
		f |= locInherit
	}
	if e.flags&fRepair != 0 {
		f |= locRepair
	}
	return f
}

// reserve makes sure that the destager will find room for what the planned changes journal (I5: before the record is
// written). Repair and unmaps may use the reserve, since they are what makes room and keeps data good.
func (s *Store) reserve(w *Write, r *replica) verdict {
	units, pages := int64(0), 0
	for _, c := range s.applier.changes {
		first := uint32(w.Range.Start) + uint32(c.from)
		last := first + uint32(c.n) - 1
		pages += int(last/pageBlocks - first/pageBlocks + 1)
		if c.takesUnits() {
			units += s.unitsFor(r, c.layer, first, last)
		}
	}
	free, slots := s.alloc.freeCounts()
	room := int64(free) - s.active.units - s.sealed.units
	roomSlots := int64(slots) - s.active.slots() - s.sealed.slots()
	keep, keepSlots := int64(s.alloc.reserve), int64(s.alloc.reserveSlots)
	if w.Kind == Unmap || w.Kind == Repair || w.Kind == MarkBad {
		keep, keepSlots = 0, keepSlots/2
	}
	if roomSlots-2*int64(pages) < keepSlots {
		return verdict{what: needCycle}
	}
	if room-units < keep && units > 0 {
		exact, ref := s.exactUnits(w)
		if ref.slot != 0 {
			return verdict{needPage, ref}
		}
		if room-exact < keep && exact > 0 {
			return verdict{what: needCycle}
		}
	}
	return verdict{}
}

// takesUnits reports whether the destager may need units for the change: for data in the journal, and where only a part of a
// fresh unit is shared with a newer layer.
func (c *change) takesUnits() bool {
	return c.flags&fWritten != 0 && (c.flags&fUnits == 0 || c.flags&fInherit != 0)
}

// unitsFor is an upper bound, without loading anything, of the units needed for blocks first to last of a layer (nil: a new
// one), beside those promised already. It is exact where nothing is shared.
func (s *Store) unitsFor(r *replica, l *layer, first, last uint32) (n int64) {
	alone := r.alone(l)
	for u := first / block.UnitBlocks; u <= last/block.UnitBlocks; u++ {
		if !s.provided(l, alone, u/pageUnits, uint16(1)<<(u%pageUnits)) {
			n++
		}
	}
	return n
}

// provided reports whether a unit is there or promised for the blocks of a layer.
func (s *Store) provided(l *layer, alone bool, page uint32, bit uint16) bool {
	if l == nil {
		return false
	}
	if l.active != nil && l.active.marks.get(page).promised&bit != 0 {
		return true
	}
	if !alone {
		return false
	}
	if l.active != nil && len(l.active.pages) > 0 {
		if _, ok := l.active.pages[page]; ok {
			return false
		}
	}
	if l.sealed != nil {
		if l.sealed.marks.get(page).promised&bit != 0 {
			return true
		}
		if _, ok := l.sealed.pages[page]; ok {
			return false
		}
	}
	n := l.nodes[page/nodePages]
	return n != nil && n.mask[page%nodePages]&bit != 0
}

// promise counts the units needed for blocks first to last of a layer, as unitsFor does, and notes that they are.
func (s *Store) promise(r *replica, l *layer, first, last uint32) {
	alone := r.alone(l)
	o := s.overlayOf(l)
	for u := first / block.UnitBlocks; u <= last/block.UnitBlocks; u++ {
		page, bit := u/pageUnits, uint16(1)<<(u%pageUnits)
		if !s.provided(l, alone, page, bit) {
			o.marks.of(page).promised |= bit
			s.active.units++
		}
	}
}

// exactUnits is how many units the journalled blocks of the planned changes really need: none where the block's unit is
// there and nobody else's.
func (s *Store) exactUnits(w *Write) (int64, pageRef) {
	var need int64
	for _, c := range s.applier.changes {
		if !c.takesUnits() {
			continue
		}
		first := uint32(w.Range.Start) + uint32(c.from)
		for u := first / block.UnitBlocks; u <= (first+uint32(c.n)-1)/block.UnitBlocks; u++ {
			l := c.layer
			if l == nil || l.inherit != nil || c.flags&fInherit != 0 {
				need++ // shared with the layer it begins as
				continue
			}
			page := u / pageUnits
			if l.active != nil && l.active.marks.get(page).promised>>(u%pageUnits)&1 != 0 {
				continue
			}
			pg, _, ref := s.basePage(l, page)
			if pg == nil && ref.slot != 0 {
				return 0, ref
			}
			n := l.nodes[page/nodePages]
			if pg == nil || pg.phys[u%pageUnits] == 0 || n.refs.Load() > 1 || !s.alloc.exclusive(n.slot[page%nodePages], pg.phys[u%pageUnits]-1) {
				need++
			}
		}
	}
	return need, pageRef{}
}
