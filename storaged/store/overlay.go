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
// page entries (a whole page unmapped with that stamp), which win over what lies below.
type overlay struct {
	blocks map[uint32]ovEntry
	pages  map[uint32]uint64
	count  [pagesPerExtent]uint16 // block entries per page
	// promised has, per page, a bit for each unit for which space is reserved on account of an entry.
	promised [pagesPerExtent]uint16
	dirty    int // pages with any entry
}

func newOverlay() *overlay {
	return &overlay{blocks: map[uint32]ovEntry{}, pages: map[uint32]uint64{}}
}

func (o *overlay) reset() {
	clear(o.blocks)
	clear(o.pages)
	o.count = [pagesPerExtent]uint16{}
	o.promised = [pagesPerExtent]uint16{}
	o.dirty = 0
}

func (o *overlay) touched(page uint32) bool {
	if o.count[page] != 0 {
		return true
	}
	if len(o.pages) == 0 {
		return false
	}
	_, ok := o.pages[page]
	return ok
}

// put records a block and reports whether its page had no entry before.
func (o *overlay) put(b block.No, e ovEntry) (newPage bool) {
	n := len(o.blocks)
	o.blocks[uint32(b)] = e
	if len(o.blocks) == n {
		return false
	}
	p := uint32(b) / pageBlocks
	newPage = !o.touched(p)
	o.count[p]++
	if newPage {
		o.dirty++
	}
	return newPage
}

// putPage records that the whole page is unmapped.
func (o *overlay) putPage(p uint32, stamp uint64) (newPage bool) {
	newPage = !o.touched(p)
	if newPage {
		o.dirty++
	}
	if o.count[p] != 0 {
		for b := p * pageBlocks; b < (p+1)*pageBlocks && o.count[p] > 0; b++ {
			if _, ok := o.blocks[b]; ok {
				delete(o.blocks, b)
				o.count[p]--
			}
		}
	}
	o.pages[p] = stamp
	return newPage
}

// overlayPool keeps emptied overlays, so that a steady load allocates none. Guarded by Store.mu.
type overlayPool struct{ free []*overlay }

const overlaysKept = 256

func (p *overlayPool) take() *overlay {
	if n := len(p.free); n > 0 {
		o := p.free[n-1]
		p.free = p.free[:n-1]
		return o
	}
	return newOverlay()
}

func (p *overlayPool) give(o *overlay) {
	if o != nil && len(p.free) < overlaysKept {
		o.reset()
		p.free = append(p.free, o)
	}
}
