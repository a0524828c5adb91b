package store

import (
	"iter"

	"github.com/iomesh/iomesh/storaged/block"
)

// fewBlocks is the number of entries a blockTable has without a map.
const fewBlocks = 4

// blockTable finds the entry of a block: few in itself, more in a map. The zero value has none.
type blockTable struct {
	n    int // entries, if many is not in use
	keys [fewBlocks]uint32
	few  [fewBlocks]ovEntry
	many map[uint32]ovEntry // in use if it has entries
	most int                // entries many has had since it was made
}

func (t *blockTable) len() int { return t.n + len(t.many) }

func (t *blockTable) reset() {
	t.n = 0
	t.most = max(t.most, len(t.many))
	clear(t.many)
}

func (t *blockTable) get(b uint32) (ovEntry, bool) {
	if len(t.many) > 0 {
		e, ok := t.many[b]
		return e, ok
	}
	for i, k := range t.keys[:t.n] {
		if k == b {
			return t.few[i], true
		}
	}
	return ovEntry{}, false
}

// put reports whether the block had no entry before.
func (t *blockTable) put(b uint32, e ovEntry) bool {
	if n := len(t.many); n > 0 {
		t.many[b] = e
		return len(t.many) > n
	}
	for i, k := range t.keys[:t.n] {
		if k == b {
			t.few[i] = e
			return false
		}
	}
	if t.n < fewBlocks {
		t.keys[t.n], t.few[t.n] = b, e
		t.n++
		return true
	}
	if t.many == nil {
		t.many = map[uint32]ovEntry{}
	}
	for i, k := range t.keys {
		t.many[k] = t.few[i]
	}
	t.many[b] = e
	t.n = 0
	return true
}

// remove reports whether the block had an entry.
func (t *blockTable) remove(b uint32) bool {
	if n := len(t.many); n > 0 {
		delete(t.many, b)
		return len(t.many) < n
	}
	for i, k := range t.keys[:t.n] {
		if k == b {
			t.n--
			t.keys[i], t.few[i] = t.keys[t.n], t.few[t.n]
			return true
		}
	}
	return false
}

// removeUnit removes the blocks of a unit and reports how many had an entry.
func (t *blockTable) removeUnit(first uint32) (n uint16) {
	for b := first; b < first+block.UnitBlocks; b++ {
		if t.remove(b) {
			n++
		}
	}
	return n
}

// all yields the entries in no particular order.
func (t *blockTable) all() iter.Seq2[uint32, ovEntry] {
	return func(yield func(uint32, ovEntry) bool) {
		for i, k := range t.keys[:t.n] {
			if !yield(k, t.few[i]) {
				return
			}
		}
		for k, e := range t.many {
			if !yield(k, e) {
				return
			}
		}
	}
}

// pageMark is what an overlay notes of one page.
type pageMark struct {
	count uint16 // blocks that have an entry, of their own or in a run
	// promised has a bit for each unit for which space is reserved on account of an entry.
	promised uint16
	// runs is the place of the page in the runTable plus one; 0 as long as it had no run.
	runs uint16
}

// fewMarks is the number of pages an overlay notes in itself; more need an array for all pages.
const fewMarks = 4

// pageMarks are the pageMarks of an overlay, by page. The zero value has none.
type pageMarks struct {
	n     int
	pages [fewMarks]uint32
	few   [fewMarks]pageMark
	all   *[pagesPerExtent]pageMark // in use if n is larger than fewMarks
}

func (m *pageMarks) reset() {
	if m.n > fewMarks {
		*m.all = [pagesPerExtent]pageMark{}
	}
	m.n = 0
}

func (m *pageMarks) get(page uint32) pageMark {
	if m.n > fewMarks {
		return m.all[page]
	}
	for i, p := range m.pages[:m.n] {
		if p == page {
			return m.few[i]
		}
	}
	return pageMark{}
}

// of returns the mark of a page for change, until the next call.
func (m *pageMarks) of(page uint32) *pageMark {
	if m.n > fewMarks {
		return &m.all[page]
	}
	for i, p := range m.pages[:m.n] {
		if p == page {
			return &m.few[i]
		}
	}
	m.n++
	if m.n <= fewMarks {
		m.pages[m.n-1], m.few[m.n-1] = page, pageMark{}
		return &m.few[m.n-1]
	}
	if m.all == nil {
		m.all = new([pagesPerExtent]pageMark)
	}
	for i, p := range m.pages {
		m.all[p] = m.few[i]
	}
	return &m.all[page]
}
