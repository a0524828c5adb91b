package replication

import (
	"github.com/iomesh/iomesh/storaged/block"
)

// pieces is the state of a read whose first answer had bad blocks: the rest is fetched range by range from other members.
type pieces struct {
	open  int // pieces not finished
	bad   block.Range
	isBad bool
}

// Read answers with data that is on every member of the set (I5), while promises of all other members hold (I4).
func (o *Owner) Read(now Time, q ReadRequest, out []Effect) []Effect {
	if !o.enter(now, out) {
		return append(out, Effect{Kind: EffComplete, Tag: q.Tag, Result: ResultLost})
	}
	bad := q.Range.Count > IOBlocksMax || q.Data != nil && len(q.Data) != q.Range.SizeBytes()
	if r := o.admit(reqRead, q.Tag, q.Extent, q.Range, bad); r != nil {
		r.data, r.view = q.Data, q.View
		o.others.push(r)
		e := r.ext
		e.reads.push(r)
		if o.initiators > 1 {
			o.confirmAll(e)
		}
		if e.phase == PhaseServing && o.release == nil {
			o.sendRead(r)
		}
	}
	return o.leave()
}

// sendReads sends the reads that have nobody to answer them.
func (o *Owner) sendReads(e *extent) {
	if e.phase != PhaseServing || o.release != nil {
		return
	}
	for r := e.reads.head; r != nil; {
		next := r.next
		if r.slot < 0 && r.read == nil {
			o.sendRead(r)
		}
		r = next
	}
	for r := e.jobs.head; r != nil; {
		next := r.next
		if r.kind == reqPiece && r.slot < 0 {
			o.sendPiece(r)
		}
		r = next
	}
}

// pick chooses the member to read from: the own chunk's, else the next that can be reached, starting at a place that differs by
// extent; members that are to leave only if no other is left. -1 if there is none.
func (o *Owner) pick(e *extent, not mask) int {
	best, score := -1, 0
	for k := range slotsMax {
		i := (k + int(e.index)) % slotsMax
		if !e.members.has(i) || not.has(i) {
			continue
		}
		s := &e.slots[i]
		if !s.peer.taken || s.verify || s.stale || s.kind != Full {
			continue
		}
		n := 2
		if s.peer.chunk == o.opt.Self {
			n = 3
		}
		if e.leaving.has(i) {
			n = 1
			if s.failed != StatusOK && s.failed != StatusNoSpace && s.failed != StatusDiskFailed {
				continue
			}
		}
		if n > score {
			best, score = i, n
		}
	}
	return best
}

func (o *Owner) sendRead(r *request) {
	e := r.ext
	i := o.pick(e, r.tried)
	if i < 0 && r.tried != 0 {
		// All have been tried and failed for passing reasons; Tick begins anew.
		return
	}
	if i < 0 {
		o.needDown(e)
		return
	}
	r.slot = int8(i)
	r.sentAt = o.now
	m := o.sendTo(e, i, MsgRead)
	m.Req, m.Range, m.View, m.Data = r.id, r.rng, o.view(r.view), r.data
}

// view is the number of the live view, so that a snapshot taken meanwhile does not change what is meant.
func (o *Owner) view(v block.SnapSeq) block.SnapSeq {
	if v == block.LiveView {
		return o.snapSeq
	}
	return v
}

// rerouteReads sends the reads that a slot was to answer elsewhere.
func (o *Owner) rerouteReads(e *extent, i int) {
	for r := e.reads.head; r != nil; {
		next := r.next
		if int(r.slot) == i {
			r.slot = -1
			r.tried |= bit(i)
			o.sendRead(r)
			if r.slot < 0 {
				r.tried = 0
			}
		}
		r = next
	}
}

// onReadReply takes the answer to a client's read.
func (o *Owner) onReadReply(r *request, m *Message) {
	e := r.ext
	i := int(r.slot)
	switch m.Status {
	case StatusOK:
		o.recovered(e, i)
		r.top = max(r.top, m.Stamp)
		if o.readable(r) {
			o.latency.Add(o.now.Sub(r.sentAt))
			c := o.complete(r.tag, ResultOK)
			c.Data, c.Sums, c.Range = m.Data, m.Sums, r.rng
			o.pool.put(r)
			return
		}
		o.out = append(o.out, Effect{Kind: EffPiece, Tag: r.tag, Range: r.rng, Data: m.Data, Sums: m.Sums})
		o.hold(r)
	case StatusBadBlocks:
		r.slot = -1
		if m.More == nil {
			r.tried |= bit(i)
			o.retryRead(r)
			return
		}
		o.readInPieces(r, i, m)
	case StatusNoReplica, StatusDiskFailed, StatusStale, StatusInvalid:
		r.slot = -1
		r.tried |= bit(i)
		o.fail(e, i, m.Status)
		o.retryRead(r)
	default:
		r.slot = -1
		r.tried |= bit(i)
		o.retryRead(r)
	}
}

// retryRead sends a read elsewhere, or leaves it to Tick when nobody is left.
func (o *Owner) retryRead(r *request) {
	if r.slot >= 0 {
		return
	}
	o.sendRead(r)
	if r.slot < 0 {
		r.tried = 0
	}
}

