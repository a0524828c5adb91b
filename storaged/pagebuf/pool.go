package pagebuf

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	minShift = 12
	maxShift = 23
	// MaxSize is the largest pooled buffer in bytes; larger ones are allocated and left to the collector.
	MaxSize = 1 << maxShift
)

// Pool lends buffers. The zero value is ready and keeps at most 64 MiB of free buffers.
type Pool struct {
	// FreeMax bounds the bytes kept free, 0 means 64 MiB. Set before first use.
	FreeMax int64

	used    atomic.Int64
	free    atomic.Int64
	classes [maxShift - minShift + 1]class
}

type class struct {
	mu   sync.Mutex
	bufs []*Buf
}

// Buf is a lent buffer. B has the length asked for; its capacity is the class size.
type Buf struct {
	B         []byte
	sums      sums
	full      []byte
	refs      atomic.Int32
	abandoned atomic.Bool
	class     int8
	pool      *Pool
}

// Get returns a buffer of n bytes with one reference. Its content is undefined. It panics if n is negative.
func (p *Pool) Get(n int) *Buf {
	if n < 0 {
		panic(fmt.Sprintf("pagebuf: size %d", n))
	}
	if n > MaxSize {
		b := &Buf{full: Aligned(n), class: -1, pool: p}
		b.B = b.full[:n]
		b.refs.Store(1)
		p.used.Add(int64(cap(b.full)))
		return b
	}
	c := classOf(n)
	cl := &p.classes[c]
	cl.mu.Lock()
	var b *Buf
	if l := len(cl.bufs); l > 0 {
		b = cl.bufs[l-1]
		cl.bufs[l-1] = nil
		cl.bufs = cl.bufs[:l-1]
	}
	cl.mu.Unlock()
	if b == nil {
		b = p.cut(c)
	} else {
		p.free.Add(-int64(len(b.full)))
	}
	b.B = b.full[:n]
	b.sums.reset()
	b.refs.Store(1)
	p.used.Add(int64(len(b.full)))
	return b
}

// Used is the number of bytes in lent buffers.
func (p *Pool) Used() int64 { return p.used.Load() }

// Retain adds a reference.
func (b *Buf) Retain() {
	if b.refs.Add(1) <= 1 {
		panic("pagebuf: retain of a released buffer")
	}
}

// Release drops a reference; after the last one the bytes must not be touched. A nil Buf is ignored.
func (b *Buf) Release() {
	if b == nil {
		return
	}
	switch n := b.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("pagebuf: release of a released buffer")
	}
	p := b.pool
	size := int64(cap(b.full))
	p.used.Add(-size)
	if b.class < 0 || b.abandoned.Load() {
		return
	}
	limit := p.FreeMax
	if limit == 0 {
		limit = 64 << 20
	}
	if p.free.Load()+size > limit {
		return
	}
	p.free.Add(size)
	cl := &p.classes[b.class]
	cl.mu.Lock()
	cl.bufs = append(cl.bufs, b)
	cl.mu.Unlock()
}

func classOf(n int) int {
	if n <= 1<<minShift {
		return 0
	}
	return bits.Len(uint(n-1)) - minShift
}

// Abandon drops a reference of a buffer whose bytes somebody unknown may still read: after the last Release the memory is left to the
// collector instead of being lent again. A nil Buf is ignored.
func (b *Buf) Abandon() {
	if b == nil {
		return
	}
	b.abandoned.Store(true)
	b.Release()
}
