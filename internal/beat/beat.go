// Package beat makes periodic work of many goroutines happen at the same moments: at the multiples of its interval on the clock. A processor that
// sleeps is then woken once for all of them, in all processes of a machine, and not once for each. It is for work for which the first time may come
// half an interval sooner or later.
package beat

import (
	"sync"
	"time"
)

// Until is the time from now to the next multiple of an interval on the clock; never 0.
func Until(now time.Time, every time.Duration) time.Duration {
	return now.Truncate(every).Add(every).Sub(now.Round(0))
}

// Beat is a ticker at the multiples of its interval. As with time.Ticker, beats that nobody receives in time are left out.
type Beat struct {
	C     <-chan time.Time
	every time.Duration
	send  chan<- time.Time

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// Every returns a Beat, whose first is half an interval to one and a half away. The interval is positive.
func Every(every time.Duration) *Beat {
	first := Until(time.Now(), every)
	if first < every/2 {
		first += every
	}
	c := make(chan time.Time, 1)
	b := &Beat{C: c, send: c, every: every}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer = time.AfterFunc(first, b.fire)
	return b
}

// fire sends a beat and arms the following one.
func (b *Beat) fire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return
	}
	now := time.Now()
	select {
	case b.send <- now:
	default:
	}
	b.timer.Reset(Until(now, b.every))
}

// Stop ends it. C stays open.
func (b *Beat) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	b.timer.Stop()
}
