package store

import (
	"sync"
	"sync/atomic"
	"time"
)

// ioWatch knows the requests that are with the disk, to notice one that does not come back. It has room for a bounded number;
// what finds none is not watched, which needs more requests at a time than the store has goroutines.
type ioWatch struct {
	after   time.Duration
	onStall func(Stall)
	base    time.Time
	slots   [64]watchSlot
	next    atomic.Uint32
}

type watchSlot struct {
	since atomic.Int64 // nanoseconds since base, plus 1; 0 is free
	op    atomic.Uint32
	_     [48]byte // its own cache line
}

// ioOp is a kind of request.
type ioOp uint32

const (
	ioRead ioOp = iota
	ioWrite
	ioFlush
	ioJournal
)

func (o ioOp) String() string { return [...]string{"read", "write", "flush", "journal"}[o] }

func (w *ioWatch) init(after time.Duration, onStall func(Stall)) {
	w.after, w.onStall, w.base = after, onStall, time.Now()
	if after < 0 {
		w.onStall = nil
	}
}

// begin notes a request and returns what end needs.
func (w *ioWatch) begin(op ioOp) int {
	if w.onStall == nil {
		return -1
	}
	now := int64(time.Since(w.base)) + 1
	first := w.next.Add(1)
	for i := range uint32(len(w.slots)) {
		k := (first + i) % uint32(len(w.slots))
		if w.slots[k].since.CompareAndSwap(0, now) {
			w.slots[k].op.Store(uint32(op))
			return int(k)
		}
	}
	return -1
}

func (w *ioWatch) end(k int) {
	if k >= 0 {
		w.slots[k].since.Store(0)
	}
}

// start runs the goroutine that looks for stalls.
func (w *ioWatch) start(wg *sync.WaitGroup, stop <-chan struct{}) {
	if w.onStall == nil {
		return
	}
	wg.Go(func() {
		tick := time.NewTicker(max(w.after/4, time.Millisecond))
		defer tick.Stop()
		told := [len(w.slots)]int64{}
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			now := int64(time.Since(w.base))
			for k := range w.slots {
				since := w.slots[k].since.Load()
				if since == 0 || now-since < int64(w.after) || told[k] == since {
					continue
				}
				told[k] = since
				w.onStall(Stall{Op: ioOp(w.slots[k].op.Load()).String(), Since: w.base.Add(time.Duration(since - 1))})
			}
		}
	})
}
