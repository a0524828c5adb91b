// Package hist counts durations in fixed classes, without locks and without allocation, so that a histogram can stand in the path of every
// I/O. Observe costs one search in a table of 16 and two atomic additions; readers see each class exactly, the sum and the classes of one
// moment only approximately together.
package hist

import (
	"sync/atomic"
	"time"
)

// Bounds are the upper ends of the classes, included; the last class has none. From a flush of a fast disk to an initiator's abort.
var bounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 10 * time.Second,
}

// Classes is the number of classes.
const Classes = len(bounds) + 1

// Histogram counts durations. The zero value is ready; it must not be copied after use.
type Histogram struct {
	class [Classes]atomic.Uint64
	sum   atomic.Uint64 // nanoseconds
}

// Observe counts a duration; a negative one counts as zero.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.class[i].Add(1)
	h.sum.Add(uint64(d))
}

// Since counts the time since t.
func (h *Histogram) Since(t time.Time) { h.Observe(time.Since(t)) }

// Snapshot is a histogram's content.
type Snapshot struct {
	Class [Classes]uint64
	Sum   time.Duration
}

// Snapshot reads the histogram.
func (h *Histogram) Snapshot() Snapshot {
	var s Snapshot
	for i := range h.class {
		s.Class[i] = h.class[i].Load()
	}
	s.Sum = time.Duration(h.sum.Load())
	return s
}

// Count is the number of durations counted.
func (s Snapshot) Count() uint64 {
	var n uint64
	for _, c := range s.Class {
		n += c
	}
	return n
}

// Add adds another snapshot's content.
func (s *Snapshot) Add(o Snapshot) {
	for i, c := range o.Class {
		s.Class[i] += c
	}
	s.Sum += o.Sum
}

// Buckets returns the cumulative counts by upper end in seconds, as Prometheus wants them, without the last class.
func (s Snapshot) Buckets() map[float64]uint64 {
	out := make(map[float64]uint64, len(bounds))
	var n uint64
	for i, b := range bounds {
		n += s.Class[i]
		out[b.Seconds()] = n
	}
	return out
}
