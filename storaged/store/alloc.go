package store

import (
	"math/bits"
	"sync"
)

// bitmap allocates numbered things: a set bit is taken.
type bitmap struct {
	words []uint64
	size  uint32
	free  uint32
	next  uint32
}

func newBitmap(size uint32) *bitmap {
	b := &bitmap{words: make([]uint64, (size+63)/64), size: size, free: size}
	if r := size % 64; r != 0 {
		b.words[len(b.words)-1] = ^uint64(0) << r
	}
	return b
}

func (b *bitmap) taken(i uint32) bool { return b.words[i/64]>>(i%64)&1 != 0 }

// take marks i and reports whether it was free.
func (b *bitmap) take(i uint32) bool {
	if b.taken(i) {
		return false
	}
	b.words[i/64] |= 1 << (i % 64)
	b.free--
	return true
}

func (b *bitmap) release(i uint32) {
	if !b.taken(i) {
		panic("store: releasing what is free")
	}
	b.words[i/64] &^= 1 << (i % 64)
	b.free++
}

// find returns the first free number in [lo, hi).
func (b *bitmap) find(lo, hi uint32) (uint32, bool) {
	for i := lo; i < hi; {
		w := ^b.words[i/64] >> (i % 64)
		if w != 0 {
			if i += uint32(bits.TrailingZeros64(w)); i < hi {
				return i, true
			}
			return 0, false
		}
		i = (i/64 + 1) * 64
	}
	return 0, false
}

// run takes up to want consecutive free numbers, the first at or after hint if there is one, and returns how many.
func (b *bitmap) run(want, hint uint32) (start, got uint32) {
	if hint >= b.size {
		hint = 0
	}
	start, ok := b.find(hint, b.size)
	if !ok {
		if start, ok = b.find(0, hint); !ok {
			return 0, 0
		}
	}
	for got < want && start+got < b.size && b.take(start+got) {
		got++
	}
	return start, got
}

// unitRun is a run of units.
type unitRun struct{ start, count uint32 }

// allocator knows which units and slots are taken, and how many map pages point to each unit. Units freed by a checkpoint in
// the making stay taken until it is durable.
type allocator struct {
	mu           sync.Mutex
	units        *bitmap
	slots        *bitmap
	unitRef      []uint16 // map pages that point to a unit; changed by the destager only
	slotRef      []uint16 // table nodes that point to the map page in a slot; not on disk, counted at Open
	reserve      uint32   // units kept back
	reserveSlots uint32
}

// allocUnits takes want units in few runs, appended to runs; all or nothing. keep units stay free.
func (a *allocator) allocUnits(runs []unitRun, want, hint, keep uint32) ([]unitRun, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.units.free < want || a.units.free-want < keep {
		return runs, false
	}
	for want > 0 {
		start, got := a.units.run(want, hint)
		runs = append(runs, unitRun{start, got})
		want -= got
		hint = start + got
	}
	return runs, true
}

func (a *allocator) freeUnits(runs []unitRun) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range runs {
		for i := range r.count {
			a.units.release(r.start + i)
		}
	}
}

func (a *allocator) freeCounts() (units, slots uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.units.free, a.slots.free
}

// allocSlot takes a slot; consecutive calls give consecutive slots where they are free. Slot 0 is never given.
func (a *allocator) allocSlot() (uint32, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	start, got := a.slots.run(1, a.slots.next)
	if got == 0 {
		return 0, false
	}
	a.slots.next = start + 1
	return start, true
}

// exclusive reports whether a unit is pointed to by one map page only.
func (a *allocator) exclusive(slot, unit uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.slotRef[slot] == 1 && a.unitRef[unit] == 1
}
