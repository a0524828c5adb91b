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
	onEnd   func()
	base    time.Time
	slots   [64]watchSlot
	next    atomic.Uint32

	// asleep: nobody looks until a request begins.
	asleep atomic.Bool
	wake   chan struct{} // capacity 1
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

func (w *ioWatch) init(after time.Duration, onStall func(Stall), onEnd func()) {
	w.after, w.onStall, w.onEnd, w.base = after, onStall, onEnd, time.Now()
	w.wake = make(chan struct{}, 1)
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
			if w.asleep.Load() && w.asleep.CompareAndSwap(true, false) {
				w.wake <- struct{}{}
			}
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

// every is the time between two looks.
func (w *ioWatch) every() time.Duration { return max(w.after/4, time.Millisecond) }

// start runs the goroutine that looks for stalls, while there are requests.
func (w *ioWatch) start(wg *sync.WaitGroup, stop <-chan struct{}) {
	if w.onStall == nil {
		return
	}
	wg.Go(func() {
		tick := time.NewTicker(w.every())
		defer tick.Stop()
		x := stalls{w: w}
		for {
			select {
			case <-stop:
				return
			case <-w.wake:
				tick.Reset(w.every())
				x.last = 0 // the pause was ours
				continue
			case <-tick.C:
			}
			begun := w.next.Load()
			x.look(int64(time.Since(w.base)))
			if idle := begun == x.begun && x.open == 0 && !w.busy(); idle {
				tick.Stop()
				w.asleep.Store(true)
				// Who began a request before may have found nobody asleep.
				if w.busy() && w.asleep.CompareAndSwap(true, false) {
					tick.Reset(w.every())
				}
			}
			x.begun = begun
		}
	})
}

// busy reports whether a request is with the disk.
func (w *ioWatch) busy() bool {
	for k := range w.slots {
		if w.slots[k].since.Load() != 0 {
			return true
		}
	}
	return false
}

// stalls is what the watching goroutine knows.
type stalls struct {
	w *ioWatch
	// told is the begin of each request that was told of, 0 for none; open counts them.
	told [64]int64
	open int
	// last is the time of the last look, 0 after none; awake the end of the last pause of this process.
	last, awake int64
	// begun is how many requests had begun at the last look.
	begun uint32
}

// look tells of requests that are overdue at a time, and of the end of the last one that was.
func (x *stalls) look(now int64) {
	// A process that was frozen finds answers it has not had the time to take: the disk did not stall.
	if x.last != 0 && now-x.last > int64(x.w.every()+x.w.after/2) {
		x.awake = now
	}
	x.last = now
	for k := range x.w.slots {
		since := x.w.slots[k].since.Load()
		if x.told[k] != 0 && x.told[k] != since {
			x.told[k] = 0
			if x.open--; x.open == 0 && x.w.onEnd != nil {
				x.w.onEnd()
			}
		}
		if since == 0 || now-max(since, x.awake) < int64(x.w.after) || x.told[k] == since {
			continue
		}
		x.told[k] = since
		x.open++
		x.w.onStall(Stall{Op: ioOp(x.w.slots[k].op.Load()).String(), Since: x.w.base.Add(time.Duration(since - 1))})
	}
}
