package replication

import (
	"github.com/iomesh/iomesh/storaged/block"
)

// scrub reads all that the members hold, again and again, as fast as ScrubBudget lets it (I8): one range of one view at a time, on all full members in
// turn. Data does not travel: the members verify checksums where they are, and send stamps.
//
//	bad blocks        are written anew from a member that has them good
//	stamps differ     although nothing was written meanwhile: who has the lower one lost what it acknowledged, and leaves its set, unless all have
//
// It passes over extents that are not whole: resync looks at those.
type scrub struct {
	budget int64
	extent int
	view   int
	cursor block.No
	read   uint64 // bytes of the extent so far
	bad    uint64 // of them, those that did not verify
	gaps   bool   // some of the extent could not be read on some member
	asked  bool   // the volume is read once because of ScrubAgain
	passes uint64 // times the end of the volume was reached

	at     *extent // being read, nil between two ranges
	rng    block.Range
	seen   block.SnapSeq // the view
	gen    block.Generation
	since  block.Stamp // watermark when it began
	still  bool        // nothing was in flight then
	slot   int
	first  []Run // of the first member
	lead   int   // that member
	behind mask
}

// scrubCost is what a range costs, in bytes, beside what is read: much of a thin volume was never written.
const scrubCost = 256 << 10

// ScrubBudget lets scrub read so many bytes more. What is not used is kept up to a bound.
func (o *Owner) ScrubBudget(now Time, bytes int64, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	const keepMax = 16 << 20
	o.scrub.budget = min(o.scrub.budget+bytes, keepMax)
	o.scrubNext()
	return o.leave()
}

// ScrubAgain has the scrub begin anew at the volume's first block. Its end, and what it had to pass over, are reported.
func (o *Owner) ScrubAgain(now Time, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	s := &o.scrub
	s.at, s.asked, s.extent = nil, true, 0
	s.restart()
	o.scrubNext()
	return o.leave()
}

// ScrubPasses counts how often scrub has come to the end of the volume. It stops there until ScrubBudget is called again.
func (o *Owner) ScrubPasses() uint64 { return o.scrub.passes }

func (s *scrub) restart() { s.view, s.cursor, s.read, s.bad, s.gaps = 0, 0, 0, 0, false }

// tickScrub gives up a range whose answer does not come.
func (o *Owner) tickScrub() {
	s := &o.scrub
	if s.at == nil {
		return
	}
	for r := s.at.jobs.head; r != nil; r = r.next {
		if r.kind == reqScrub {
			return
		}
	}
	s.at = nil
}

// whole reports whether scrub may look at an extent.
func (o *Owner) whole(e *extent) bool {
	return e.phase == PhaseServing && e.join == nil && e.change == nil && e.leaving == 0 && e.members != 0
}

// scrubNext begins the next range. Extents that are not whole are passed over, a few at a time.
func (o *Owner) scrubNext() {
	s := &o.scrub
	if s.at != nil || s.budget <= 0 || len(o.extents) == 0 || o.lost || o.release != nil {
		return
	}
	const lookMax = 64
	for range lookMax {
		if s.extent >= len(o.extents) {
			if s.asked {
				s.asked = false
				o.report(Report{Kind: ReportVerified})
			}
			s.extent = 0
			s.restart()
			s.passes++
			s.budget = 0 // whoever wants another pass asks for it
			return
		}
		e := o.extents[s.extent]
		if !o.whole(e) {
			s.gaps = true
			o.scrubSkip()
			continue
		}
		views := len(o.opt.Snapshots) + 1
		end := block.No(min(block.PerExtent, o.opt.SizeBlocks-uint64(e.index)*block.PerExtent))
		if s.cursor >= end {
			s.cursor = 0
			s.view++
		}
		if s.view >= views {
			o.report(Report{Kind: ReportScrubbed, Extent: e.index, CopiedBytes: s.read, LeftBytes: s.bad})
			o.scrubSkip()
			continue
		}
		s.seen = o.snapSeq
		if s.view < len(o.opt.Snapshots) {
			s.seen = o.opt.Snapshots[s.view]
		}
		s.at, s.rng = e, block.Range{Start: s.cursor, Count: min(ScrubBlocks, uint32(end-s.cursor))}
		s.budget -= scrubCost
		s.gen, s.since, s.still = e.rec.Generation, e.watermark, e.inflight.n == 0 && e.lingering.n == 0
		s.slot, s.first, s.lead, s.behind = -1, nil, -1, 0
		o.scrubMember()
		return
	}
}

func (o *Owner) scrubSkip() {
	s := &o.scrub
	if s.asked && s.gaps {
		o.report(Report{Kind: ReportPassedOver, Extent: o.extents[s.extent].index})
	}
	s.extent++
	s.restart()
}

