package replication

import "github.com/iomesh/iomesh/storaged/block"

// Delta members (I10). While a replica is away, what is written lands on one copy fewer than wished. A delta member on a further chunk makes up for
// that at once: it joins like a returner that had left at the watermark of the absent replica, so it copies what was written since, and gets every
// write from then on. It holds nothing older, therefore it is not counted, not read from, and leaves when there are enough full members.
//
//	{A, B}          B goes away at watermark W     {A} absent B@W
//	{A} absent B@W  delta D joins above W          {A, D since W} absent B@W
//	B returns                                      {A, B}
//	A goes away before B is back                   A is missed: what B lacks is on D, and nothing else is
//	B returns, A does not                          revival: {B, D} absent A
//
// A revival is a resync of B whose source is D, done by a new owner before the extent serves, while every full member is out of reach. B up to W and D above
// W are together all that was ever acknowledged: D was a member, so nothing was without it. One thing can be
// missing: a write that reached B alone, and came to nothing, lies over a content that neither has. B's list shows such blocks, because
// their stamps are above W and D does not know them; then there is no revival, and the extent waits for A (I15).
//
// A delta is a member in all other respects: it confirms epochs, gives promises, takes part in roll-forward, and can be stale.

// kind is the kind a member is taken for.
func (o *Owner) kind(k MemberKind) MemberKind {
	if o.bugs.has(BugDeltaAsFull) {
		return Full
	}
	return k
}

// reaches is the stamp up to which a replica in this state has what it should.
func (s *slot) reaches(st State) block.Stamp { return max(st.Highest, s.since) }

// holds reports whether an answer with stamps is the content of its blocks: a delta knows only what was written above its start.
func (s *slot) holds(m *Message) bool {
	if s.kind != Delta {
		return true
	}
	if m.More == nil {
		return false
	}
	for _, r := range m.More.Runs {
		if r.Stamp <= s.since {
			return false
		}
	}
	return len(m.More.Runs) > 0
}

// deltas is the set of delta members.
func (e *extent) deltas() mask {
	m := mask(0)
	for i := range e.slots {
		if e.members.has(i) && e.slots[i].kind == Delta {
			m |= bit(i)
		}
	}
	return m
}

// deltaBase is the watermark of the newest absent replica whose content is known, 0 if there is none.
func (e *extent) deltaBase() block.Stamp {
	for k := len(e.rec.Absent) - 1; k >= 0; k-- {
		if w := e.rec.Absent[k].Watermark; w != 0 {
			return w
		}
	}
	return 0
}

// deltaWanted reports whether a delta would help: a replica is away, does not come back just now, and there is no delta yet.
func (o *Owner) deltaWanted(e *extent) bool {
	if e.needs || e.deltas() != 0 || e.deltaBase() == 0 || e.fullCount(e.members) >= o.opt.ReplicaFactor {
		return false
	}
	for _, a := range e.rec.Absent {
		if p := o.peer(a.Chunk); p.taken && !o.onChunk(e, p) && !e.missed {
			return false
		}
	}
	return true
}

// pickDelta chooses a delta that can be read, -1 if there is none.
func (o *Owner) pickDelta(e *extent, not mask) int {
	for i := range e.slots {
		if s := &e.slots[i]; e.deltas().has(i) && !not.has(i) && s.peer.taken && !s.verify && !s.stale && !e.leaving.has(i) {
			return i
		}
	}
	return -1
}

// revivable finds an absent replica that a delta can complete: its place in the record, -1 if there is none.
func (o *Owner) revivable(e *extent, delta int) int {
	n := len(e.rec.Absent)
	for k := range n {
		k = (2*n - 1 - k - e.revived%max(n, 1)) % n // the newest first, unless it has failed before
		a := e.rec.Absent[k]
		if a.Watermark != 0 && a.Watermark >= e.slots[delta].since && o.peer(a.Chunk).taken && e.slotOf(a.Disk) < 0 {
			return k
		}
	}
	return -1
}

// hopeless reports whether a serving extent has lost its full members while a delta could bring an absent one back. That takes a takeover:
// nothing may be in flight then.
func (o *Owner) hopeless(e *extent) bool {
	if !e.needs || e.change != nil || o.now.Sub(e.needsFrom) < replicaDrop/2 || o.pick(e, 0) >= 0 {
		return false
	}
	for i := range e.slots {
		if e.members.has(i) && !e.leaving.has(i) && e.slots[i].kind == Full {
			return false
		}
	}
	d := o.pickDelta(e, 0)
	return d >= 0 && o.revivable(e, d) >= 0
}

// revive begins or goes on with the revival of an absent replica: no full member answers, the deltas in good do. False if there is nothing
// to revive with.
func (o *Owner) revive(e *extent, good mask, mark block.Stamp) bool {
	if e.join != nil {
		return true
	}
	if good == 0 || o.now < e.joinRetry || e.phase != PhaseCollecting {
		return false
	}
	d := 0
	for !good.has(d) {
		d++
	}
	k := o.revivable(e, d)
	if k < 0 {
		return false
	}
	a := e.rec.Absent[k]
	i := e.addSlot(o.peer(a.Chunk), a.Disk, Full, 0)
	if i < 0 {
		return false
	}
	e.revived++
	e.watermark = mark
	o.beginJoin(e, i, d, a.Watermark, false)
	e.join.revive = good
	return true
}

// endRevival gives a revival up because a full member has come back.
func (o *Owner) endRevival(e *extent) {
	if j := e.join; j != nil && j.revive != 0 && e.change == nil {
		o.endJoin(e)
		e.freeSlot(j.slot)
	}
}
