package replication

import (
	"math/bits"

	"github.com/iomesh/iomesh/storaged/block"
)

// joinStep says what a message of a resync is.
type joinStep uint8

const (
	stepStart  joinStep = iota // MsgJoinStart
	stepSource                 // list of the source
	stepJoiner                 // list of the joiner
	stepGet                    // read from the source
	stepPut                    // copy to the joiner
	stepSeal                   // last copy, which only tells the watermark
)

// join is the resync of one replica (I9).
//
//	starting ─▶ draining ─▶ per view, oldest first: listing ⇄ copying ─▶ binding ─▶ sealing ─▶ proposed ─▶ member
//
// From draining on all new writes go to the joiner too. Those numbered earlier have to be on the source before its list is made. From
// binding on they are acknowledged only when the joiner has them, so that when none lingers the joiner holds all that was ever
// acknowledged, and can be recorded.
type join struct {
	slot, source int
	add          bool
	revive       mask // of a revival: the members that stay, else 0
	phase        joinPhase
	direct       bool // new writes go to it
	binding      bool // and have to be there
	start        block.Stamp
	base         block.Stamp // up to here the joiner had everything when it left
	drainTo      block.Stamp
	views        []block.SnapSeq
	view         int
	cursor       block.No
	cover        block.No // the lists reach up to here
	got          int      // lists that have arrived
	lists        [2][]Run
	todo         []block.Range
	open         int
	openBlocks   uint32
	copied       uint64
	left         uint64 // bytes known to differ that are not copied yet
	told         uint64 // of copied, as reported last
	skipped      bool   // BugForgetDirty has been done
	since        Time
}

type joinPhase uint8

const (
	joinStarting joinPhase = iota
	joinDraining
	joinListing
	joinCopying
	joinBinding
	joinSealing
	joinProposed
)

// nextJoins starts resyncs, of additions first, then of absent replicas that can be reached.
func (o *Owner) nextJoins() {
	for k := 0; k < len(o.adds) && o.joins < JoinsMax; {
		a := o.adds[k]
		e := o.extents[a.extent]
		p := o.peer(a.member.Chunk)
		if i := e.slotOf(a.member.Disk); i >= 0 && a.member.Kind == Full && e.deltas().has(i) {
			// What the delta holds need not be copied again, but it cannot be both while the rest is.
			if o.mayJoin(e) {
				e.slots[i].drained = true
				o.propose(e, e.members&^bit(i), e.watermark, false)
			}
			k++
			continue
		} else if i >= 0 {
			o.adds = append(o.adds[:k], o.adds[k+1:]...)
			continue
		}
		if a.member.Kind == Delta && !o.deltaWanted(e) {
			o.adds = append(o.adds[:k], o.adds[k+1:]...)
			o.report(Report{Kind: ReportRefused, Extent: e.index, Disk: a.member.Disk, Status: StatusInvalid})
			continue
		}
		if p.up && !p.taken && !p.asked {
			o.ask(p)
		}
		if o.mayJoin(e) && p.taken {
			base := block.Stamp(0)
			for _, ab := range e.rec.Absent {
				if ab.Disk == a.member.Disk {
					base = ab.Watermark
				}
			}
			if a.member.Kind == Delta {
				base = e.deltaBase()
			}
			o.startJoin(e, p, a.member, base, true)
			o.adds = append(o.adds[:k], o.adds[k+1:]...)
			continue
		}
		k++
	}
	if o.absent == 0 {
		return
	}
	const perTick = 256
	for n := 0; n < min(perTick, len(o.extents)) && o.joins < JoinsMax; n++ {
		o.cursor = (o.cursor + 1) % len(o.extents)
		e := o.extents[o.cursor]
		if !o.mayJoin(e) || e.fullCount(e.members) >= o.opt.ReplicaFactor {
			continue
		}
		// The newest first: it left last and lacks least. One that could not be resynced comes after the others: its disk may be full, and another
		// one's not.
		best := -1
		for k, a := range e.rec.Absent {
			if p := o.peer(a.Chunk); p.taken && !o.onChunk(e, p) && (best < 0 || a.Disk != e.joinLast) {
				best = k
			}
		}
		if best >= 0 {
			a := e.rec.Absent[best]
			o.startJoin(e, o.peer(a.Chunk), Member{Disk: a.Disk}, a.Watermark, false)
		}
	}
}

// onChunk reports whether a full member lives on the chunk: two replicas of an extent on one chunk would not survive it together.
func (o *Owner) onChunk(e *extent, p *peer) bool {
	for i := range e.slots {
		if e.members.has(i) && e.slots[i].peer == p && e.slots[i].kind == Full {
			return true
		}
	}
	return false
}