// hold keeps a read that has its data until it may be answered.
func (o *Owner) hold(r *request) {
	r.slot = -1
	r.ready = true
	r.sentAt = o.now
	r.unlist()
	r.ext.held.push(r)
	o.activate(r.ext)
}

// unread has the reads begin anew that may have seen a write which came to nothing: only a replica that has left the set since has it (I5).
func (o *Owner) unread(w *request) {
	e := w.ext
	for _, l := range []*reqList{&e.held, &e.reads} {
		for r := l.head; r != nil; {
			next := r.next
			if (r.ready || r.read != nil) && r.view == block.LiveView && r.top >= w.stamp && r.rng.Overlaps(w.rng) {
				o.readAnew(r)
			}
			r = next
		}
	}
}

// readAnew forgets what a read has got so far. Tick, or whatever lets reads go on, sends it again.
func (o *Owner) readAnew(r *request) {
	e := r.ext
	if r.read != nil {
		o.dropPieces(r)
		r.read = nil
	}
	if r.ready {
		r.unlist()
		e.reads.push(r)
	}
	r.ready, r.slot, r.tried, r.top = false, -1, 0, 0
	o.activate(e)
}

// releaseReads answers the held reads that may be answered now.
func (o *Owner) releaseReads(e *extent) {
	for r := e.held.head; r != nil; {
		next := r.next
		if o.readable(r) {
			o.finishRead(r)
		}
		r = next
	}
}

// finishRead answers a read whose data was delivered in pieces.
func (o *Owner) finishRead(r *request) {
	res := ResultOK
	var bad block.Range
	if r.read != nil && r.read.isBad {
		res, bad = ResultMediumError, r.read.bad
	}
	c := o.complete(r.tag, res)
	c.Assembled, c.Range = true, r.rng
	if res != ResultOK {
		c.Range = bad
	}
	o.pool.put(r)
}

// dropRead ends a read or lock request that is not answered with data, with its pieces.
func (o *Owner) dropRead(r *request) {
	if r.read != nil {
		o.dropPieces(r)
	}
	o.pool.put(r)
}

func (o *Owner) dropPieces(r *request) {
	for q := r.ext.jobs.head; q != nil; {
		next := q.next
		if q.whole == r {
			o.pool.put(q)
		}
		q = next
	}
}

// readable reports whether a read that has its data may be answered: what it saw is on all members, and no other owner can exist.
// Called after the data was read: a promise that held before says nothing.
func (o *Owner) readable(r *request) bool {
	e := r.ext
	if r.view == block.LiveView && !o.bugs.has(BugReadUncommitted) {
		for w := e.inflight.head; w != nil; w = w.next {
			// A write above the highest stamp of the data was not seen.
			if w.stamp <= r.top && w.rng.Overlaps(r.rng) && !e.onAll(w) {
				return false
			}
		}
	}
	return o.promised(e, r)
}

// promised checks the promises of all other members' chunks.
func (o *Owner) promised(e *extent, r *request) bool {
	if o.bugs.has(BugNoLeaseCheck) {
		return true
	}
	need := e.members | e.wanted
	for i := range e.slots {
		if !need.has(i) {
			continue
		}
		p := e.slots[i].peer
		if p.chunk == o.opt.Self {
			continue
		}
		until, chain := p.promise.Load()
		if o.now >= until {
			return false
		}
		if chain != p.chain {
			o.confirm(p)
			return false
		}
		since := o.arrivedSeq
		if o.initiators > 1 {
			since = max(since, r.arrivedSeq)
		}
		if p.confirmedSeq < since && !o.bugs.has(BugNoConfirm) {
			o.confirm(p)
			return false
		}
	}
	return true
}

// confirmAll asks every other member whether this is still the highest epoch. Every one: a member that was cut off can be the
// only one that does not know of a newer owner.
func (o *Owner) confirmAll(e *extent) {
	for i := range e.slots {
		if (e.members | e.wanted).has(i) && e.slots[i].peer.chunk != o.opt.Self {
			o.confirm(e.slots[i].peer)
		}
	}
}

// confirm asks a chunk for its chain. One question at a time: what comes meanwhile is asked with the next.
func (o *Owner) confirm(p *peer) {
	if !p.taken {
		return
	}
	if p.confirmSent != 0 {
		p.confirmAgain = p.confirmAgain || p.confirmSent < o.seq
		return
	}
	o.seq++
	p.confirmSent, p.confirmAt = o.seq, o.now
	o.send(p, MsgConfirm).Req = o.seq
}

func (o *Owner) onConfirmed(p *peer, m *Message) {
	if p.confirmSent == 0 || m.Req != p.confirmSent {
		return
	}
	p.chain, p.confirmedSeq, p.confirmSent = m.Chain, p.confirmSent, 0
	if p.confirmAgain {
		p.confirmAgain = false
		o.confirm(p)
	}
	for _, e := range o.active {
		if e.held.n > 0 {
			o.releaseReads(e)
		}
	}
}
