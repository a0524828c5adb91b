// Package beat makes periodic work of many goroutines happen at the same moments: at the multiples of its interval on the clock. A processor that
// sleeps is then woken once for all of them, in all processes of a machine, and not once for each. It is for work for which the first time may come
// half an interval sooner or later.
package beat

import "time"

// Until is the time from now to the next multiple of an interval on the clock; never 0.
func Until(now time.Time, every time.Duration) time.Duration {
	return now.Truncate(every).Add(every).Sub(now.Round(0))
}

// Beat is a ticker at the multiples of its interval. Whoever receives from C calls Next for the next one; beats missed are left out. Not safe for
// concurrent use.
type Beat struct {
	C     <-chan time.Time
	timer *time.Timer
	every time.Duration
}

// Every returns a Beat, whose first is half an interval to one and a half away. The interval is positive.
func Every(every time.Duration) *Beat {
	first := Until(time.Now(), every)
	if first < every/2 {
		first += every
	}
	t := time.NewTimer(first)
	return &Beat{C: t.C, timer: t, every: every}
}

// Next arms the following beat.
func (b *Beat) Next() { b.timer.Reset(Until(time.Now(), b.every)) }

// Stop ends it.
func (b *Beat) Stop() { b.timer.Stop() }
