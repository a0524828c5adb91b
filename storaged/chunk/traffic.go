package chunk

import (
	"context"
	"sync"
	"time"

	"github.com/iomesh/iomesh/internal/beat"
)

// The original's metrics are rates, computed by the server. Counters with Prometheus' rate() say more; these stay for the dashboards and
// rules that know them.
const (
	// sampleEvery is how often counters are noted, rateWindow over how many of these rates are means, opsWindow the window of readwrite_iop30s.
	sampleEvery = time.Second
	rateWindow  = 10
	opsWindow   = 30
)

// traffic keeps the last samples of each owned volume.
type traffic struct {
	mu   sync.Mutex
	past map[volumeKey]*ring
}

// ring holds up to opsWindow samples and the present one.
type ring struct {
	s    [opsWindow + 1]sample
	n    int // samples taken, ever
	seen bool
}

func (r *ring) push(s sample) {
	r.s[r.n%len(r.s)] = s
	r.n++
}

// over is the difference of the last sample to that of up to n before, and how many seconds lie between.
func (r *ring) over(n int) (sample, float64) {
	n = min(n, r.n-1, opsWindow)
	if n <= 0 {
		return sample{}, 0
	}
	last, first := r.s[(r.n-1)%len(r.s)], r.s[(r.n-1-n)%len(r.s)]
	return last.minus(first), float64(n) * sampleEvery.Seconds()
}

// sampleLoop notes the counters until ctx ends.
func (s *Server) sampleLoop(ctx context.Context) {
	t := beat.Every(sampleEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		s.metrics.traffic.note(s.volumes.all())
	}
}

func (t *traffic) note(all []*volume) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.past == nil {
		t.past = map[volumeKey]*ring{}
	}
	for _, r := range t.past {
		r.seen = false
	}
	for _, v := range all {
		k := volumeKey{v.id, v.owner.Epoch}
		r := t.past[k]
		if r == nil {
			r = &ring{}
			t.past[k] = r
		}
		r.seen = true
		r.push(v.meter.sample())
	}
	for k, r := range t.past {
		if !r.seen {
			delete(t.past, k)
		}
	}
}

// rates are a volume's, or the sum of all.
type rates struct {
	sample
	seconds float64
}

func (t *traffic) of(k volumeKey, window int) rates {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.past[k]; r != nil {
		d, sec := r.over(window)
		return rates{d, sec}
	}
	return rates{}
}

func per(x, seconds float64) float64 {
	if seconds == 0 {
		return 0
	}
	return x / seconds
}

// mean is sum/n, and 0 of nothing: no operation took no time.
func mean(sum float64, n uint64) float64 {
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}