func (o *Owner) mayJoin(e *extent) bool {
	return e.phase == PhaseServing && e.join == nil && e.change == nil && (e.leaving == 0 || e.needs) && o.now >= e.joinRetry && o.release == nil
}

func (o *Owner) startJoin(e *extent, p *peer, m Member, base block.Stamp, add bool) {
	src := o.pick(e, 0)
	if src < 0 {
		return
	}
	since := block.Stamp(0)
	if m.Kind == Delta {
		since = base
	}
	if i := e.addSlot(p, m.Disk, o.kind(m.Kind), since); i >= 0 {
		o.beginJoin(e, i, src, base, add)
	}
}

// beginJoin makes the replica of a slot equal to that of another above base.
func (o *Owner) beginJoin(e *extent, i, src int, base block.Stamp, add bool) {
	o.joins++
	o.activate(e)
	j := &join{slot: i, source: src, add: add, base: base, since: o.now}
	// A stamp of its own: it also tells this resync's messages from those of an earlier one that was given up.
	e.counter++
	j.start = block.NewStamp(o.opt.Epoch, e.counter)
	e.join = j
	r := o.job(e, i, reqJoin, block.Range{})
	r.step = stepStart
	m := o.sendTo(e, i, MsgJoinStart)
	m.Req, m.Stamp, m.Watermark, m.Owner = r.id, j.start, base, o.opt.Self
	if add {
		m.Flags = FlagCreate
	}
}

// joinFailed gives a resync up. Nothing is lost but time: what was copied keeps its stamps and is not copied again.
func (o *Owner) joinFailed(e *extent, why Status) {
	j := e.join
	if j == nil {
		return
	}
	if j.phase == joinProposed {
		// The set with it may be recorded already: it leaves like a member.
		e.leaving |= bit(j.slot)
		e.slots[j.slot].failed = why
		return
	}
	o.endJoin(e)
	o.report(Report{Kind: ReportJoinFailed, Extent: e.index, Disk: e.slots[j.slot].disk, Status: why, CopiedBytes: j.copied})
	e.missed = e.missed || !j.add
	e.joinRetry = o.now.Add(JoinRetry)
	if why == StatusNoSpace && e.enough(o.opt.MinReplicas) {
		e.joinRetry = o.now.Add(10 * JoinRetry)
	}
	if !j.add {
		e.joinLast = e.slots[j.slot].disk
		e.forgetNoRoom(e.joinLast)
		if why == StatusNoSpace {
			e.noRoom = append(e.noRoom, e.joinLast)
			o.refuse(e)
		}
	}
	e.freeSlot(j.slot)
	o.touch(e)
}

// endJoin forgets the resync and its messages.
func (o *Owner) endJoin(e *extent) {
	o.copying -= e.join.openBlocks
	e.join = nil
	o.joins--
	for r := e.jobs.head; r != nil; {
		next := r.next
		if r.kind == reqJoin {
			o.pool.put(r)
		}
		r = next
	}
	for e.lingering.head != nil {
		o.pool.put(e.lingering.head)
	}
}

// joined: the set with the joiner is recorded.
func (o *Owner) joined(e *extent) {
	j := e.join
	disk := e.slots[j.slot].disk
	e.missed = e.missed && j.add
	e.joinLast = block.DiskID{}
	e.forgetNoRoom(disk)
	o.endJoin(e)
	o.report(Report{Kind: ReportJoined, Extent: e.index, Disk: disk, CopiedBytes: j.copied})
}

// joinStep moves a resync on as far as it can go now.
func (o *Owner) joinStep(e *extent) {
	if e.steps {
		return
	}
	e.steps = true
	for e.join != nil && !o.lost && o.joinAdvance(e, e.join) {
	}
	e.steps = false
}

// joinAdvance makes one step; false if there is nothing to do now.
func (o *Owner) joinAdvance(e *extent, j *join) bool {
	switch j.phase {
	case joinDraining:
		for r := e.inflight.head; r != nil && r.stamp < j.drainTo; r = r.next {
			if !e.onAll(r) {
				return false
			}
		}
		j.phase = joinListing
		o.list(e, j)
	case joinListing:
		if j.got < 2 {
			return false
		}
		j.phase = joinCopying
		o.compare(e, j)
	case joinCopying:
		if len(j.todo) > 0 {
			return o.copyNext(e, j)
		}
		if j.open > 0 {
			return false
		}
		j.cursor = j.cover
		if j.cursor >= block.PerExtent {
			j.cursor = 0
			j.view++
		}
		if j.view == len(j.views) {
			o.bind(e, j)
			return true
		}
		j.phase = joinListing
		o.list(e, j)
	case joinBinding:
		if e.lingering.n > 0 || e.change != nil {
			return false
		}
		j.phase = joinSealing
		r := o.job(e, j.slot, reqJoin, block.Range{})
		r.step = stepSeal
		m := o.sendTo(e, j.slot, MsgCopy)
		m.Req, m.Flags, m.Watermark, m.View, m.Stamp = r.id, FlagJoin, e.watermark, o.snapSeq, j.start
	default:
		return false
	}
	return true
}

