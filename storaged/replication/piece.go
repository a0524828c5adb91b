package replication

import (
	"github.com/iomesh/iomesh/storaged/block"
)

// readInPieces goes on with a read whose answer had bad blocks: the good ranges are delivered, each bad one is read from another
// member (I8).
func (o *Owner) readInPieces(r *request, from int, m *Message) {
	r.read = &pieces{open: 1} // kept open until all are begun
	r.top = max(r.top, m.Stamp)
	at := r.rng.Start
	for _, run := range m.More.Runs {
		if run.State != BlockBad || !run.Range.Valid() || run.Range.Start < at || run.Range.End() > r.rng.End() {
			continue
		}
		o.deliver(r, block.Range{Start: at, Count: uint32(run.Range.Start - at)}, m)
		for at = run.Range.Start; at < run.Range.End(); { // as large as can be written anew at once
			n := min(CopyBlocks, uint32(run.Range.End()-at))
			o.piece(r, block.Range{Start: at, Count: n}, bit(from))
			at += block.No(n)
		}
	}
	o.deliver(r, block.Range{Start: at, Count: uint32(r.rng.End() - at)}, m)
	o.pieceDone(r)
}

// deliver passes on the part rng of an answer for r.
func (o *Owner) deliver(r *request, rng block.Range, m *Message) {
	if rng.Count == 0 {
		return
	}
	p := Effect{Kind: EffPiece, Tag: r.tag, Range: rng}
	if m.Data != nil {
		p.Data, p.Sums = part(m, r.rng, rng)
	}
	o.out = append(o.out, p)
}

// part slices the blocks rng out of a message about whole.
func part(m *Message, whole, rng block.Range) ([]byte, []uint32) {
	i := int(rng.Start - whole.Start)
	j := i + int(rng.Count)
	if j*block.Size > len(m.Data) || j > len(m.Sums) {
		return nil, nil
	}
	return m.Data[i*block.Size : j*block.Size], m.Sums[i:j]
}

// piece begins to read a part of r from a member not in bad, whose blocks there do not verify.
func (o *Owner) piece(r *request, rng block.Range, bad mask) {
	q := o.pool.get(reqPiece)
	q.ext, q.whole, q.rng, q.view, q.tried = r.ext, r, rng, r.view, bad
	r.read.open++
	r.ext.jobs.push(q)
	o.sendPiece(q)
}

func (o *Owner) sendPiece(q *request) {
	e := q.ext
	i := o.pick(e, q.tried)
	if i < 0 && q.tried.covers(e.members&^e.deltas()) {
		i = o.pickDelta(e, q.tried)
	}
	if i < 0 {
		if !q.tried.covers(e.members) {
			q.slot = -1
			return // somebody cannot be reached now; until then nobody knows that the blocks are lost
		}
		if q.tag == 0 {
			// One that was bad when it was asked may have been repaired since. Ask all once more.
			q.tag, q.tried = 1, 0
			o.sendPiece(q)
			return
		}
		r := q.whole
		if !r.read.isBad {
			r.read.bad, r.read.isBad = q.rng, true
		}
		o.report(Report{Kind: ReportBad, Extent: e.index, Range: q.rng})
		o.pool.put(q)
		o.pieceDone(r)
		return
	}
	q.slot, q.sentAt = int8(i), o.now
	m := o.sendTo(e, i, MsgRead)
	m.Req, m.Range, m.View, m.Flags = q.id, q.rng, o.view(q.view), FlagStamps
}

func (o *Owner) onPieceReply(q *request, m *Message) {
	r, e, i := q.whole, q.ext, int(q.slot)
	switch {
	case m.Status == StatusOK && !e.slots[i].holds(m):
		o.splitPiece(q, i)
	case m.Status == StatusOK:
		r.top = max(r.top, m.Stamp)
		o.out = append(o.out, Effect{Kind: EffPiece, Tag: r.tag, Range: q.rng, Data: m.Data, Sums: m.Sums})
		if m.More != nil {
			for s := range e.slots {
				if q.tried.has(s) && e.members.has(s) && e.slots[s].peer.taken {
					o.repair(e, s, q, m)
				}
			}
		}
		o.pool.put(q)
		o.pieceDone(r)
	case m.Status == StatusBadBlocks:
		o.splitPiece(q, i)
	default:
		q.slot = -1
		if m.Status == StatusNoReplica || m.Status == StatusDiskFailed || m.Status == StatusStale {
			o.fail(e, i, m.Status)
		}
		// Tick sends it again.
	}
}

// splitPiece goes on with a piece that a slot does not have, or not all of: block by block, then elsewhere.
func (o *Owner) splitPiece(q *request, i int) {
	r, rng, tried := q.whole, q.rng, q.tried
	if rng.Count == 1 {
		q.tried |= bit(i)
		o.sendPiece(q)
		return
	}
	for b := range rng.Count {
		o.piece(r, block.Range{Start: rng.Start + block.No(b), Count: 1}, tried)
	}
	o.pool.put(q)
	o.pieceDone(r)
}

func (o *Owner) pieceDone(r *request) {
	r.read.open--
	if r.read.open > 0 {
		return
	}
	if o.readable(r) {
		o.finishRead(r)
		return
	}
	o.hold(r)
}

// repair rewrites the blocks of q on a replica where they did not verify, from the good answer m.
func (o *Owner) repair(e *extent, to int, q *request, m *Message) {
	c := o.pool.get(reqRepair)
	c.ext, c.rng, c.slot, c.sentAt = e, q.rng, int8(to), o.now
	e.jobs.push(c)
	w := o.sendTo(e, to, MsgCopy)
	w.Req, w.Range, w.View, w.Flags = c.id, q.rng, o.view(q.view), FlagRepair
	w.Data, w.Sums, w.More = m.Data, m.Sums, m.More
}

// onJobReply takes the answer to one of the owner's own requests.
func (o *Owner) onJobReply(r *request, m *Message) {
	switch r.kind {
	case reqPiece:
		o.onPieceReply(r, m)
	case reqRepair:
		if m.Status == StatusOK {
			o.report(Report{Kind: ReportRepaired, Extent: r.ext.index, Disk: m.Disk, Range: r.rng})
		}
		o.pool.put(r)
	case reqRollGet, reqRollPut:
		o.onRollReply(r, m)
	case reqJoin:
		o.onJoinReply(r, m)
	case reqScrub:
		o.onScrubReply(r, m)
	case reqMend:
		o.onMendReply(r, m)
	}
}

// failJobs ends the owner's own requests to a slot as if it had answered with a status.
func (o *Owner) failJobs(e *extent, i int, s Status) {
	for again := true; again && !o.lost; {
		again = false
		for r := e.jobs.head; r != nil; r = r.next {
			if int(r.slot) != i {
				continue
			}
			// The answer can end other requests too: start over.
			again = true
			if r.kind == reqPiece {
				r.slot = -1
			} else {
				o.onJobReply(r, &Message{Status: s, Disk: e.slots[i].disk})
			}
			break
		}
	}
}
