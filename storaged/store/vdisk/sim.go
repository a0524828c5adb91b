package vdisk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
)

// ErrPowerCut is returned by every request to a Sim after its power was cut.
var ErrPowerCut = errors.New("simulated power cut")

// sectorBytes is what a simulated disk writes whole.
const sectorBytes = 512

// Sim is a disk in memory with a volatile write cache: a write is seen by reads at once and survives a power cut only
// once it was flushed; before, any subset of its sectors may. It is sparse.
type Sim struct {
	mu        sync.Mutex
	name      string
	sizeBytes int64
	stable    map[int64]*[PageSize]byte
	pending   []pendingPage
	latest    map[int64]int // page -> index of its newest write in pending
	events    int
	cutAt     int
	cutSeed   uint64
	onEvent   func(n int)
	dead      bool
	requests  int64
}

type pendingPage struct {
	page    int64
	data    *[PageSize]byte
	request int64 // pages written together have the same
}

// NewSim returns a zeroed disk.
func NewSim(name string, sizeBytes int64) *Sim {
	return &Sim{name: name, sizeBytes: sizeBytes &^ (PageSize - 1), stable: map[int64]*[PageSize]byte{}, latest: map[int64]int{}, cutAt: -1}
}

func (d *Sim) check(p []byte, off int64) error {
	if d.dead {
		return ErrPowerCut
	}
	if off < 0 || off%PageSize != 0 || len(p)%PageSize != 0 || off+int64(len(p)) > d.sizeBytes {
		return fmt.Errorf("request of %d bytes at %d is not whole pages within the %d bytes of %s", len(p), off, d.sizeBytes, d.name)
	}
	return nil
}

// ReadAt implements Disk.
func (d *Sim) ReadAt(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(p, off); err != nil {
		return err
	}
	for i := 0; i < len(p); i += PageSize {
		page := (off + int64(i)) / PageSize
		switch {
		case d.has(page):
			copy(p[i:i+PageSize], d.pending[d.latest[page]].data[:])
		case d.stable[page] != nil:
			copy(p[i:i+PageSize], d.stable[page][:])
		default:
			clear(p[i : i+PageSize])
		}
	}
	return nil
}

func (d *Sim) has(page int64) bool { _, ok := d.latest[page]; return ok }

// WriteAt implements Disk.
func (d *Sim) WriteAt(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(p, off); err != nil {
		return err
	}
	d.write(p, off)
	return nil
}

func (d *Sim) write(p []byte, off int64) {
	d.requests++
	for i := 0; i < len(p); i += PageSize {
		b := new([PageSize]byte)
		copy(b[:], p[i:])
		page := (off + int64(i)) / PageSize
		d.latest[page] = len(d.pending)
		d.pending = append(d.pending, pendingPage{page, b, d.requests})
	}
}

// WriteDurable implements Disk. Other unflushed writes stay unflushed.
func (d *Sim) WriteDurable(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(p, off); err != nil {
		return err
	}
	d.write(p, off)
	if d.event() {
		return ErrPowerCut
	}
	keep := d.pending[:0]
	lo, hi := off/PageSize, (off+int64(len(p)))/PageSize
	for _, w := range d.pending {
		if w.page >= lo && w.page < hi {
			d.stable[w.page] = w.data
			delete(d.latest, w.page)
			continue
		}
		d.latest[w.page] = len(keep)
		keep = append(keep, w)
	}
	d.pending = keep
	return nil
}

// Flush implements Disk.
func (d *Sim) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return ErrPowerCut
	}
	if d.event() {
		return ErrPowerCut
	}
	for _, w := range d.pending {
		d.stable[w.page] = w.data
	}
	d.pending = d.pending[:0]
	clear(d.latest)
	return nil
}

// event counts a flush and reports whether power goes away just before it takes effect.
func (d *Sim) event() bool {
	d.events++
	if d.onEvent != nil {
		d.onEvent(d.events)
	}
	if d.events == d.cutAt {
		d.cut(d.cutSeed)
		return true
	}
	return false
}

// Flushes is the number of flushes and durable writes so far.
func (d *Sim) Flushes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.events
}

// CutAt arranges for the power to be cut just before flush n (counted as by Flushes, from 1) takes effect.
func (d *Sim) CutAt(n int, seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAt, d.cutSeed = n, seed
}

// Crash cuts the power now: of the unflushed sectors a random subset is kept, and every later request fails.
func (d *Sim) Crash(seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dead {
		d.cut(seed)
	}
}

func (d *Sim) cut(seed uint64) {
	d.dead = true
	rng := rand.New(rand.NewPCG(seed, 0x5eed))
	// A power cut keeps none, all, some requests, or some sectors; each must be tried.
	mode := rng.IntN(5)
	kept := map[int64]bool{}
	for _, w := range d.pending {
		old := d.stable[w.page]
		b := new([PageSize]byte)
		if old != nil {
			*b = *old
		}
		if _, drawn := kept[w.request]; !drawn && mode == 4 {
			kept[w.request] = rng.IntN(2) == 0
		}
		for s := 0; s < PageSize; s += sectorBytes {
			if mode == 1 || kept[w.request] || (mode == 2 || mode == 3) && rng.IntN(2) == 0 {
				copy(b[s:s+sectorBytes], w.data[s:s+sectorBytes])
			}
		}
		d.stable[w.page] = b
	}
	d.pending = nil
	clear(d.latest)
}

// Clone returns a disk with what would survive if the power was cut now without any unflushed sector; after a cut, with what
// did survive.
func (d *Sim) Clone() *Sim {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := NewSim(d.name, d.sizeBytes)
	for page, b := range d.stable {
		// Stable pages are replaced, never changed in place, except by FlipBit, which copies.
		c.stable[page] = b
	}
	return c
}

// FlipBit inverts one bit of what is stored.
func (d *Sim) FlipBit(off int64, bit uint) {
	d.mu.Lock()
	defer d.mu.Unlock()
	page := off / PageSize
	b := new([PageSize]byte)
	if old := d.stable[page]; old != nil {
		*b = *old
	}
	b[off%PageSize] ^= 1 << (bit & 7)
	d.stable[page] = b
	if i, ok := d.latest[page]; ok {
		n := *d.pending[i].data
		n[off%PageSize] ^= 1 << (bit & 7)
		d.pending[i].data = &n
	}
}

// WrittenPages lists the pages ever written and flushed, in no order.
func (d *Sim) WrittenPages() []int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]int64, 0, len(d.stable))
	for p := range d.stable {
		out = append(out, p)
	}
	return out
}

// Discard implements Disk: the content is kept.
func (d *Sim) Discard(int64, int64) error { return nil }

// SizeBytes implements Disk.
func (d *Sim) SizeBytes() int64 { return d.sizeBytes }

// Direct implements Disk.
func (d *Sim) Direct() bool { return true }

func (d *Sim) String() string { return d.name }

// Close implements Disk; the content stays.
func (d *Sim) Close() error { return nil }