// bind makes acknowledgements depend on the joiner.
func (o *Owner) bind(e *extent, j *join) {
	j.phase, j.binding = joinBinding, true
	// Writes numbered before new ones went to the joiner were on the source before its list was made, so the joiner has them as
	// copies. They are still here only because there are too few replicas to acknowledge them.
	for r := e.inflight.head; r != nil && r.stamp < j.drainTo; r = r.next {
		r.acked |= bit(j.slot)
	}
}

// list asks source and joiner for what changed above the base.
func (o *Owner) list(e *extent, j *join) {
	j.got, j.lists, j.cover = 0, [2][]Run{}, block.PerExtent
	rng := block.Range{Start: j.cursor, Count: uint32(block.PerExtent - j.cursor)}
	for k, i := range [2]int{j.source, j.slot} {
		r := o.job(e, i, reqJoin, rng)
		r.step = stepSource + joinStep(k)
		m := o.sendTo(e, i, MsgListStamps)
		m.Req, m.Range, m.View, m.Stamp = r.id, rng, j.views[j.view], j.base
	}
}

// compare makes the list of ranges in which source and joiner differ. Both lists count: what only the joiner has are writes of its
// window that nobody else kept.
func (o *Owner) compare(e *extent, j *join) {
	src, dst := j.lists[0], j.lists[1]
	j.todo = j.todo[:0]
	if o.bugs.has(BugIgnoreReturnersWindow) {
		dst = nil
	}
	at := j.cursor
	for at < j.cover {
		s, send := runAt(&src, at, j.cover)
		d, dend := runAt(&dst, at, j.cover)
		end := min(send, dend)
		// What the joiner got directly is newer than what the source may have had when it made its list.
		newer := d.Stamp >= j.start && d.Stamp > s.Stamp
		if j.revive != 0 && s.Stamp == 0 && d.Stamp != 0 {
			// Something that came to nothing, over a content that only a full member has.
			o.joinFailed(e, StatusStale)
			return
		}
		if (s.Stamp != d.Stamp || s.State != d.State) && !newer {
			if n := len(j.todo); n > 0 && j.todo[n-1].End() == at {
				j.todo[n-1].Count += uint32(end - at)
			} else {
				j.todo = append(j.todo, block.Range{Start: at, Count: uint32(end - at)})
			}
		}
		at = end
	}
	j.lists = [2][]Run{}
	j.left = 0
	for _, rng := range j.todo {
		j.left += uint64(rng.SizeBytes())
	}
	if j.left > 0 {
		o.reportJoin(e, j)
	}
	if o.bugs.has(BugForgetDirty) && len(j.todo) > 0 && !j.skipped {
		j.skipped = true
		j.todo = j.todo[1:]
	}
}

// reportJoin tells how far a resync has come.
func (o *Owner) reportJoin(e *extent, j *join) {
	j.told = j.copied
	o.report(Report{Kind: ReportJoin, Extent: e.index, Disk: e.slots[j.slot].disk, CopiedBytes: j.copied, LeftBytes: j.left})
}

// joinReportBytes is how much is copied between two reports of a resync.
const joinReportBytes = 4 << 20

// runAt returns the run of l that holds block at, or an empty one, and where it ends. It drops runs that end before.
func runAt(l *[]Run, at, limit block.No) (Run, block.No) {
	for len(*l) > 0 && (*l)[0].Range.End() <= at {
		*l = (*l)[1:]
	}
	if len(*l) == 0 {
		return Run{}, limit
	}
	r := (*l)[0]
	if r.Range.Start > at {
		return Run{}, min(r.Range.Start, limit)
	}
	return r, min(r.Range.End(), limit)
}

// copyNext begins the copy of the next piece, if the budget allows.
func (o *Owner) copyNext(e *extent, j *join) bool {
	if j.open >= CopiesMax || j.openBlocks >= CopiesBlocksMax || (o.budget <= 0 || o.copying >= o.copyMax) && j.revive == 0 {
		return false
	}
	rng := j.todo[0]
	if rng.Count > CopyBlocks {
		rng.Count = CopyBlocks
		j.todo[0].Start += CopyBlocks
		j.todo[0].Count -= CopyBlocks
	} else {
		j.todo = j.todo[1:]
	}
	j.open++
	j.openBlocks += rng.Count
	o.copying += rng.Count
	o.budget -= int64(rng.SizeBytes())
	o.joinGet(e, j, rng, 0)
	return true
}

