package load

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations in buckets of 1/16 of a power of two of nanoseconds: quantiles are exact to about 6 %. The zero value is ready;
// safe for concurrent use.
type Histogram struct {
	buckets [64 * 16]atomic.Uint64
	count   atomic.Uint64
	max     atomic.Int64
}

func bucketOf(ns uint64) int {
	if ns < 16 {
		return int(ns)
	}
	e := bits.Len64(ns) - 5
	return (e+1)*16 + int(ns>>e)&15
}

func bucketStart(i int) uint64 {
	if i < 16 {
		return uint64(i)
	}
	return (16 + uint64(i&15)) << (i/16 - 1)
}

// Add counts one duration; negative ones count as 0.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.buckets[bucketOf(uint64(d))].Add(1)
	h.count.Add(1)
	for {
		m := h.max.Load()
		if int64(d) <= m || h.max.CompareAndSwap(m, int64(d)) {
			return
		}
	}
}

// Count is the number of durations.
func (h *Histogram) Count() uint64 { return h.count.Load() }

// Max is the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return time.Duration(h.max.Load()) }

// Quantile is the duration below which the share q of all lies.
func (h *Histogram) Quantile(q float64) time.Duration {
	want := uint64(q * float64(h.count.Load()))
	var seen uint64
	for i := range h.buckets {
		if seen += h.buckets[i].Load(); seen > want {
			return time.Duration(bucketStart(i))
		}
	}
	return h.Max()
}
