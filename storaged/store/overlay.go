package store

import "github.com/iomesh/iomesh/storaged/block"

// ovEntry is what is known of one block: where its data lies, its checksum and stamp. Pointer-free.
type ovEntry struct {
	stamp uint64
	loc   uint64
	crc   uint32
}

// Bits of ovEntry.loc. Without locWritten and locBad the block is unwritten. The low bits are a block of the journal ring
// (locJournal) or of the data region (unit × 16 + block).
const (
	locWritten = 1 << 63
	locBad     = 1 << 62
	locJournal = 1 << 61
	locInherit = 1 << 60 // came from a write into an older layer that this one shares
	locRepair  = 1 << 59 // good data for a block whose record is right: may be written in place even if shared
	locMask    = 1<<48 - 1
)

func (e ovEntry) state() State {
	switch {
	case e.loc&locBad != 0:
		return Bad
	case e.loc&locWritten != 0:
		return Written
	}
	return Unwritten
}

// overlay holds the changes of one layer that are in the journal and not yet in its map pages: block entries, which win over
// runs (whole units written together), which win over page entries (a whole page unmapped with that stamp), which win over
// what lies below. A page entry put removes all else of its page, and a run the block entries of its unit; a block entry leaves
// the run it lies over.
//
// Under random writes over a large volume each extent has an overlay with a block or two: that much lies in the overlay itself.
type overlay struct {
	marks  pageMarks
	pages  map[uint32]uint64 // nil until needed
	runs   *runTable         // likewise
	blocks blockTable
}

func (o *overlay) reset() {
	o.blocks.reset()
	o.runs.reset()
	o.marks.reset()
	clear(o.pages)
}

// touched reports whether the page has any entry.
func (o *overlay) touched(page uint32) bool {
	if o.marks.get(page).count != 0 {
		return true
	}
	_, ok := o.pages[page]
	return ok
}

// put records a block and reports whether its page had no entry before.
func (o *overlay) put(b block.No, e ovEntry) (newPage bool) {
	if !o.blocks.put(uint32(b), e) {
		return false
	}
	p := uint32(b) / pageBlocks
	m := o.marks.of(p)
	if r := o.runsOf(*m); r != nil && r.has(unitOfPage(uint32(b))) {
		r.over++
		return false
	}
	m.count++
	if m.count > 1 {
		return false
	}
	_, unmapped := o.pages[p]
	return !unmapped
}

// putUnits records whole units of one page written together: one for each UnitBlocks of sums, data in consecutive places from loc on.
func (o *overlay) putUnits(first uint32, stamp, loc uint64, sums []uint32) (newPage bool) {
	page := first / pageBlocks
	newPage = !o.touched(page)
	if o.runs == nil {
		o.runs = &runTable{}
	}
	m := o.marks.of(page)
	r := o.runs.of(m, page, len(sums)/block.UnitBlocks)
	alone := o.alone(*m)
	for len(sums) > 0 {
		removed := uint16(0)
		if alone > 0 {
			removed = o.blocks.removeUnit(first)
			alone -= removed
		}
		u := unitOfPage(first)
		x := r.find(u)
		if x != nil {
			r.over -= removed
		} else {
			x = r.add(u)
			m.count += block.UnitBlocks - removed
		}
		x.stamp, x.loc, x.crc = stamp, loc, [block.UnitBlocks]uint32(sums)
		first, loc, sums = first+block.UnitBlocks, loc+block.UnitBlocks, sums[block.UnitBlocks:]
	}
	return newPage
}

// putPage records that the whole page is unmapped.
func (o *overlay) putPage(p uint32, stamp uint64) (newPage bool) {
	newPage = !o.touched(p)
	if o.marks.get(p).count != 0 {
		m := o.marks.of(p)
		alone := o.alone(*m)
		for b := p * pageBlocks; b < (p+1)*pageBlocks && alone > 0; b++ {
			if o.blocks.remove(b) {
				alone--
			}
		}
		if r := o.runsOf(*m); r != nil {
			r.clear()
		}
		m.count = 0
	}
	if o.pages == nil {
		o.pages = map[uint32]uint64{}
	}
	o.pages[p] = stamp
	return newPage
}

