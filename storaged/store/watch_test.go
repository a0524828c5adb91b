package store

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A stall begins when a request is overdue and ends when the last overdue one has come back; a pause of the process itself is none.
func TestStallsBeginAndEnd(t *testing.T) {
	var w ioWatch
	begun, ended := 0, 0
	w.init(1200*time.Millisecond, func(Stall) { begun++ }, func() { ended++ })
	x := stalls{w: &w}
	ms := func(n int64) int64 { return n * int64(time.Millisecond) }
	expect := func(what string, b, e int) {
		t.Helper()
		if begun != b || ended != e {
			t.Fatalf("%s: %d stalls begun and %d ended, want %d and %d", what, begun, ended, b, e)
		}
	}
	at := func(slot int, from int64) { w.slots[slot].since.Store(ms(from)) }
	look := func(from, to int64) {
		for n := from; n <= to; n += 300 {
			x.look(ms(n))
		}
	}
	at(3, 100)
	look(300, 1200)
	expect("not overdue yet", 0, 0)
	at(5, 200)
	look(1500, 1800)
	expect("two overdue requests", 2, 0)
	look(2100, 3000)
	expect("told once", 2, 0)
	w.slots[3].since.Store(0)
	look(3300, 3300)
	expect("one of two is back", 2, 0)
	w.slots[5].since.Store(0)
	look(3600, 3600)
	expect("both are back", 2, 1)

	at(3, 3700)
	x.look(ms(63700)) // the process was frozen for a minute
	expect("frozen with a request under way", 2, 1)
	look(64000, 64600)
	expect("the request may still come back", 2, 1)
	look(64900, 65200)
	expect("it does not", 3, 1)
	at(3, 65300) // the slot is used by the next request
	look(65500, 65500)
	expect("it came back, another is under way", 3, 2)
}

// A store without requests has no timer that runs; one that begins after any time of rest is watched like every other.
func TestNobodyLooksForStallsWhileThereAreNoRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ioWatch
		var told atomic.Int32
		w.init(1200*time.Millisecond, func(Stall) { told.Add(1) }, nil)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		w.start(&wg, stop)
		for round := int32(1); round <= 3; round++ {
			<-time.After(time.Duration(round) * 950 * time.Millisecond)
			w.end(w.begin(ioRead)) // one that comes back keeps it awake for a while
			<-time.After(10 * time.Second)
			synctest.Wait()
			if !w.asleep.Load() {
				t.Fatalf("round %d: it still looks after ten seconds without requests", round)
			}
			k := w.begin(ioWrite)
			<-time.After(1700 * time.Millisecond)
			synctest.Wait()
			if told.Load() != round {
				t.Fatalf("round %d: told of %d stalls", round, told.Load())
			}
			w.end(k)
		}
		close(stop)
		wg.Wait()
	})
}
