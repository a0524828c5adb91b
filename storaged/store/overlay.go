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
//
// Under random writes over a large volume each extent has an overlay with a block or two: that much lies in the overlay itself.
type overlay struct {
	marks  pageMarks
	pages  map[uint32]uint64 // nil until needed
	blocks blockTable
}

func (o *overlay) reset() {
	o.blocks.reset()
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
	m.count++
	if m.count > 1 {
		return false
	}
	_, unmapped := o.pages[p]
	return !unmapped
}

// putPage records that the whole page is unmapped.
func (o *overlay) putPage(p uint32, stamp uint64) (newPage bool) {
	newPage = !o.touched(p)
	if o.marks.get(p).count != 0 {
		m := o.marks.of(p)
		for b := p * pageBlocks; b < (p+1)*pageBlocks && m.count > 0; b++ {
			if o.blocks.remove(b) {
				m.count--
			}
		}
	}
	if o.pages == nil {
		o.pages = map[uint32]uint64{}
	}
	o.pages[p] = stamp
	return newPage
}

// kept is about how many entries the memory beside itself could hold that an emptied overlay keeps.
func (o *overlay) kept() int {
	n := o.blocks.most
	if o.marks.all != nil {
		n += pagesPerExtent / 8
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