// scrubMember asks the next full member for the range; after the last one it judges.
func (o *Owner) scrubMember() {
	s := &o.scrub
	e := s.at
	for s.slot++; s.slot < slotsMax; s.slot++ {
		m := &e.slots[s.slot]
		if !e.members.has(s.slot) || m.kind != Full || m.verify {
			continue
		}
		if !m.peer.taken {
			s.still, s.gaps = false, true // cannot be compared
			continue
		}
		o.activate(e)
		r := o.job(e, s.slot, reqScrub, s.rng)
		q := o.sendTo(e, s.slot, MsgRead)
		q.Req, q.Range, q.View, q.Flags = r.id, s.rng, s.seen, FlagStamps|FlagVerify
		return
	}
	s.at = nil
	s.cursor = s.rng.End()
	if s.behind != 0 && s.still && s.gen == e.rec.Generation && o.whole(e) && e.inflight.n == 0 && e.watermark == s.since {
		for i := range e.slots {
			if s.behind.has(i) && e.members.has(i) {
				o.report(Report{Kind: ReportBehind, Extent: e.index, Disk: e.slots[i].disk, Range: s.rng})
				if e.fullCount(e.members&^s.behind) > 0 { // else nobody is sure to have everything: they stay (I15)
					o.fail(e, i, StatusStale)
				}
			}
		}
	}
}

func (o *Owner) onScrubReply(r *request, m *Message) {
	s := &o.scrub
	e, i, rng := r.ext, int(r.slot), r.rng
	o.pool.put(r)
	if s.at != e || s.rng != rng || s.slot != i {
		return
	}
	if m.Status != StatusOK && m.Status != StatusBadBlocks || m.More == nil || s.gen != e.rec.Generation {
		// Whoever needs the member finds out what is wrong with it.
		s.at, s.cursor, s.gaps = nil, rng.End(), true
		return
	}
	for _, run := range m.More.Runs {
		if run.State != BlockZero {
			s.budget -= int64(run.Range.SizeBytes())
			s.read += uint64(run.Range.SizeBytes())
		}
		if run.State == BlockBad && run.Range.Valid() && run.Range.Start >= rng.Start && run.Range.End() <= rng.End() {
			s.bad += uint64(run.Range.SizeBytes())
			for b := range run.Range.Count {
				o.mend(e, block.Range{Start: run.Range.Start + block.No(b), Count: 1}, s.seen, bit(i), i, false)
			}
		}
	}
	if s.lead < 0 {
		s.lead, s.first = i, m.More.Runs
	} else {
		s.compare(i, m.More.Runs)
	}
	o.scrubMember()
	if s.at == nil {
		o.scrubNext()
	}
}

// compare notes who lacks a write that the other has.
func (s *scrub) compare(i int, runs []Run) {
	first := s.first
	for at := s.rng.Start; at < s.rng.End(); {
		a, aend := runAt(&first, at, s.rng.End())
		b, bend := runAt(&runs, at, s.rng.End())
		switch {
		case a.Stamp < b.Stamp:
			s.behind |= bit(s.lead)
		case a.Stamp > b.Stamp:
			s.behind |= bit(i)
		}
		at = min(aend, bend)
	}
}

// mend reads a block from a member not in tried, to write it anew on the one where it is bad. A delta has it if it was written since the delta
// began. The block is lost if all members were asked twice, the bad one too: it may have been repaired since it was read.
func (o *Owner) mend(e *extent, rng block.Range, view block.SnapSeq, tried mask, bad int, again bool) {
	i := o.pick(e, tried)
	if i < 0 && tried.covers(e.members&^e.deltas()) {
		i = o.pickDelta(e, tried)
	}
	if i < 0 {
		switch {
		case !tried.covers(e.members) || e.leaving != 0:
		case !again:
			o.mend(e, rng, view, 0, bad, true)
		default:
			o.report(Report{Kind: ReportBad, Extent: e.index, Range: rng})
		}
		return
	}
	r := o.job(e, i, reqMend, rng)
	r.view, r.tried, r.tag = view, tried, uint64(bad)
	if again {
		r.tag |= mendAgain
	}
	m := o.sendTo(e, i, MsgRead)
	m.Req, m.Range, m.View, m.Flags = r.id, rng, view, FlagStamps
}

// mendAgain marks the second round in the tag of a reqMend, beside the slot of the bad member.
const mendAgain = 1 << 32

func (o *Owner) onMendReply(r *request, m *Message) {
	e, i, bad := r.ext, int(r.slot), int(r.tag&^mendAgain)
	switch {
	case m.Status == StatusBadBlocks || m.Status == StatusOK && !e.slots[i].holds(m):
		o.mend(e, r.rng, r.view, r.tried|bit(i), bad, r.tag&mendAgain != 0)
	case m.Status == StatusOK && m.More != nil && i != bad:
		if e.members.has(bad) && e.slots[bad].peer.taken {
			o.repair(e, bad, r, m)
		}
	}
	o.pool.put(r)
}
