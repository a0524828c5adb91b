package chunk

import (
	"sync"
	"time"

	"github.com/iomesh/iomesh/storaged/wakes"
)

const (
	// turnsMax bounds what one volume has under way beside light ones, in requests of up to turnBytes; a longer one counts as several. The disks and
	// connections of a chunk take what comes in the order it comes: whoever asks for one block at a time waits behind everything that the others have
	// there. A volume is light if it never had so much under way.
	turnsMax  = 16
	turnBytes = 128 << 10
)

// turns lets the requests of one volume to its machine, in the order they come (I14): all at once while no light volume wants anything, else up to
// turnsMax at a time, and each that ends lets the next one in. Heavy volumes do not bound each other: they get what they ask for, in proportion. A
// waiting request is one that the initiator has not been answered: it may be lost without harm.
//
// Safe for concurrent use.
type turns struct {
	crowd *crowd

	mu      sync.Mutex
	period  uint32 // of the last request
	peak    int    // the most turns taken and wanted since it began
	light   counted
	begun   int // sum of the costs of what is under way
	waiting []*request
	next    int  // in waiting
	handing bool // somebody begins waiting requests: whoever comes waits behind these
}

// cost is how many turns a request takes, 1 to turnsMax.
func cost(bytes uint64) int { return int(min(turnsMax, 1+(max(bytes, 1)-1)/turnBytes)) }

// ask takes the turn for a request, or queues it and says false: then it is begun later, perhaps before ask has returned.
func (t *turns) ask(r *request, now time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen(r.cost, now)
	if t.handing || t.next < len(t.waiting) || !t.room(r.cost, now) {
		t.waiting = append(t.waiting, r)
		return false
	}
	t.begun += r.cost
	return true
}

// seen notes that there is a request, and tells the crowd once per period if the volume is a light one. The caller holds mu.
func (t *turns) seen(cost int, now time.Duration) {
	level := t.begun + len(t.waiting) - t.next + cost
	p := period(now)
	if p <= t.period {
		t.peak = max(t.peak, level)
		return
	}
	light := t.peak < turnsMax || t.period != p-1
	t.period, t.peak = p, level
	if light && t.crowd.add(p) {
		t.light = counted{p, t.light.last}
	}
}

// room says whether a request of that cost may begin; the caller holds mu. One may always.
func (t *turns) room(cost int, now time.Duration) bool {
	return t.begun == 0 || t.begun+cost <= turnsMax || !t.crowd.others(t.light, now)
}

// ended gives back the turn of a request that cost so much, and calls begin, without a lock and in order, for those whose turn has come.
func (t *turns) ended(cost int, now func() time.Duration, later *wakes.List, begin func(*request, *wakes.List)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun -= cost
	if t.handing || t.next == len(t.waiting) {
		return
	}
	// What ends while another is being begun, here or in another goroutine, finds handing set, and is seen by the next look at room.
	t.handing = true
	for at := now(); t.next < len(t.waiting) && t.room(t.waiting[t.next].cost, at); {
		r := t.waiting[t.next]
		t.waiting[t.next] = nil
		t.next++
		t.begun += r.cost
		t.mu.Unlock()
		begin(r, later)
		t.mu.Lock()
	}
	t.handing = false
	if t.next == len(t.waiting) {
		t.waiting, t.next = t.waiting[:0], 0
	} else if t.next > len(t.waiting)/2 {
		n := copy(t.waiting, t.waiting[t.next:])
		clear(t.waiting[n:])
		t.waiting, t.next = t.waiting[:n], 0
	}
}
