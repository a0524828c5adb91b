package replication

import (
	"math/bits"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// Write makes the change durable on every member of the recorded set, then completes the request (I1).
func (o *Owner) Write(now Time, w WriteRequest, out []Effect) []Effect {
	if !o.enter(now, out) {
		return append(out, Effect{Kind: EffComplete, Tag: w.Tag, Result: ResultLost})
	}
	kind := reqWrite
	if w.Data == nil {
		kind = reqUnmap
	}
	bad := kind == reqWrite && (w.Range.Count > IOBlocksMax || len(w.Data) != w.Range.SizeBytes() || len(w.Sums) < int(w.Range.Count))
	if r := o.admit(kind, w.Tag, w.Extent, w.Range, bad); r != nil {
		r.data, r.sums, r.lock = w.Data, w.Sums, w.Lock
		if w.Lock != 0 && !r.ext.locked(w.Lock, w.Range) {
			o.complete(r.tag, ResultInvalid)
			o.pool.put(r)
			return o.leave()
		}
		o.changes.push(r)
		o.startOrWait(r)
	}
	return o.leave()
}

// Flush completes when every write called before it is completed (SYNCHRONIZE CACHE).
func (o *Owner) Flush(now Time, tag uint64, out []Effect) []Effect {
	if !o.enter(now, out) {
		return append(out, Effect{Kind: EffComplete, Tag: tag, Result: ResultLost})
	}
	if o.pool.used >= RequestsMax {
		o.complete(tag, ResultBusy)
		return o.leave()
	}
	r := o.pool.get(reqFlush)
	r.tag, r.arrived = tag, now
	o.changes.push(r)
	o.flushes()
	return o.leave()
}

// flushes completes the flushes that no write is before.
func (o *Owner) flushes() {
	for r := o.changes.head; r != nil && r.kind == reqFlush; r = o.changes.head {
		o.complete(r.tag, ResultOK)
		o.pool.put(r)
	}
}

// Lock gives the exclusive right to change a range once no write or lock that came before overlaps it.
func (o *Owner) Lock(now Time, l LockRequest, out []Effect) []Effect {
	if !o.enter(now, out) {
		return append(out, Effect{Kind: EffComplete, Tag: l.Tag, Result: ResultLost})
	}
	if r := o.admit(reqLock, l.Tag, l.Extent, l.Range, false); r != nil {
		o.others.push(r)
		o.startOrWait(r)
	}
	return o.leave()
}

// Unlock gives a lock back; writes under it need not be completed. Unknown locks are ignored.
func (o *Owner) Unlock(now Time, id LockID, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	for _, e := range o.active {
		for i := range e.locks {
			if e.locks[i].id == id {
				e.locks = append(e.locks[:i], e.locks[i+1:]...)
				o.wake(e)
				return o.leave()
			}
		}
	}
	return o.leave()
}

func (e *extent) locked(id LockID, rng block.Range) bool {
	for _, l := range e.locks {
		if l.id == id {
			return l.rng.Start <= rng.Start && rng.End() <= l.rng.End()
		}
	}
	return false
}

// admit checks a client request and gives it a place; nil if it was completed with an error.
func (o *Owner) admit(k reqKind, tag uint64, x block.ExtentIndex, rng block.Range, bad bool) *request {
	if bad || int(x) >= len(o.extents) || !rng.Valid() || uint64(x)*block.PerExtent+uint64(rng.End()) > o.opt.SizeBlocks {
		o.complete(tag, ResultInvalid)
		return nil
	}
	if o.pool.used >= RequestsMax {
		o.complete(tag, ResultBusy)
		return nil
	}
	r := o.pool.get(k)
	e := o.extents[x]
	o.seq++
	r.ext, r.tag, r.rng, r.arrived, r.arrivedSeq = e, tag, rng, o.now, o.seq
	o.activate(e)
	return r
}

func (o *Owner) startOrWait(r *request) {
	if o.mayStart(r) {
		o.start(r)
	} else {
		r.ext.waiting.push(r)
		o.needDown(r.ext)
		o.refuse(r.ext)
	}
}

// refuse answers the writes that wait for more replicas when none can come back, because the disk of each that left has no space for what it lacks:
// that may last.
func (o *Owner) refuse(e *extent) {
	if len(e.noRoom) == 0 || e.phase != PhaseServing || e.enough(o.opt.MinReplicas) || e.join != nil && e.join.add {
		return
	}
	for _, a := range e.rec.Absent {
		if !slices.Contains(e.noRoom, a.Disk) {
			return
		}
	}
	for _, a := range o.adds {
		if a.extent == e.index {
			return
		}
	}
	for r := e.waiting.head; r != nil; {
		next := r.next
		if r.kind == reqWrite {
			o.complete(r.tag, ResultSpaceExhausted)
			o.pool.put(r)
		}
		r = next
	}
	o.flushes()
}

// mayStart reports whether a write or lock can go on now.
func (o *Owner) mayStart(r *request) bool {
	e := r.ext
	if e.phase != PhaseServing || o.holding() || !e.enough(o.opt.MinReplicas) {
		return false
	}
	if e.counter >= block.CounterMax-1 {
		o.worn = true
		return false
	}
	if h := e.inflight.head; h != nil && e.counter-h.stamp.Counter() >= WindowMax {
		return false
	}
	if o.bugs.has(BugOverlap) {
		return true
	}
	return !e.blocked(r.rng, r.lock, r)
}

// start numbers a write and sends it to all members and to a joiner that is past its start, or grants a lock.
func (o *Owner) start(r *request) {
	e := r.ext
	r.unlist()
	if r.kind == reqLock {
		o.lockSeq++
		e.locks = append(e.locks, rangeLock{o.lockSeq, r.rng})
		o.out = append(o.out, Effect{Kind: EffLocked, Tag: r.tag, Lock: o.lockSeq})
		o.pool.put(r)
		return
	}
	e.counter++
	r.stamp = block.NewStamp(o.opt.Epoch, e.counter)
	r.label = o.snapSeq
	r.below, e.tailDone = e.tailDone, 0
	r.sentAt, e.lastWrite = o.now, o.now
	e.inflight.push(r)
	o.inflight++
	o.sendWrite(r, e.targets())
}

// sendWrite sends a numbered write to the slots that can be reached, the own chunk last: the others' way is longer.
func (o *Owner) sendWrite(r *request, to mask) {
	e := r.ext
	var self mask // two while a replica moves from one disk of the own chunk to another
	for m := to; m != 0; m &= m - 1 {
		i := bits.TrailingZeros8(uint8(m))
		switch p := e.slots[i].peer; {
		case !p.taken:
			o.needDown(e)
		case p.chunk == o.opt.Self:
			self |= bit(i)
		default:
			o.sendWriteTo(r, i)
		}
	}
	for ; self != 0; self &= self - 1 {
		o.sendWriteTo(r, bits.TrailingZeros8(uint8(self)))
	}
}

func (o *Owner) sendWriteTo(r *request, i int) {
	e := r.ext
	r.sent |= bit(i)
	k := MsgWrite
	if r.kind == reqUnmap {
		k = MsgUnmap
	}
	m := o.sendTo(e, i, k)
	m.Req, m.Range, m.Stamp, m.SnapSeq, m.Data, m.Sums = r.id, r.rng, r.stamp, r.label, r.data, r.sums
	if r.reserve {
		m.Flags = FlagReserve
	}
	if e.members.has(i) {
		// Only members may keep it: a joiner does not hold everything below.
		m.Watermark = e.watermark
	}
}

// resend sends a replica that can be reached again what it has not acknowledged.
func (o *Owner) resend(e *extent, i int) {
	if !e.targets().has(i) {
		return
	}
	for r := e.inflight.head; r != nil; r = r.next {
		// Never while an answer is still to come: one copy could be refused for lack of space, and the other applied.
		if !r.sent.has(i) && !r.acked.has(i) && !r.nospace.has(i) && (e.members | e.wanted).has(i) {
			o.sendWriteTo(r, i)
		}
	}
}

func (o *Owner) onWriteReply(p *peer, m *Message) {
	r := o.pool.find(m.Req)
	if r == nil || r.kind > reqUnmap {
		return
	}
	e := r.ext
	i := e.slotOf(m.Disk)
	if i < 0 || e.slots[i].peer != p || !r.sent.has(i) {
		return
	}
	switch m.Status {
	case StatusOK:
		r.acked |= bit(i)
		r.nospace &^= bit(i)
		o.recovered(e, i)
	case StatusNoSpace:
		if e.join != nil && e.join.slot == i && !e.wanted.has(i) {
			o.joinFailed(e, m.Status)
			return
		}
		r.nospace |= bit(i)
	case StatusOldGeneration:
		if m.Generation <= e.rec.Generation {
			switch {
			case r.list == &e.lingering:
				o.joinFailed(e, m.Status)
			case e.targets().has(i):
				o.sendWriteTo(r, i)
			}
			return
		}
		r.sent &^= bit(i)
		o.fail(e, i, StatusStale)
		return
	default:
		r.sent &^= bit(i)
		o.fail(e, i, m.Status)
		if m.Status == StatusDiskFailed && !o.lost {
			o.unwritable(e)
		}
		return
	}
	if r.list == &e.lingering {
		if e.join == nil || r.acked.has(e.join.slot) {
			o.pool.put(r)
			o.joinStep(e)
		}
		return
	}
	o.settle(r)
	if e.join != nil {
		o.joinStep(e)
	}
}

// unwritable ends the writes in flight when the last full copy is on a disk that takes nothing any more. What it has can still be read, and
// copied elsewhere, but not while a write waits for it. Deltas leave first: they have what it never will.
func (o *Owner) unwritable(e *extent) {
	if e.phase != PhaseServing || e.change != nil || !e.needs || e.fullCount(e.members) != 1 || o.lost {
		return
	}
	last := bits.TrailingZeros8(uint8(e.members &^ e.deltas()))
	if !e.leaving.has(last) || e.slots[last].failed != StatusDiskFailed {
		return
	}
	if e.deltas() != 0 {
		o.propose(e, bit(last), e.watermark, false)
		return
	}
	for r := e.inflight.head; r != nil; {
		next := r.next
		if r.acked&e.required() == 0 && !r.sent.has(last) {
			o.finish(r, ResultUnavailable, false)
		}
		r = next
	}
}

// settle completes a write in flight when everyone that must answer has.
func (o *Owner) settle(r *request) {
	e := r.ext
	need := e.required()
	if o.bugs.has(BugAckBeforeSetChange) {
		need &^= e.leaving
	}
	if o.bugs.has(BugAckEarly) && r.acked != 0 {
		need = r.acked
	}
	if !(r.acked | r.nospace).covers(need) {
		return
	}
	if r.nospace&need != 0 {
		o.outOfSpace(r, need)
		return
	}
	if !e.enough(o.opt.MinReplicas) {
		return // on all members, and waits for more of them
	}
	o.finish(r, ResultOK, true)
}

// outOfSpace deals with a write that some or all members refused for lack of space.
func (o *Owner) outOfSpace(r *request, need mask) {
	e := r.ext
	refused := r.nospace & need
	if (r.acked|r.unsure)&need == 0 {
		// Nobody has it: all members are as before. A joiner that took it is not.
		if !e.full {
			e.full = true
			o.report(Report{Kind: ReportFull, Extent: e.index})
		}
		if e.join != nil && r.sent.has(e.join.slot) {
			o.joinFailed(e, StatusNoSpace)
		}
		o.finish(r, ResultSpaceExhausted, false)
		return
	}
	if r.acked&need != 0 && (r.reserve || e.fullCount(e.members&^refused&^e.leaving) >= o.opt.MinReplicas) {
		for i := range e.slots {
			if refused.has(i) {
				o.report(Report{Kind: ReportSpace, Extent: e.index, Disk: e.slots[i].disk, Status: StatusNoSpace})
				o.fail(e, i, StatusNoSpace)
			}
		}
		return
	}
	if r.reserve {
		return // not even there: Tick tries again
	}
	// Too few would be left, or one that refuses now may have taken it before its connection broke. The write is, or may be, on a member
	// already, so all take it into the space kept for repair.
	o.sendReserved(r, refused)
}

// sendReserved sends a write that was refused for lack of space again, with the right to use the space kept for repair.
func (o *Owner) sendReserved(r *request, refused mask) {
	e := r.ext
	r.reserve = true
	r.nospace = 0
	r.sentAt = o.now
	for i := range e.slots {
		if refused.has(i) && e.slots[i].peer.taken {
			o.sendWriteTo(r, i)
		}
	}
}

// finish ends a write in flight. applied says whether it is on all members or on none.
func (o *Owner) finish(r *request, res Result, applied bool) {
	e := r.ext
	done := r.below
	if applied {
		done = r.stamp
		e.full = false
	}
	if r.next != nil {
		r.next.below = max(r.next.below, done)
	} else {
		e.tailDone = max(e.tailDone, done)
	}
	if r.prev == nil {
		if r.next == nil {
			done = max(done, e.tailDone) // later ones ended before this one, which may leave no stamp of its own
		}
		e.watermark = max(e.watermark, done)
	}
	r.unlist()
	o.inflight--
	if !applied {
		o.unread(r)
	}
	o.latency.Add(o.now.Sub(r.sentAt))
	o.answerWrite(r, res)
	if applied && e.join != nil && r.sent.has(e.join.slot) && !r.acked.has(e.join.slot) {
		e.lingering.push(r)
	} else {
		o.pool.put(r)
	}
	o.afterWrite(e)
}

// answerWrite tells the client the result, or, if it had been told an error, that its buffers are free.
func (o *Owner) answerWrite(r *request, res Result) {
	if r.answered {
		o.out = append(o.out, Effect{Kind: EffForget, Tag: r.tag})
	} else {
		o.complete(r.tag, res)
		r.unarrive()
		o.flushes()
	}
	r.data, r.sums = nil, nil
}

// afterWrite lets go on what waited for a write of the extent.
func (o *Owner) afterWrite(e *extent) {
	if e.held.n > 0 {
		o.releaseReads(e)
	}
	if e.waiting.n > 0 {
		o.wake(e)
	}
}

// wake starts the waiting writes and locks that can start, in order.
func (o *Owner) wake(e *extent) {
	for r := e.waiting.head; r != nil; {
		next := r.next
		if o.mayStart(r) {
			o.start(r)
		}
		r = next
	}
}

// touch has all writes in flight of an extent settled again before the call returns, after its set has changed.
func (o *Owner) touch(e *extent) {
	if !e.touched {
		e.touched = true
		o.touched = append(o.touched, e)
	}
}

func (o *Owner) resettle(e *extent) {
	e.touched = false
	for r := e.inflight.head; r != nil; {
		next := r.next // settle ends r and no other write
		o.settle(r)
		r = next
	}
	o.wake(e)
	o.releaseReads(e)
}

// expire answers the requests that have waited for timeouts.WriteWait.
func (o *Owner) expire() {
	for r := o.changes.head; r != nil && o.now.Sub(r.arrived) >= timeouts.WriteWait; r = o.changes.head {
		e := r.ext
		res := ResultUnavailable
		if e != nil && e.phase == PhaseServing && !e.enough(o.opt.MinReplicas) {
			res = ResultTooFewReplicas
		}
		switch {
		case r.kind == reqFlush:
			// Every write before it has been answered, so it is complete.
			o.flushes()
		case r.list == &e.waiting:
			o.complete(r.tag, res)
			o.pool.put(r)
			o.flushes()
			o.wake(e)
		case e.onAll(r):
			o.finish(r, res, true)
		default:
			// Some have it and some do not: it stays until all members are equal again (I5), only the client goes.
			r.answered = true
			o.complete(r.tag, res).Retained = true
			r.unarrive()
			o.flushes()
		}
	}
	for r := o.others.head; r != nil && o.now.Sub(r.arrived) >= timeouts.WriteWait; r = o.others.head {
		o.complete(r.tag, ResultUnavailable)
		e := r.ext
		o.dropRead(r)
		o.wake(e)
	}
}
