package replication

import (
	"github.com/iomesh/iomesh/storaged/block"
)

// absentMax bounds the replicas remembered as absent, newest kept.
const absentMax = 4

// fail notes that a replica cannot be worked with: StatusOK means it is silent or cannot be reached.
func (o *Owner) fail(e *extent, i int, why Status) {
	s := &e.slots[i]
	if s.peer == nil {
		return
	}
	if why == StatusDiskFailed && s.failed != why {
		o.report(Report{Kind: ReportDiskFailed, Extent: e.index, Disk: s.disk, Status: why})
	}
	if !(e.members | e.wanted).has(i) {
		if e.join != nil && e.join.slot == i {
			o.joinFailed(e, why)
		}
		return
	}
	if e.phase != PhaseServing {
		o.collectFail(e, i, why)
		return
	}
	if why != StatusOK || !e.leaving.has(i) {
		s.failed = why
	}
	if why == StatusStale {
		s.stale = true
	}
	e.leaving |= bit(i)
	o.activate(e)
	o.rerouteReads(e, i)
	o.evaluate(e)
}

// evaluate proposes the removal of what must leave, if it may (I15).
func (o *Owner) evaluate(e *extent) {
	if e.change != nil || e.phase != PhaseServing || o.lost {
		return
	}
	leave := e.leaving & e.members
	if leave == 0 {
		e.needs = false
		return
	}
	keep := e.members &^ leave
	known := keep
	for i := range e.slots {
		if e.slots[i].verify {
			known &^= bit(i) // restarted, and may turn out to have lost something
		}
	}
	if e.fullCount(known) == 0 {
		if o.bugs.has(BugRemoveLast) && o.plantReplaceLast(e) {
			return
		}
		o.reportNeeds(e, leave)
		return
	}
	e.needs = false
	o.propose(e, keep, e.watermark, false)
}

// plantReplaceLast is BugRemoveLast: an absent replica takes the place of the last copy.
func (o *Owner) plantReplaceLast(e *extent) bool {
	if e.join != nil {
		return false
	}
	for _, a := range e.rec.Absent {
		if p := o.peer(a.Chunk); p.taken {
			if i := e.addSlot(p, a.Disk, Full, 0); i >= 0 {
				o.propose(e, bit(i), e.watermark, false)
				return true
			}
		}
	}
	return false
}

// recovered takes back the wish to remove a last copy that answers again.
func (o *Owner) recovered(e *extent, i int) {
	s := &e.slots[i]
	if e.leaving.has(i) && e.change == nil && s.failed == StatusOK && !s.drained && !s.stale && e.fullCount(e.members&^e.leaving) == 0 {
		e.leaving &^= bit(i)
		o.evaluate(e)
	}
}

func (o *Owner) reportNeeds(e *extent, which mask) {
	if e.needs {
		return
	}
	e.needs, e.needsFrom = true, o.now
	for i := range e.slots {
		if which.has(i) {
			o.report(Report{Kind: ReportNeeds, Extent: e.index, Disk: e.slots[i].disk, Status: e.slots[i].failed})
		}
	}
}

// propose asks the shell to record a new set. Until the outcome is known writes need both sets.
// Those that leave are kept as absent: up to wm they have everything.
func (o *Owner) propose(e *extent, set mask, wm block.Stamp, joining bool) {
	if e.fullCount(set) >= o.opt.ReplicaFactor {
		set &^= e.deltas() // nobody needs them any more
	}
	c := &SetChange{Volume: o.opt.Volume, Extent: e.index, Epoch: o.opt.Epoch, Expect: e.rec.Revision, Generation: e.rec.Generation + 1}
	for i := range e.slots {
		s := &e.slots[i]
		if !set.has(i) {
			continue
		}
		c.Members = append(c.Members, Member{Disk: s.disk, Chunk: s.peer.chunk, Kind: s.kind, Since: s.since})
	}
	for _, a := range e.rec.Absent {
		if i := e.slotOf(a.Disk); i < 0 || !set.has(i) {
			c.Absent = append(c.Absent, a)
		}
	}
	for i := range e.slots {
		s := &e.slots[i]
		if !e.members.has(i) || set.has(i) || s.drained || s.kind == Delta {
			continue
		}
		a := Absent{Disk: s.disk, Chunk: s.peer.chunk, Watermark: wm}
		if s.stale || s.failed == StatusStale {
			a.Watermark = 0 // what it has is not what it acknowledged
		}
		c.Absent = append(c.Absent, a)
	}
	switch n := len(c.Absent); {
	case e.fullCount(set) >= o.opt.ReplicaFactor:
		c.Absent = nil // nobody needs them any more
	case n > absentMax:
		c.Absent = c.Absent[n-absentMax:]
	}
	e.wanted = set
	e.change = &change{want: c, join: joining}
	o.activate(e)
	o.out = append(o.out, Effect{Kind: EffSetChange, Change: c})
}

