package replication

import (
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// Tick notices what did not happen: answers that do not come, chunks that stay away, promises that lapse, idle extents whose members have not
// been told their watermark.
func (o *Owner) Tick(now Time, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	o.expire()
	for i := 0; i < len(o.active) && !o.lost; {
		e := o.active[i]
		o.tickExtent(e)
		if e.idle() && len(e.locks) == 0 {
			e.active = false
			o.tellLater(e)
			n := len(o.active) - 1
			o.active[i] = o.active[n]
			o.active[n] = nil
			o.active = o.active[:n]
			continue
		}
		i++
	}
	if o.lost {
		return o.leave()
	}
	o.tellIdle()
	o.sendMarks()
	o.dropIdle()
	if o.absent > 0 || len(o.adds) > 0 {
		o.nextJoins()
	}
	for _, p := range o.peers {
		if p.confirmSent != 0 && now.Sub(p.confirmAt) >= AskAgain {
			p.confirmSent = 0 // ask again when needed
		}
		if p.up && !p.taken && !p.pending && now.Sub(p.askedAt) >= AskAgain {
			o.ask(p)
		}
	}
	o.tickScrub()
	o.tickHolding()
	return o.leave()
}

// Quiet reports whether Tick has nothing to do before another method is called: no request, no change, no copy and no repair is under way, every
// chunk with a member can be reached, and all members know the watermark.
func (o *Owner) Quiet() bool {
	switch {
	case o.lost || !o.running:
		return true
	case len(o.active) > 0 || len(o.untold.all()) > 0 || len(o.marks) > 0 || o.absent > 0 || len(o.adds) > 0 || o.changes.head != nil || o.others.head != nil,
		o.barrier != nil || o.release != nil || o.scrub.at != nil:
		return false
	}
	for _, p := range o.peers {
		if p.up && (p.confirmSent != 0 || !p.taken && !p.pending) || !p.up && o.needed(p) {
			return false
		}
	}
	return true
}

// needed reports whether a chunk has a member of any extent.
func (o *Owner) needed(p *peer) bool {
	for _, e := range o.extents {
		for i := range e.slots {
			if e.slots[i].peer == p && e.members.has(i) {
				return true
			}
		}
	}
	return false
}

func (o *Owner) tickHolding() {
	switch {
	case o.barrier != nil && !o.barrier.committed && o.now.Sub(o.barrier.since) >= timeouts.WriteWait/2:
		tag := o.barrier.tag
		o.barrier = nil
		o.complete(tag, ResultFailed)
		o.resume()
	case o.release != nil && o.now.Sub(o.release.since) >= ReleaseWait:
		o.release = nil
		o.report(Report{Kind: ReportStay})
		o.resume()
	}
}

func (o *Owner) tickExtent(e *extent) {
	if e.phase == PhaseCollecting {
		o.collect(e)
	}
	o.silent(e)
	if e.phase != PhaseServing || o.lost {
		return
	}
	if e.inflight.n+e.waiting.n+e.reads.n+e.held.n > 0 {
		o.needDown(e)
	}
	if e.leaving != 0 && e.change == nil {
		o.retryLast(e)
	}
	if o.hopeless(e) {
		o.renew()
		return
	}
	o.sendReads(e)
	o.releaseReads(e)
	if e.waiting.n > 0 {
		o.wake(e)
	}
	if e.join != nil {
		o.joinStep(e)
	}
	for r := e.inflight.head; r != nil; r = r.next {
		if need := e.required(); r.reserve && r.nospace&need != 0 && r.acked&need == 0 && o.now.Sub(r.sentAt) >= LastRetry {
			o.sendReserved(r, r.nospace&need)
		}
	}
	if e.inflight.n == 0 && o.tellable(e) {
		o.mark(e)
	}
}

// silent drops replicas that have left something unanswered for timeouts.ReplicaDrop.
func (o *Owner) silent(e *extent) {
	var late mask
	overdue := func(at Time, i int) bool {
		p := e.slots[i].peer
		return p.taken && o.now.Sub(max(at, p.takenAt)) >= replicaDrop
	}
	check := func(r *request) {
		if i := int(r.slot); i >= 0 && !late.has(i) && overdue(r.sentAt, i) {
			late |= bit(i)
		}
	}
	for _, l := range []*reqList{&e.inflight, &e.lingering} {
		for r := l.head; r != nil; r = r.next {
			if open := r.sent &^ (r.acked | r.nospace | late); open != 0 {
				for i := range e.slots {
					if open.has(i) && overdue(r.sentAt, i) {
						late |= bit(i)
					}
				}
			}
		}
	}
	for _, l := range []*reqList{&e.reads, &e.jobs} {
		for r := l.head; r != nil; r = r.next {
			check(r)
		}
	}
	// A read that waits for a promise: the chunk that does not give it.
	for r := e.held.head; r != nil; r = r.next {
		if o.now.Sub(r.sentAt) < replicaDrop {
			continue
		}
		for i := range e.slots {
			if !(e.members | e.wanted).has(i) || e.slots[i].peer.chunk == o.opt.Self {
				continue
			}
			if until, chain := e.slots[i].peer.promise.Load(); o.now >= until || chain != e.slots[i].peer.chain {
				if overdue(r.sentAt, i) {
					late |= bit(i)
				}
			}
		}
	}
	for i := range e.slots {
		if late.has(i) && e.slots[i].peer != nil && !o.lost {
			if !e.leaving.has(i) {
				o.fail(e, i, StatusOK)
			}
			o.failJobs(e, i, StatusReadFailed)
			o.rerouteReads(e, i)
		}
	}
}

// retryLast asks members that must leave but may not, because they are the last copies, again and again (I15).
func (o *Owner) retryLast(e *extent) {
	if o.now.Sub(e.retryAt) < LastRetry {
		return
	}
	e.retryAt = o.now
	if e.fullCount(e.members&^e.leaving) > 0 {
		o.evaluate(e)
		return
	}
	for i := range e.slots {
		s := &e.slots[i]
		if !e.leaving.has(i) || !e.members.has(i) || !s.peer.taken || s.stale {
			continue
		}
		if s.failed == StatusNoReplica || s.failed == StatusNoSpace {
			s.failed = StatusOK // its disk may have come back; a refusal puts it back
		}
		o.resend(e, i)
	}
	o.sendReads(e)
}

// dropIdle lets replicas on chunks that stay away leave extents without I/O, a few at a time.
func (o *Owner) dropIdle() {
	away := false
	for _, p := range o.peers {
		away = away || o.gone(p, IdleDrop)
	}
	if !away {
		return
	}
	const perTick = 64
	for n := 0; n < min(perTick, len(o.extents)) && !o.lost; n++ {
		o.idleCursor = (o.idleCursor + 1) % len(o.extents)
		e := o.extents[o.idleCursor]
		if e.phase != PhaseServing || e.change != nil {
			continue
		}
		for i := range e.slots {
			if e.members.has(i) && !e.leaving.has(i) && o.gone(e.slots[i].peer, IdleDrop) {
				o.fail(e, i, StatusOK)
			}
		}
	}
}

// OwnerStatus is a summary for status output.
type OwnerStatus struct {
	Epoch    block.Epoch
	Lost     bool
	Extents  int
	Serving  int
	Joining  int
	Degraded int // extents with fewer full members than wanted
	Requests int
}

// Status returns a summary. It looks at every extent.
func (o *Owner) Status() OwnerStatus {
	s := OwnerStatus{Epoch: o.opt.Epoch, Lost: o.lost, Extents: len(o.extents), Serving: o.serving, Joining: o.joins, Requests: o.pool.used}
	for _, e := range o.extents {
		if e.fullCount(e.members) < o.opt.ReplicaFactor {
			s.Degraded++
		}
	}
	return s
}

// Record returns the recorded set of an extent as the owner knows it.
func (o *Owner) Record(x block.ExtentIndex) Record { return o.extents[x].rec }
