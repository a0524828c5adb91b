package replication

import (
	"math/bits"
	"time"
)

// latencyBuckets is the number of buckets of a Latency: two for each power of two of microseconds, up to a good minute.
const latencyBuckets = 54

// Latency sums up how long clients' reads and writes took from being sent to the replicas until they were answered.
type Latency struct {
	Requests uint64
	Total    Duration
	buckets  [latencyBuckets]uint32
}

// Add enters one request.
func (l *Latency) Add(d Duration) {
	d = max(0, d)
	l.Requests++
	l.Total += d
	l.buckets[latencyBucket(d)]++
}

// latencyBucket is the bucket of a duration: below 1 µs, 1, 2, 3, 4 to 5, 6 to 7, 8 to 11, 12 to 15 µs and so on.
func latencyBucket(d Duration) int {
	us := uint64(d / time.Microsecond)
	if us < 2 {
		return int(us)
	}
	n := bits.Len64(us)
	return min(2*(n-1)+int(us>>(n-2)&1), latencyBuckets-1)
}

// Merge adds what another one has.
func (l *Latency) Merge(other *Latency) {
	l.Requests += other.Requests
	l.Total += other.Total
	for i, n := range other.buckets {
		l.buckets[i] += n
	}
}

// Quantile is a lower bound of the time that a part q, in [0, 1], of the requests stayed below, true to one bucket; 0 without requests.
func (l *Latency) Quantile(q float64) Duration {
	left := uint64(q * float64(l.Requests))
	for i, n := range l.buckets {
		if uint64(n) > left {
			if i < 2 {
				return Duration(i) * time.Microsecond
			}
			return time.Duration(uint64(2+i&1)<<(i/2)>>1) * time.Microsecond
		}
		left -= uint64(n)
	}
	return 0
}

// Joining reports whether anything is being resynced.
func (o *Owner) Joining() bool { return o.joins > 0 }

// Latency returns the sum since the last call, for who paces what must not be in the clients' way.
func (o *Owner) Latency() Latency {
	l := o.latency
	o.latency = Latency{}
	return l
}
