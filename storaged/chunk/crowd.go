package chunk

import (
	"sync/atomic"
	"time"
)

// crowdPeriod is how long a volume counts as one that wants something after a request of it, at least; at most, it is twice that.
const crowdPeriod = 100 * time.Millisecond

// crowd tells whether there are light volumes: that want something of this chunk, but never much at a time. Those owned here are seen by their requests,
// others by what is asked of their replicas here. It counts the light volumes of a period and of the one before in one word, which each volume changes once
// per period.
//
// Safe for concurrent use.
type crowd struct {
	word atomic.Uint64 // period<<32 | light volumes of the period before<<16 | light volumes of the period
}

const crowdMax = 1<<16 - 1

// period is the number of a time's period, which is not 0. Times are since some start, and do not go back by more than a little.
func period(now time.Duration) uint32 { return uint32(now/crowdPeriod) + 1 }

// add counts a light volume in a period. False: the period is over, another goroutine was faster; the next one will count the volume.
func (c *crowd) add(p uint32) bool {
	for {
		old := c.word.Load()
		before, in := old>>16&crowdMax, old&crowdMax
		switch at := uint32(old >> 32); {
		case at > p:
			return false
		case at == p:
			in = min(in+1, crowdMax)
		case at == p-1:
			before, in = in, 1
		default:
			before, in = 0, 1
		}
		if c.word.CompareAndSwap(old, uint64(p)<<32|before<<16|in) {
			return true
		}
	}
}

// counted says in which of the last two periods that a volume was seen in it was counted as light; 0 is none.
type counted struct{ last, before uint32 }

// in is 1 if the volume was counted in period p.
func (x counted) in(p uint32) uint64 {
	if p == x.last || p == x.before {
		return 1
	}
	return 0
}

// others says whether there was a light volume, but for the one that was counted as in self, in this period or the one before.
func (c *crowd) others(self counted, now time.Duration) bool {
	w := c.word.Load()
	before, in := w>>16&crowdMax, w&crowdMax
	switch p := period(now); uint32(w >> 32) {
	case p:
		return in > self.in(p) || before > self.in(p-1)
	case p - 1:
		return in > self.in(p-1)
	}
	return false
}

// replicaLoad is what is asked of a volume's replica here by an owner elsewhere. Safe for concurrent use.
type replicaLoad struct {
	period atomic.Uint32 // the last one that has begun
	open   atomic.Int32  // requests under way
	peak   atomic.Int32  // the most of them since the period has begun
}

// begin notes a request. ended must be called when it has ended.
func (l *replicaLoad) begin(c *crowd, now time.Duration) {
	n := l.open.Add(1)
	if p, was := period(now), l.period.Load(); was < p && l.period.CompareAndSwap(was, p) {
		if l.peak.Swap(n) < turnsMax || was != p-1 {
			c.add(p)
		}
		return
	}
	for {
		if was := l.peak.Load(); n <= was || l.peak.CompareAndSwap(was, n) {
			return
		}
	}
}

func (l *replicaLoad) ended() { l.open.Add(-1) }