// runsOf returns the runs of the page with this mark, or nil.
func (o *overlay) runsOf(m pageMark) *pageRuns {
	if m.runs == 0 {
		return nil
	}
	return &o.runs.pages[m.runs-1]
}

// alone counts the entries that blocks of the page with this mark have of their own.
func (o *overlay) alone(m pageMark) uint16 {
	r := o.runsOf(m)
	if r == nil {
		return m.count
	}
	return m.count - uint16(len(r.runs))*block.UnitBlocks + r.over
}

// unitOfPage is the unit of its page that a block is in.
func unitOfPage(b uint32) uint32 { return b / block.UnitBlocks % pageUnits }

// get finds a block of the page with this mark.
func (o *overlay) get(b uint32, m pageMark) (ovEntry, bool) {
	if e, ok := o.blocks.get(b); ok {
		return e, true
	}
	if r := o.runsOf(m); r != nil {
		if x := r.find(unitOfPage(b)); x != nil {
			return x.entry(b % block.UnitBlocks), true
		}
	}
	return ovEntry{}, false
}

// fill fills in those blocks of one page, from start on, that it has and that are not there yet. It reports how many.
func (o *overlay) fill(start uint32, out []ovEntry, have *[pageBlocks]bool) (n int) {
	m := o.marks.get(start / pageBlocks)
	if m.count == 0 {
		return 0
	}
	if o.alone(m) > 0 {
		for i := range out {
			if have[i] {
				continue
			}
			if e, ok := o.blocks.get(start + uint32(i)); ok {
				out[i], have[i] = e, true
				n++
			}
		}
	}
	r := o.runsOf(m)
	if r == nil {
		return n
	}
	for i := uint32(0); i < uint32(len(out)); {
		b := start + i
		end := min(i+block.UnitBlocks-b%block.UnitBlocks, uint32(len(out)))
		if x := r.find(unitOfPage(b)); x != nil {
			for k := i; k < end; k++ {
				if !have[k] {
					out[k], have[k] = x.entry((start+k)%block.UnitBlocks), true
					n++
				}
			}
		}
		i = end
	}
	return n
}

// below reports whether each block from first up to last, of one page, has a stamp lower than stamp if it has an entry. It may say
// no where only a run that lies under block entries has not.
func (o *overlay) below(first, last uint32, stamp uint64) bool {
	m := o.marks.get(first / pageBlocks)
	if m.count == 0 {
		return true
	}
	if o.alone(m) > 0 {
		for b := first; b <= last; b++ {
			if e, ok := o.blocks.get(b); ok && e.stamp >= stamp {
				return false
			}
		}
	}
	if r := o.runsOf(m); r != nil {
		for u := unitOfPage(first); u <= unitOfPage(last); u++ {
			if x := r.find(u); x != nil && x.stamp >= stamp {
				return false
			}
		}
	}
	return true
}

// kept is about how many entries the memory beside itself could hold that an emptied overlay keeps.
func (o *overlay) kept() int {
	n := o.blocks.most + o.runs.kept()
	if o.marks.all != nil {
		n += pagesPerExtent / 6
	}
	return n
}

// overlayPool keeps emptied overlays, so that a steady load allocates none. Guarded by Store.mu.
type overlayPool struct {
	free []*overlay
	kept int // sum over free
}

// overlaysKept and overlayEntriesKept bound the pool: 3 MiB of overlays, and about 20 MiB of what they have beside themselves.
const (
	overlaysKept       = 16384
	overlayEntriesKept = entriesMax / 2
)

func (p *overlayPool) take() *overlay {
	n := len(p.free)
	if n == 0 {
		return &overlay{}
	}
	o := p.free[n-1]
	p.free[n-1] = nil
	p.free = p.free[:n-1]
	p.kept -= o.kept()
	return o
}

func (p *overlayPool) give(o *overlay) {
	if o == nil || len(p.free) == overlaysKept {
		return
	}
	o.reset()
	if p.kept+o.kept() > overlayEntriesKept {
		*o = overlay{}
	}
	p.kept += o.kept()
	p.free = append(p.free, o)
}
