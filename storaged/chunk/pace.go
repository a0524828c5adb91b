package chunk

import (
	"time"

	"github.com/iomesh/iomesh/storaged/replication"
)

const (
	// paceWindow is how long latencies are gathered before the pace is judged.
	paceWindow = 200 * time.Millisecond
	// paceFloor is the rate that copies get however busy the clients are: redundancy comes back in bounded time.
	paceFloor = 16 << 20
	// paceRequestsMin is the number of requests in a window below which nobody is in a hurry.
	paceRequestsMin = 5
)

// pacer decides how fast the owned volumes may resync: as fast as allowed while the clients do not notice, else less (I9). It compares what the
// clients' requests take with what they took while nothing was copied; more than twice that, and more than a
// millisecond longer, is noticeable.
//
// Not safe for concurrent use.
type pacer struct {
	rate    float64 // bytes per second
	base    float64 // seconds a request takes without copies; 0: not known
	sum     replication.Latency
	since   replication.Time
	pressed bool // clients wait longer than they should
}

// paced is what may be read and copied until the next call.
type paced struct {
	resync, scrub int64 // bytes
}

// next takes what happened since the last call, and how long that is.
func (p *pacer) next(now replication.Time, took time.Duration, lat replication.Latency, copying bool, resyncMax, scrubMax int64) paced {
	p.sum.Requests += lat.Requests
	p.sum.Total += lat.Total
	if p.rate == 0 {
		p.rate, p.since = float64(resyncMax)/4, now
	}
	if now.Sub(p.since) >= paceWindow {
		p.judge(copying, float64(resyncMax))
		p.since, p.sum = now, replication.Latency{}
	}
	share := func(rate float64) int64 { return int64(rate * min(took, 100*time.Millisecond).Seconds()) }
	out := paced{resync: share(p.rate)}
	if !copying && !p.pressed {
		out.scrub = share(float64(scrubMax))
	}
	return out
}

func (p *pacer) judge(copying bool, limit float64) {
	if p.sum.Requests < paceRequestsMin {
		p.rate, p.pressed = min(limit, 2*max(p.rate, paceFloor)), false
		return
	}
	mean := p.sum.Total.Seconds() / float64(p.sum.Requests)
	if p.base == 0 {
		p.base = mean
	}
	p.pressed = mean > max(2*p.base, p.base+time.Millisecond.Seconds())
	switch {
	case !copying:
		p.base += (mean - p.base) / 10
	case p.pressed && p.rate <= paceFloor:
		p.base += (mean - p.base) / 500 // it is not the copies: the clients' load is another than it was
	case p.pressed:
		p.rate *= 0.7
	default:
		p.rate = p.rate*1.1 + 4<<20
	}
	p.rate = min(limit, max(p.rate, paceFloor))
}

// pace is the pacer with what the tick of all volumes, which alone uses it, needs to remember.
type pace struct {
	pacer   pacer
	last    replication.Time
	joining map[*volume]bool // at the last tick
	lat     replication.Latency
}

// tick drives the machines of all volumes: what resync may copy is shared by those that have something to copy.
func (t *volumes) tick() {
	p, now, all := &t.pace, t.s.now(), t.all()
	took := min(now.Sub(p.last), time.Second)
	p.last = now
	give := p.pacer.next(now, took, p.lat, len(p.joining) > 0, t.s.o.ResyncBytesPerSecond, t.s.o.ScrubBytesPerSecond)
	p.lat = replication.Latency{}
	resync := give.resync / int64(max(1, len(p.joining)))
	joining := map[*volume]bool{}
	for _, v := range all {
		out := getEffects()
		v.mu.Lock()
		if !v.lost {
			if p.joining[v] {
				out.list = v.o.ResyncBudget(now, resync, out.list)
			}
			if give.scrub > 0 {
				out.list = v.o.ScrubBudget(now, give.scrub/int64(len(all)), out.list)
			}
			out.list = v.o.Tick(now, out.list)
			if v.o.Joining() {
				joining[v] = true
			}
			l := v.o.Latency()
			p.lat.Requests += l.Requests
			p.lat.Total += l.Total
			v.settle(out)
		}
		v.mu.Unlock()
		v.perform(out)
	}
	p.joining = joining
}
