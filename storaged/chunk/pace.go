package chunk

import (
	"encoding/binary"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

const (
	// paceWindow is how long latencies are gathered before the pace is judged.
	paceWindow = 200 * time.Millisecond
	// paceFloor is the rate that copies get however busy the clients are: redundancy comes back in bounded time.
	paceFloor = 16 << 20
	// paceRequestsMin is the number of requests in a window below which nobody is in a hurry, paceTailMin that from which its slowest ones say something.
	paceRequestsMin = 5
	paceTailMin     = 100
	// paceTail is the quantile that is looked at beside the mean.
	paceTail = 0.99
	// paceLess and paceMore change the rate after a window in which clients waited, or did not; then paceStep, in bytes per second, comes on top. Each
	// climb ends in a window in which they wait, so it is a long one: about one window in ten, which their slowest requests do not show.
	paceLess = 0.5
	paceMore = 1.05
	paceStep = 1 << 20
	// paceInFlight is the number of blocks copied at a time, per volume, while clients are there: what a request of theirs may have to wait behind.
	paceInFlight = 2 * replication.CopyBlocks
)

// pacer decides how fast the owned volumes may resync: as fast as allowed while the clients do not notice, else less (I9). It compares what the
// clients' requests take with what they took while nothing was copied. Noticeable is a mean of more than twice that, or slowest requests that take
// more than half as long again, and each more than a millisecond longer.
//
// Not safe for concurrent use.
type pacer struct {
	rate    float64 // bytes per second
	base    float64 // seconds a request takes without copies; 0: not known
	tail    float64 // the same of paceTail of the requests
	sum     replication.Latency
	since   replication.Time
	pressed bool // clients wait longer than they should
	busy    bool // there are clients
}

// paced is what may be read and copied until the next call.
type paced struct {
	resync, scrub int64  // bytes
	inFlight      uint32 // blocks at a time; 0: as many as there may be
}

// next takes what happened since the last call, and how long that is.
func (p *pacer) next(now replication.Time, took time.Duration, lat *replication.Latency, copying bool, resyncMax, scrubMax int64) paced {
	p.sum.Merge(lat)
	if p.rate == 0 {
		p.rate, p.since = float64(resyncMax)/4, now
	}
	if now.Sub(p.since) >= paceWindow {
		p.judge(copying, float64(resyncMax))
		p.since, p.sum = now, replication.Latency{}
	}
	share := func(rate float64) int64 { return int64(rate * min(took, 100*time.Millisecond).Seconds()) }
	out := paced{resync: share(p.rate)}
	if p.busy {
		out.inFlight = paceInFlight
	}
	if !copying && !p.pressed {
		out.scrub = share(float64(scrubMax))
	}
	return out
}

func (p *pacer) judge(copying bool, limit float64) {
	if p.busy = p.sum.Requests >= paceRequestsMin; !p.busy {
		p.rate, p.pressed = min(limit, 2*max(p.rate, paceFloor)), false
		return
	}
	mean := p.sum.Total.Seconds() / float64(p.sum.Requests)
	if p.base == 0 {
		p.base = mean
	}
	p.pressed = mean > max(2*p.base, p.base+time.Millisecond.Seconds())
	tail := p.tail
	if p.sum.Requests >= paceTailMin {
		tail = p.sum.Quantile(paceTail).Seconds()
		if p.tail == 0 {
			p.tail = tail
		}
		p.pressed = p.pressed || tail > max(1.5*p.tail, p.tail+time.Millisecond.Seconds())
	}
	learn := func(mean, tail, slowly float64) {
		p.base += (mean - p.base) / slowly
		p.tail += (tail - p.tail) / slowly
	}
	if copying { // what is there with copies is not more without them
		p.base -= max(0, p.base-mean) / 10
		p.tail -= max(0, p.tail-tail) / 10
	}
	switch {
	case !copying:
		// A single hold-up, like that of a node that has died, shall not count for long.
		learn(min(mean, 2*p.base), min(tail, 2*p.tail), 10)
	case p.pressed && p.rate <= paceFloor:
		learn(mean, tail, 500) // it is not the copies: the clients' load is another than it was
	case p.pressed:
		p.rate *= paceLess
	default:
		p.rate = p.rate*paceMore + paceStep
	}
	p.rate = min(limit, max(p.rate, paceFloor))
}

// pace is the pacer with what the tick of all volumes, which alone uses it, needs to remember.
type pace struct {
	pacer   pacer
	last    replication.Time
	joining map[*volume]bool // at the last tick
	lat     replication.Latency
	scrub   scrubs
	list    []*volume
}

// woke enters a volume whose machine wants ticks from now on.
func (t *volumes) woke(v *volume) {
	t.awakeMu.Lock()
	first := len(t.awake) == 0
	t.awake[v] = struct{}{}
	t.awakeMu.Unlock()
	if first {
		t.s.ticker.poke()
	}
}

func (t *volumes) anyAwake() bool {
	t.awakeMu.Lock()
	defer t.awakeMu.Unlock()
	return len(t.awake) > 0
}

// tick drives the machines of all volumes that want it: what resync may copy is shared by those that have something to copy.
func (t *volumes) tick() {
	p, now := &t.pace, t.s.now()
	took := min(now.Sub(p.last), time.Second)
	p.last = now
	p.scrub.choose(t, now)
	t.awakeMu.Lock()
	p.list = p.list[:0]
	for v := range t.awake {
		p.list = append(p.list, v)
	}
	t.awakeMu.Unlock()
	if len(p.list) == 0 {
		return
	}
	give := p.pacer.next(now, took, &p.lat, len(p.joining) > 0, t.s.o.ResyncBytesPerSecond, t.s.o.ScrubBytesPerSecond)
	p.lat = replication.Latency{}
	resync := give.resync / int64(max(1, len(p.joining)))
	joining := map[*volume]bool{}
	for i, v := range p.list {
		p.list[i] = nil
		out := getEffects()
		v.mu.Lock()
		if !v.lost {
			if p.joining[v] {
				out.list = v.o.ResyncBudget(now, resync, give.inFlight, out.list)
			}
			if p.scrub.at == v && give.scrub > 0 {
				out.list = v.o.ScrubBudget(now, give.scrub, out.list)
			}
			out.list = v.o.Tick(now, out.list)
			if v.o.Joining() {
				joining[v] = true
			}
			l := v.o.Latency()
			p.lat.Merge(&l)
			v.settle(out)
		}
		if p.scrub.at == v && (v.lost || v.o.ScrubPasses() != p.scrub.passes) {
			p.scrub.at = nil
		}
		if v.o.Quiet() && p.scrub.at != v {
			v.awake = false
			t.awakeMu.Lock()
			delete(t.awake, v)
			t.awakeMu.Unlock()
		}
		v.mu.Unlock()
		v.perform(out)
	}
	p.joining = joining
}

const (
	// scrubEvery is the default of Options.ScrubEvery.
	scrubEvery = 24 * time.Hour
	// scrubFirst bounds the time from taking a volume over to its first scrub; volumes are spread over it.
	scrubFirst = time.Hour
	// scrubLook is how often volumes are looked through for one whose scrub is due.
	scrubLook = time.Second
)

// scrubs chooses the volume to be scrubbed: one at a time.
type scrubs struct {
	at     *volume // nil: none
	passes uint64  // its passes when it was chosen
	next   replication.Time
}

// choose finds the volume whose scrub has been due for longest, if none is being scrubbed, and wakes it.
func (x *scrubs) choose(t *volumes, now replication.Time) {
	if x.at != nil || now < x.next || t.s.o.ScrubBytesPerSecond < 0 {
		return
	}
	x.next = now.Add(min(scrubLook, t.s.o.ScrubEvery))
	for _, v := range t.all() {
		if v.scrubAt == 0 {
			v.scrubAt = now.Add(time.Duration(float64(min(scrubFirst, t.s.o.ScrubEvery)) * fraction(v.id)))
		}
		if v.scrubAt <= now && (x.at == nil || v.scrubAt < x.at.scrubAt) {
			x.at = v
		}
	}
	v := x.at
	if v == nil {
		return
	}
	v.scrubAt = now.Add(t.s.o.ScrubEvery)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lost {
		x.at = nil
		return
	}
	x.passes = v.o.ScrubPasses()
	if !v.awake {
		v.awake = true
		t.woke(v)
	}
}

// fraction spreads volumes evenly: a number in [0, 1) that depends on the id alone.
func fraction(id block.VolumeID) float64 {
	return float64(binary.BigEndian.Uint32(id[:4])) / (1 << 32)
}
