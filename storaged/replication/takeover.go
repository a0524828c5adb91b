package replication

import (
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

const replicaDrop = timeouts.ReplicaDrop

// rollTask is a range that the holders have at a stamp and that others lack.
type rollTask struct {
	run  Run
	have mask
	lack mask
}

// rollsMax bounds the roll-forward tasks under way per extent.
const rollsMax = 4

// onDescribed takes what a chunk says about one replica: for a takeover, or to show that a restarted member lost nothing.
func (o *Owner) onDescribed(p *peer, m *Message) {
	if int(m.Extent) >= len(o.extents) {
		return
	}
	e := o.extents[m.Extent]
	i := e.slotOf(m.Disk)
	if i < 0 || e.slots[i].peer != p {
		return
	}
	s := &e.slots[i]
	st := State{Generation: m.Generation, Watermark: m.Watermark, Highest: m.Stamp}
	if e.phase == PhaseServing {
		if !s.verify {
			return
		}
		s.verify = false
		switch {
		case m.Status != StatusOK:
			o.fail(e, i, m.Status)
		case s.reaches(st) < s.proof:
			o.fail(e, i, StatusStale) // I6
		default:
			o.sendReads(e)
		}
		return
	}
	if s.answered || e.change != nil {
		return
	}
	s.answered, s.verify, s.failed, s.found = true, false, m.Status, &found{state: st}
	if m.More != nil {
		s.found.window = m.More.Runs
	}
	if m.Status == StatusOK && st.Generation > e.rec.Generation {
		// The record is older than the replica: metadata went back. Nobody knows what else is missing.
		s.failed = StatusStale
	}
	o.collect(e)
}

// givenUp reports whether the owner need not wait for a member's description any longer. A member that waits for its promise
// to an earlier owner has said so, and is waited for.
func (o *Owner) givenUp(e *extent, s *slot) bool {
	p := s.peer
	from := e.since
	switch {
	case p.away:
		return o.now.Sub(max(from, p.downSince)) >= PeerGrace
	case !p.up:
		from = max(from, p.downSince)
	case p.taken:
		from = max(from, p.takenAt)
	case p.pending:
		return o.now.Sub(p.pendingAt) >= timeouts.Lease+replicaDrop
	default:
		from = max(from, p.upSince)
	}
	return o.now.Sub(from) >= replicaDrop
}

// collect goes on to roll forward when every member has answered or is given up and one of them can be the base.
func (o *Owner) collect(e *extent) {
	if e.phase == PhaseServing || e.change != nil || o.lost {
		return
	}
	if e.putSent && !o.collectAnew(e) {
		return
	}
	good := mask(0)
	for i := range e.slots {
		if !e.members.has(i) {
			continue
		}
		s := &e.slots[i]
		if !s.answered && !o.givenUp(e, s) {
			return
		}
		if s.answered && s.failed == StatusOK {
			good |= bit(i)
		}
	}
	// Everything up to the highest watermark any of them knows was acknowledged, so was on every member. One that does not reach
	// it lost a flush (I6).
	var mark block.Stamp
	for i := range e.slots {
		if good.has(i) {
			mark = max(mark, e.slots[i].state().Watermark)
		}
	}
	for i := range e.slots {
		if good.has(i) && e.slots[i].reaches(e.slots[i].state()) < mark && !o.bugs.has(BugRollStale) {
			e.slots[i].stale = true
			e.slots[i].failed = StatusStale
			good &^= bit(i)
		}
	}
	if e.fullCount(good) == 0 {
		if o.revive(e, good, mark) {
			return
		}
		o.reportNeeds(e, e.members&^good)
		if o.now.Sub(e.retryAt) >= LastRetry {
			e.retryAt = o.now
			o.collectAgain(e)
		}
		return
	}
	e.needs = false
	o.endRevival(e)
	if e.phase == PhaseCollecting {
		e.phase = PhaseRolling
		o.report(Report{Kind: ReportPhase, Extent: e.index, Phase: e.phase})
	}
	o.dropRolls(e)
	if !o.bugs.has(BugNoRollForward) {
		e.rolls = rollTasks(e, good, mark)
	}
	e.rollNext = 0
	e.watermark = mark
	o.roll(e)
}

// collectAnew gives up a roll-forward that has begun to copy. Its copies may reach some members and not others, and what they
// bring may not be on any member that stays. So it waits until each copy has been answered, or can do nothing any more because its connection is
// gone, and then has all members described again. It returns true if it has nothing to wait for.
func (o *Owner) collectAnew(e *extent) bool {
	o.dropRolls(e)
	e.phase = PhaseCollecting
	for r := e.jobs.head; r != nil; r = r.next {
		if r.kind == reqRollPut {
			return false
		}
	}
	e.putSent = false
	e.since = o.now
	for i := range e.slots {
		if s := &e.slots[i]; e.members.has(i) && s.answered && s.failed == StatusOK {
			s.answered = false
			o.describe(e, i)
		}
	}
	return true
}

// describe asks a member for its description.
func (o *Owner) describe(e *extent, i int) {
	if p := e.slots[i].peer; p.taken {
		m := o.send(p, MsgTakeEpoch)
		m.Owner, m.Incarnation, m.More = o.opt.Self, o.opt.Incarnation, &More{Targets: []ReplicaID{{e.index, e.slots[i].disk}}}
	}
}

// collectAgain asks members that refused or are silent once more: they hold the last copies.
func (o *Owner) collectAgain(e *extent) {
	for i := range e.slots {
		s := &e.slots[i]
		if !e.members.has(i) || s.answered && s.failed == StatusOK {
			continue
		}
		s.answered, s.failed, s.stale = false, StatusOK, false
		o.describe(e, i)
	}
}

// collectDown forgets the description of a member that cannot be reached any more: it is asked again, or given up.
func (o *Owner) collectDown(e *extent, i int) {
	if e.change != nil || !e.slots[i].answered {
		return
	}
	e.slots[i].answered, e.slots[i].failed, e.slots[i].stale = false, StatusOK, false
	o.dropRolls(e)
	e.phase = PhaseCollecting
}

// collectFail notes that a member failed during roll-forward.
func (o *Owner) collectFail(e *extent, i int, why Status) {
	if e.change != nil {
		e.leaving |= bit(i)
		e.slots[i].failed = why
		return
	}
	if why == StatusOK {
		why = StatusReadFailed
	}
	e.slots[i].answered, e.slots[i].failed = true, why
	o.dropRolls(e)
	e.phase = PhaseCollecting
	e.retryAt = o.now
	o.collect(e)
}

// rollTasks lists what the good members do not agree on above the watermark mark: per label and block the highest stamp, who has it
// and who does not. Blocks of one write stay together.
func rollTasks(e *extent, good mask, mark block.Stamp) []rollTask {
	type piece struct {
		Run
		slot int
	}
	var all []piece
	for i := range e.slots {
		f := e.slots[i].found
		if !good.has(i) || f == nil {
			continue
		}
		for _, r := range f.window {
			if r.Stamp > mark {
				all = append(all, piece{r, i})
			}
		}
	}
	slices.SortFunc(all, func(a, b piece) int {
		if a.Label != b.Label {
			return int(int64(a.Label) - int64(b.Label))
		}
		return int(int64(a.Range.Start) - int64(b.Range.Start))
	})
	var tasks []rollTask
	for len(all) > 0 {
		// A group of pieces of one label that touch each other, cut at every boundary.
		n, end := 1, all[0].Range.End()
		for n < len(all) && all[n].Label == all[0].Label && all[n].Range.Start < end {
			end = max(end, all[n].Range.End())
			n++
		}
		group := all[:n]
		all = all[n:]
		var cuts []block.No
		for _, p := range group {
			cuts = append(cuts, p.Range.Start, p.Range.End())
		}
		slices.Sort(cuts)
		cuts = slices.Compact(cuts)
		for c := range len(cuts) - 1 {
			rng := block.Range{Start: cuts[c], Count: uint32(cuts[c+1] - cuts[c])}
			t := rollTask{run: Run{Range: rng, Label: group[0].Label}}
			for _, p := range group {
				if !p.Range.Overlaps(rng) || p.Stamp < t.run.Stamp {
					continue
				}
				if p.Stamp > t.run.Stamp {
					t.run.Stamp, t.run.State, t.have = p.Stamp, p.State, 0
				}
				t.have |= bit(p.slot)
			}
			if t.lack = good &^ t.have; t.lack == 0 {
				continue
			}
			for rng.Count > CopyBlocks { // also what was unmapped at once: a store takes no more in one record
				part := t
				part.run.Range.Count = CopyBlocks
				tasks = append(tasks, part)
				t.run.Range.Start += CopyBlocks
				t.run.Range.Count -= CopyBlocks
				rng = t.run.Range
			}
			tasks = append(tasks, t)
		}
	}
	return tasks
}

// roll begins the next tasks, and ends the phase when all are done.
func (o *Owner) roll(e *extent) {
	for e.rollNext < len(e.rolls) && e.jobs.n < rollsMax {
		t := &e.rolls[e.rollNext]
		k := e.rollNext
		e.rollNext++
		if t.run.State == BlockZero {
			o.rollPut(e, k, &Message{More: &More{Runs: []Run{t.run}}})
			continue
		}
		i := 0
		for !t.have.has(i) {
			i++
		}
		r := o.job(e, i, reqRollGet, t.run.Range)
		r.tag = uint64(k)
		m := o.sendTo(e, i, MsgRead)
		m.Req, m.Range, m.View, m.Flags = r.id, t.run.Range, t.run.Label, FlagStamps
	}
	if e.rollNext == len(e.rolls) && e.jobs.n == 0 {
		o.rolled(e)
	}
}

func (o *Owner) job(e *extent, i int, k reqKind, rng block.Range) *request {
	r := o.pool.get(k)
	r.ext, r.slot, r.rng, r.sentAt = e, int8(i), rng, o.now
	e.jobs.push(r)
	return r
}

// rollPut copies what was read to those that lack it.
func (o *Owner) rollPut(e *extent, k int, src *Message) {
	t := &e.rolls[k]
	e.putSent = true
	for i := range e.slots {
		if !t.lack.has(i) {
			continue
		}
		r := o.job(e, i, reqRollPut, t.run.Range)
		r.tag = uint64(k)
		m := o.sendTo(e, i, MsgCopy)
		m.Req, m.Range, m.View, m.Flags = r.id, t.run.Range, t.run.Label, FlagRoll
		m.Data, m.Sums, m.More = src.Data, src.Sums, src.More
	}
}

func (o *Owner) onRollReply(r *request, m *Message) {
	e, i, k := r.ext, int(r.slot), int(r.tag)
	get := r.kind == reqRollGet
	o.pool.put(r)
	if e.phase == PhaseCollecting {
		o.collect(e) // the roll-forward was given up, and waits for this
		return
	}
	switch {
	case m.Status == StatusOK && get && m.More == nil:
		o.collectFail(e, i, StatusInvalid)
	case m.Status == StatusOK:
		if get {
			o.rollPut(e, k, m)
		}
		o.roll(e)
	case get && m.Status == StatusBadBlocks && e.rolls[k].have&^bit(i) != 0:
		// Another holder may have it whole; this one is repaired when it is read.
		e.rolls[k].have &^= bit(i)
		e.rolls = append(e.rolls, e.rolls[k])
		o.roll(e)
	default:
		o.collectFail(e, i, m.Status)
	}
}

func (o *Owner) dropRolls(e *extent) {
	for r := e.jobs.head; r != nil; {
		next := r.next
		if r.kind == reqRollGet {
			o.pool.put(r)
		}
		r = next
	}
	e.rolls = nil
}

// rolled: all good members are equal. The others leave before anybody is told a watermark they do not reach; otherwise a later
// owner could take them for members that lost something, or worse, the watermark at which they left for one they had reached.
func (o *Owner) rolled(e *extent) {
	good := mask(0)
	for i := range e.slots {
		if s := &e.slots[i]; e.members.has(i) && s.answered && s.failed == StatusOK {
			good |= bit(i)
		}
	}
	e.rolls, e.putSent = nil, false
	if good == e.members {
		o.serve(e)
		return
	}
	o.propose(e, good, e.watermark, false)
}

// serve opens the extent: all members are equal.
func (o *Owner) serve(e *extent) {
	for i := range e.slots {
		s := &e.slots[i]
		if e.members.has(i) {
			e.watermark = max(e.watermark, s.state().Highest)
		}
		s.found = nil
	}
	e.phase = PhaseServing
	o.serving++
	o.report(Report{Kind: ReportPhase, Extent: e.index, Phase: e.phase})
	for i := range e.slots {
		if s := &e.slots[i]; e.members.has(i) && s.verify {
			// Restarted while the set was being changed: what it said of itself then was not looked at.
			s.proof = e.watermark
			o.describe(e, i)
		}
	}
	if o.serving == len(o.extents) {
		o.report(Report{Kind: ReportReady})
	}
	o.sendReads(e)
	o.touch(e)
	o.evaluate(e)
}