// SetChanged takes the certain outcome of a set change. A guard that failed means that somebody else owns the volume.
func (o *Owner) SetChanged(now Time, res SetResult, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	if int(res.Extent) >= len(o.extents) || o.extents[res.Extent].change == nil {
		return o.leave()
	}
	if !res.Committed {
		o.stop(ResultLost)
		return o.leave()
	}
	o.changed(o.extents[res.Extent], res.Revision)
	return o.leave()
}

func (o *Owner) changed(e *extent, revision int64) {
	c := e.change
	if len(e.rec.Absent) > 0 {
		o.absent--
	}
	if len(c.want.Absent) > 0 {
		o.absent++
	}
	e.rec = Record{Generation: c.want.Generation, Members: c.want.Members, Absent: c.want.Absent, Revision: revision}
	gone := e.members &^ e.wanted
	e.members, e.wanted, e.change = e.wanted, 0, nil
	e.told = 0
	if c.join {
		o.joined(e)
	}
	for i := range e.slots {
		if !gone.has(i) {
			continue
		}
		o.rerouteReads(e, i)
		o.failJobs(e, i, StatusReadFailed)
		if e.join != nil && e.join.source == i && e.join.phase != joinProposed {
			o.joinFailed(e, StatusOK)
		}
		e.freeSlot(i)
	}
	o.report(Report{Kind: ReportSet, Extent: e.index, Record: e.rec})
	o.unwritable(e)
	if e.phase != PhaseServing {
		o.serve(e)
	}
	o.sendReads(e)
	o.touch(e)
	o.evaluate(e)
	o.joinStep(e)
}

// addition is a replica to be built that the record does not know as absent.
type addition struct {
	extent block.ExtentIndex
	member Member
}

// AddMember builds a replica on a disk and makes it a member: a full one, or a delta (I10), which is refused when no replica is absent that it
// could help to come back. A full one on the disk of a delta takes its place. Repeating it while it is under way does nothing.
func (o *Owner) AddMember(now Time, x block.ExtentIndex, m Member, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	if int(x) >= len(o.extents) || m.Kind != Full && (m.Kind != Delta || !o.deltaWanted(o.extents[x])) {
		o.report(Report{Kind: ReportRefused, Extent: x, Disk: m.Disk, Status: StatusInvalid})
		return o.leave()
	}
	for i, a := range o.adds {
		if a.extent == x && a.member.Disk == m.Disk {
			o.adds[i].member.Kind = min(a.member.Kind, m.Kind) // full rather than delta
			return o.leave()
		}
	}
	if e := o.extents[x]; e.slotOf(m.Disk) < 0 || m.Kind == Full && e.deltas().has(e.slotOf(m.Disk)) {
		o.adds = append(o.adds, addition{x, m})
		if p := o.peer(m.Chunk); p.up && !p.taken {
			o.ask(p)
		}
	}
	return o.leave()
}

// RemoveMember takes a replica out of the set for good. The last full member stays (I15).
func (o *Owner) RemoveMember(now Time, x block.ExtentIndex, d block.DiskID, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	if int(x) >= len(o.extents) {
		o.report(Report{Kind: ReportRefused, Extent: x, Disk: d, Status: StatusInvalid})
		return o.leave()
	}
	e := o.extents[x]
	i := e.slotOf(d)
	if i >= 0 && e.join != nil && e.join.slot == i && e.change == nil {
		o.joinFailed(e, StatusInvalid)
		return o.leave()
	}
	if i < 0 || !e.members.has(i) || e.phase != PhaseServing || e.fullCount(e.members&^e.leaving&^bit(i)) == 0 {
		o.report(Report{Kind: ReportRefused, Extent: x, Disk: d, Status: StatusInvalid})
		return o.leave()
	}
	e.slots[i].drained = true
	o.fail(e, i, StatusOK)
	return o.leave()
}

// needDown drops members that cannot be reached, now that something needs them.
func (o *Owner) needDown(e *extent) {
	if e.phase != PhaseServing {
		return
	}
	for i := range e.slots {
		if e.members.has(i) && !e.leaving.has(i) && o.gone(e.slots[i].peer, PeerGrace) {
			o.fail(e, i, StatusOK)
		}
	}
}

// gone reports whether a chunk has been out of reach for longer than grace, or connected but mute for ReplicaDrop.
func (o *Owner) gone(p *peer, grace Duration) bool {
	switch {
	case p.taken:
		return false
	case p.up:
		return o.now.Sub(p.upSince) >= replicaDrop
	default:
		return o.now.Sub(max(p.downSince, o.started)) >= grace
	}
}
