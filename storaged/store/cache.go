package store

import "sync/atomic"

const (
	frameBytes = 4096 // a frame with its share of the index
	slabFrames = 64   // and the bits of a word of pageCache.used
)

// pageCache keeps decoded map pages by slot, bounded, with second-chance replacement. Guarded by Store.mu: readers look up
// under the read lock, everything else needs the write lock.
type pageCache struct {
	slabs  [][]mapPage
	slots  []uint32        // of each frame; 0: free
	used   []atomic.Uint64 // a bit of each frame: looked up since the hand passed
	pinned []bool
	index  map[uint32]uint32
	max    int
	hand   int
	free   []uint32

	hits, misses atomic.Uint64
}

func newPageCache(bytes int64) *pageCache {
	return &pageCache{index: map[uint32]uint32{}, max: int(max(bytes/frameBytes, 2*slabFrames))}
}

func (c *pageCache) frame(f uint32) *mapPage { return &c.slabs[f/slabFrames][f%slabFrames] }

// get returns the page in a slot, or nil. It is valid while the lock is held.
func (c *pageCache) get(slot uint32) *mapPage {
	f, ok := c.index[slot]
	if !ok {
		return nil
	}
	c.use(f)
	return c.frame(f)
}

// use notes that a frame was looked up. The bits of all frames stay in the processor's caches, where a word of each would not.
func (c *pageCache) use(f uint32) {
	if w, bit := &c.used[f/64], uint64(1)<<(f%64); w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// put stores a copy of pg.
func (c *pageCache) put(slot uint32, pg *mapPage) {
	f, ok := c.index[slot]
	if !ok {
		f = c.take()
		c.index[slot] = f
		c.slots[f] = slot
	}
	*c.frame(f) = *pg
	c.use(f)
}

func (c *pageCache) take() uint32 {
	if n := len(c.free); n > 0 {
		f := c.free[n-1]
		c.free = c.free[:n-1]
		return f
	}
	if len(c.slots) < c.max {
		c.grow()
		return c.take()
	}
	for range 2 * len(c.slots) {
		f := uint32(c.hand)
		c.hand = (c.hand + 1) % len(c.slots)
		if c.pinned[f] {
			continue
		}
		if bit := uint64(1) << (f % 64); c.used[f/64].And(^bit)&bit == 0 {
			delete(c.index, c.slots[f])
			c.slots[f] = 0
			return f
		}
	}
	// Everything is pinned: the pages of one output buffer of the destager, which are few; grow beyond the bound by a slab.
	c.grow()
	return c.take()
}

func (c *pageCache) grow() {
	base := uint32(len(c.slots))
	c.slabs = append(c.slabs, make([]mapPage, slabFrames))
	c.used = append(c.used, atomic.Uint64{})
	for i := range uint32(slabFrames) {
		c.slots = append(c.slots, 0)
		c.pinned = append(c.pinned, false)
		c.free = append(c.free, base+i)
	}
}

// pin keeps a page that is not on disk yet.
func (c *pageCache) pin(slot uint32, on bool) {
	if f, ok := c.index[slot]; ok {
		c.pinned[f] = on
	}
}

func (c *pageCache) drop(slot uint32) {
	if f, ok := c.index[slot]; ok {
		delete(c.index, slot)
		c.slots[f] = 0
		c.pinned[f] = false
		c.free = append(c.free, f)
	}
}