func (o *Owner) joinGet(e *extent, j *join, rng block.Range, tried mask) {
	i := j.source
	if tried.has(i) {
		if i = o.pick(e, tried); i < 0 {
			i = j.source
		}
	}
	r := o.job(e, i, reqJoin, rng)
	r.step, r.tried, r.view = stepGet, tried|bit(i), j.views[j.view]
	m := o.sendTo(e, i, MsgRead)
	m.Req, m.Range, m.View, m.Flags = r.id, rng, r.view, FlagStamps
}

func (o *Owner) onJoinReply(r *request, m *Message) {
	e, j, step, rng, tried, view, at := r.ext, r.ext.join, r.step, r.rng, r.tried, r.view, int(r.slot)
	o.pool.put(r)
	if j == nil {
		return
	}
	bad := m.Status == StatusBadBlocks && step == stepGet && m.More != nil
	if m.Status != StatusOK && !bad {
		if at != j.slot && m.Status != StatusReadFailed {
			o.joinFailed(e, StatusOK)
			o.fail(e, at, m.Status)
			return
		}
		o.joinFailed(e, m.Status)
		return
	}
	switch step {
	case stepStart:
		if m.Watermark < j.base && e.slots[j.slot].since == 0 {
			// It does not have what it had when it left (I6): compare all above what it is sure to have.
			if j.base = m.Watermark; j.revive != 0 {
				o.joinFailed(e, StatusStale)
				return
			}
		}
		j.phase, j.direct = joinDraining, true
		j.drainTo = block.NewStamp(o.opt.Epoch, e.counter+1)
		for _, v := range o.opt.Snapshots {
			if v < o.snapSeq {
				j.views = append(j.views, v)
			}
		}
		j.views = append(j.views, o.snapSeq)
		if o.bugs.has(BugJoinTooEarly) {
			j.view = len(j.views)
			o.bind(e, j)
		}
	case stepSource, stepJoiner:
		j.got++
		if m.More != nil {
			j.lists[step-stepSource] = m.More.Runs
		}
		if m.Range.Start != rng.Start || m.Range.Count == 0 {
			o.joinFailed(e, StatusInvalid)
			return
		}
		j.cover = min(j.cover, m.Range.End())
	case stepGet:
		if bad && bits.OnesCount8(uint8(tried&e.members)) < bits.OnesCount8(uint8(e.members)) && o.pick(e, tried) >= 0 {
			// Somebody else may have the bad blocks. If not they are copied as bad, never as zero (I8).
			o.joinGet(e, j, rng, tried)
			return
		}
		if m.More == nil || bad && j.revive != 0 {
			o.joinFailed(e, StatusInvalid)
			return
		}
		w := o.job(e, j.slot, reqJoin, rng)
		w.step = stepPut
		c := o.sendTo(e, j.slot, MsgCopy)
		c.Req, c.Range, c.View, c.Flags, c.Stamp = w.id, rng, view, FlagJoin, j.start
		c.Data, c.Sums, c.More = m.Data, m.Sums, m.More
	case stepPut:
		j.open--
		j.openBlocks -= rng.Count
		o.copying -= rng.Count
		j.copied += uint64(rng.SizeBytes())
		j.left -= min(j.left, uint64(rng.SizeBytes()))
		if j.copied-j.told >= joinReportBytes {
			o.reportJoin(e, j)
		}
	case stepSeal:
		if e.change == nil {
			j.phase = joinProposed
			set := e.members
			if j.revive != 0 {
				set = j.revive
			}
			o.propose(e, set|bit(j.slot), e.watermark, true)
			return
		}
		// Another change came in between; after it the seal is asked for again.
		j.phase = joinBinding
	}
	o.joinStep(e)
}

// ResyncBudget lets resync copy so many bytes more, with about so many blocks in flight at a time, 0 for the most. Of what is not used, what
// was given in the last two calls is kept.
func (o *Owner) ResyncBudget(now Time, bytes int64, inFlight uint32, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	o.budget = min(o.budget, bytes) + bytes
	if o.copyMax = inFlight; inFlight == 0 {
		o.copyMax = JoinsMax * CopiesBlocksMax
	}
	if o.joins > 0 {
		for _, e := range o.active {
			if e.join != nil {
				o.joinStep(e)
			}
		}
	}
	return o.leave()
}

// SetSnapshots tells which views exist besides the live one. Resyncs under way go on with those they began with.
func (o *Owner) SetSnapshots(views []block.SnapSeq) { o.opt.Snapshots = views }
