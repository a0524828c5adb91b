package hist

import (
	"sync"
	"testing"
	"time"
)

func TestADurationIsCountedInTheClassThatEndsAtOrAboveIt(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{-1, 0, 50 * time.Microsecond, 50*time.Microsecond + 1, 10 * time.Second, 11 * time.Second} {
		h.Observe(d)
	}
	s := h.Snapshot()
	if s.Class[0] != 3 || s.Class[1] != 1 || s.Class[Classes-2] != 1 || s.Class[Classes-1] != 1 {
		t.Errorf("%v", s.Class)
	}
	if s.Count() != 6 || s.Sum != 100*time.Microsecond+1+21*time.Second {
		t.Errorf("count %d, sum %s", s.Count(), s.Sum)
	}
	if b := s.Buckets(); b[50e-6] != 3 || b[100e-6] != 4 || b[10] != 5 {
		t.Errorf("%v", b)
	}
}

func TestBoundsAscend(t *testing.T) {
	for i := 1; i < len(bounds); i++ {
		if bounds[i] <= bounds[i-1] {
			t.Errorf("%s after %s", bounds[i], bounds[i-1])
		}
	}
}

func TestNothingIsLostUnderConcurrency(t *testing.T) {
	var h Histogram
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10000 {
				h.Observe(time.Millisecond)
			}
		})
	}
	wg.Wait()
	if s := h.Snapshot(); s.Count() != 80000 || s.Sum != 80*time.Second {
		t.Errorf("%d, %s", s.Count(), s.Sum)
	}
}

func TestObserveDoesNotAllocate(t *testing.T) {
	var h Histogram
	if n := testing.AllocsPerRun(1000, func() { h.Observe(time.Millisecond) }); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	var h Histogram
	b.ReportAllocs()
	for b.Loop() {
		h.Observe(300 * time.Microsecond)
	}
}
