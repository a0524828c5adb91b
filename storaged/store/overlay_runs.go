package store

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
)

// ovRun is what is known of the blocks of a whole unit that were written together: one stamp, data in consecutive places. It
// takes 5 bytes for a block, where an ovEntry in a map takes about 40. Pointer-free.
type ovRun struct {
	stamp uint64
	loc   uint64 // of the first block
	crc   [block.UnitBlocks]uint32
}

// entry is block i of the unit as an entry of its own.
func (r *ovRun) entry(i uint32) ovEntry { return ovEntry{r.stamp, r.loc + uint64(i), r.crc[i]} }

// pageRuns are the runs of one page.
type pageRuns struct {
	page uint32
	mask uint16  // units that have a run
	over uint16  // blocks of these units that have an entry of their own as well, which wins
	runs []ovRun // by unit
}

func (p *pageRuns) has(unit uint32) bool { return p.mask>>unit&1 != 0 }

// find returns the run of a unit of the page, or nil.
func (p *pageRuns) find(unit uint32) *ovRun {
	if !p.has(unit) {
		return nil
	}
	return &p.runs[p.before(unit)]
}

// before counts the runs of lower units.
func (p *pageRuns) before(unit uint32) int { return bits.OnesCount16(p.mask & (1<<unit - 1)) }

// add returns the run of a unit that had none, to be filled in.
func (p *pageRuns) add(unit uint32) *ovRun {
	i := p.before(unit)
	p.runs = append(p.runs, ovRun{})
	copy(p.runs[i+1:], p.runs[i:])
	p.mask |= 1 << unit
	return &p.runs[i]
}

func (p *pageRuns) clear() { p.mask, p.over, p.runs = 0, 0, p.runs[:0] }

// merge appends an entry for each block of the page, in order: from the runs and from alone, the entries of blocks of the page
// in order, which win.
func (p *pageRuns) merge(out, alone []destageEntry) []destageEntry {
	for mask, i := p.mask, 0; mask != 0; mask, i = mask&(mask-1), i+1 {
		first := p.page*pageBlocks + uint32(bits.TrailingZeros16(mask))*block.UnitBlocks
		for len(alone) > 0 && alone[0].b < first {
			out, alone = append(out, alone[0]), alone[1:]
		}
		for k := range uint32(block.UnitBlocks) {
			if len(alone) > 0 && alone[0].b == first+k {
				out, alone = append(out, alone[0]), alone[1:]
				continue
			}
			out = append(out, destageEntry{first + k, p.runs[i].entry(k)})
		}
	}
	return append(out, alone...)
}

// runTable has the runs of an overlay. A pageMark tells which element of pages is that of its page. Those beyond the length of
// pages keep their memory for the next pages.
type runTable struct {
	pages []pageRuns
	room  int // runs there is memory for
}

func (t *runTable) reset() {
	if t != nil {
		t.pages = t.pages[:0]
	}
}

// kept is about how many block entries its memory could hold: two for a run, one for a page.
func (t *runTable) kept() int {
	if t == nil {
		return 0
	}
	return 2*t.room + cap(t.pages)
}

// of returns the runs of a page, with memory for n more.
func (t *runTable) of(m *pageMark, page uint32, n int) *pageRuns {
	if m.runs == 0 {
		if len(t.pages) < cap(t.pages) {
			t.pages = t.pages[:len(t.pages)+1]
		} else {
			t.pages = append(t.pages, pageRuns{})
		}
		m.runs = uint16(len(t.pages))
		p := &t.pages[m.runs-1]
		p.clear()
		p.page = page
	}
	p := &t.pages[m.runs-1]
	if len(p.runs)+n > cap(p.runs) {
		t.room -= cap(p.runs)
		p.runs = slices.Grow(p.runs, min(n, pageUnits-len(p.runs)))
		t.room += cap(p.runs)
	}
	return p
}

// sorted appends the pages that have runs, in order. They are valid until the table is changed.
func (t *runTable) sorted(out []*pageRuns) []*pageRuns {
	if t == nil {
		return out
	}
	for i := range t.pages {
		if t.pages[i].mask != 0 {
			out = append(out, &t.pages[i])
		}
	}
	slices.SortFunc(out, func(a, b *pageRuns) int { return cmp.Compare(a.page, b.page) })
	return out
}
