package sim

import (
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// meta is the metadata store and its leader: records changed by guarded transactions, whose requests and answers are delayed or lost.
type meta struct {
	w        *World
	revision int64
	owner    *chunk
	ownerInc uint64
	epoch    block.Epoch
	extents  []replication.Record
	snapSeq  block.SnapSeq
	views    []block.SnapSeq
	adding   map[block.ExtentIndex]int64
	delta    map[block.ExtentIndex]int64
	since    []int64 // when the extent was seen degraded, 0 if it is not
}

func (m *meta) next() int64 {
	m.revision++
	return m.revision
}

// assign makes a chunk the owner with the next epoch, and lets the old and new one see it after a while.
func (m *meta) assign(c *chunk) {
	w := m.w
	old := m.owner
	m.owner, m.ownerInc = c, c.inc
	m.epoch++
	w.Stats.Owners++
	w.tracef("meta: owner is %d in epoch %d", c.id, m.epoch)
	m.watch(c, m.epoch)
	if old != nil && old != c {
		m.watch(old, m.epoch)
	}
}

// watch tells a chunk of the owner record.
func (m *meta) watch(c *chunk, e block.Epoch) {
	w := m.w
	d := w.between(1*ms, 30*ms)
	if w.chance(15) {
		d = w.between(30*ms, 1500*ms)
	}
	w.afterOn(c, d, func() { m.watched(c, e) })
}

func (m *meta) watched(c *chunk, e block.Epoch) {
	w := m.w
	if c.metaCut {
		w.afterOn(c, 100*ms, func() { m.watched(c, e) })
		return
	}
	if m.owner != c {
		if c.owner != nil && c.ownerEpoch < m.epoch {
			c.excluded(m.epoch)
		}
		return
	}
	if m.epoch == e && c.usedEpoch < e && m.ownerInc == c.inc {
		c.own(e)
	}
}

// change performs a SetChange for a chunk. What is lost on the way is repeated with the same guard.
func (m *meta) change(c *chunk, s *replication.SetChange) {
	w := m.w
	w.afterOn(c, w.between(500*us, 5*ms), func() { m.try(c, s) })
}

func (m *meta) try(c *chunk, s *replication.SetChange) {
	w := m.w
	again := func() { w.afterOn(c, w.between(50*ms, 300*ms), func() { m.try(c, s) }) }
	if c.metaCut {
		again()
		return
	}
	lost := w.chance(5)
	committed := m.commit(s)
	if lost {
		w.tracef("meta: answer to %d lost", c.id)
		again()
		return
	}
	rev := m.extents[s.Extent].Revision
	w.afterOn(c, w.between(500*us, 5*ms), func() {
		if c.owner != nil && c.ownerEpoch == s.Epoch {
			c.do(c.owner.SetChanged(c.clock(), replication.SetResult{Extent: s.Extent, Committed: committed, Revision: rev}, c.effects()))
		}
	})
}

func (m *meta) commit(s *replication.SetChange) bool {
	w := m.w
	rec := &m.extents[s.Extent]
	if m.epoch != s.Epoch {
		return false
	}
	if rec.Revision != s.Expect {
		// Committed before, and the answer lost?
		return rec.Generation == s.Generation && slices.Equal(rec.Members, s.Members) && slices.Equal(rec.Absent, s.Absent)
	}
	if len(s.Members) == 0 {
		w.fail("extent %d: the set was made empty (I15)", s.Extent)
		return false
	}
	if fullMembers(s.Members) == 0 && !w.cfg.Bugs.Has(replication.BugDeltaAsFull) {
		w.fail("extent %d: the set has no full member any more (I15)", s.Extent)
		return false
	}
	w.noteDeltas(rec, s)
	w.Stats.SetChanges++
	*rec = replication.Record{Generation: s.Generation, Members: s.Members, Absent: s.Absent, Revision: m.next()}
	w.tracef("meta: extent %d generation %d members %s absent %v", s.Extent, s.Generation, names(s.Members), s.Absent)
	return true
}

func names(ms []replication.Member) string {
	b := make([]byte, 0, 16)
	for _, m := range ms {
		b = append(b, '0'+byte(m.Chunk))
		if m.Disk[1] > 0 {
			b = append(b, '.', '0'+m.Disk[1])
		}
		if m.Kind == replication.Delta {
			b = append(b, 'd')
		}
		b = append(b, ' ')
	}
	return string(b)
}

// snapshot commits a snapshot for a chunk.
func (m *meta) snapshot(c *chunk, tag uint64, e block.Epoch, seq block.SnapSeq) {
	w := m.w
	w.afterOn(c, w.between(500*us, 5*ms), func() { m.trySnapshot(c, tag, e, seq) })
}

func (m *meta) trySnapshot(c *chunk, tag uint64, e block.Epoch, seq block.SnapSeq) {
	w := m.w
	if c.metaCut {
		w.afterOn(c, w.between(50*ms, 300*ms), func() { m.trySnapshot(c, tag, e, seq) })
		return
	}
	// A repetition finds that it was committed before, even if the owner has changed since.
	committed := slices.ContainsFunc(w.snaps, func(s *snapshot) bool { return s.view == seq-1 && s.epoch == e })
	if !committed && m.epoch == e && m.snapSeq == seq-1 {
		committed = true
		m.views = append(slices.Clone(m.views), m.snapSeq)
		m.snapSeq = seq
		w.Stats.Snapshots++
		w.tracef("meta: snapshot of view %d", seq-1)
		s := &snapshot{view: seq - 1, epoch: e, called: c.barrierAt, committed: w.now, content: map[int]uint32{}}
		w.snaps = append(w.snaps, s)
	}
	if w.chance(5) {
		w.afterOn(c, w.between(50*ms, 300*ms), func() { m.trySnapshot(c, tag, e, seq) })
		return
	}
	w.afterOn(c, w.between(500*us, 5*ms), func() {
		if c.owner != nil && c.ownerEpoch == e {
			c.do(c.owner.BarrierResult(c.clock(), tag, committed, c.effects()))
		}
	})
}

// setOwner is the owner record's change at a planned move.
func (m *meta) setOwner(c *chunk, to block.ChunkID, e block.Epoch) {
	w := m.w
	w.after(w.between(500*us, 5*ms), func() {
		if m.epoch+1 == e && !c.metaCut {
			w.Stats.Moves++
			m.assign(w.chunks[to-1])
		}
	})
}

// lead is the leader's loop: it gives the volume to another chunk when its owner is silent or was restarted, and rebuilds what has been
// degraded for long.
func (m *meta) lead() {
	w := m.w
	defer w.after(100*ms, m.lead)
	for _, c := range w.chunks {
		if c.alive && c.frozenTill <= w.now && !c.metaCut {
			c.metaSeen = w.now
		}
	}
	o := m.owner
	dead := w.now-o.metaSeen > 1700*ms || o.alive && o.inc != m.ownerInc || !o.alive && o.killed && w.now-o.diedAt > 300*ms
	gone := o.alive && o.owner == nil && o.usedEpoch >= m.epoch // it stopped by itself
	if dead || gone {
		if c := m.choose(); c != nil {
			m.assign(c)
		}
	}
	m.rebuild()
}

// choose picks a chunk that the leader hears, best one that holds a replica.
func (m *meta) choose() *chunk { return m.chooseOther(nil) }

// chooseOther is choose without one of the chunks.
func (m *meta) chooseOther(not *chunk) *chunk {
	w := m.w
	var best, other []*chunk
	for _, c := range w.chunks {
		if c == not || !c.alive || w.now-c.metaSeen > 300*ms {
			continue
		}
		other = append(other, c)
		for _, mb := range m.extents[0].Members {
			if mb.Chunk == c.id && mb.Kind == replication.Full {
				best = append(best, c)
			}
		}
	}
	if len(best) > 0 && !w.chance(20) {
		other = best
	}
	if len(other) == 0 {
		return nil
	}
	return other[w.rng.IntN(len(other))]
}

func (m *meta) rebuild() {
	w := m.w
	if m.adding == nil {
		m.adding, m.delta = map[block.ExtentIndex]int64{}, map[block.ExtentIndex]int64{}
	}
	o := m.owner
	if !o.alive || o.owner == nil || o.frozenTill > w.now {
		return
	}
	for i := range m.extents {
		x := block.ExtentIndex(i)
		rec := &m.extents[i]
		m.dropFailed(x, rec)
		if fullMembers(rec.Members) >= w.cfg.Replicas {
			m.since[i] = 0
			continue
		}
		if m.since[i] == 0 {
			m.since[i] = w.now
		}
		m.stopgap(x)
		if w.now-m.since[i] < 4*sec || w.now-m.adding[x] < 3*sec {
			continue
		}
		for _, k := range w.rng.Perm(len(w.chunks)) {
			c := w.chunks[k]
			d := c.disks[len(c.disks)-1]
			if !c.alive || d.failed || d.full || slices.ContainsFunc(rec.Members, func(mb replication.Member) bool {
				return mb.Chunk == c.id && (mb.Kind == replication.Full || mb.Disk != d.id)
			}) {
				continue
			}
			m.adding[x] = w.now
			w.tracef("meta: add a replica of extent %d on %d", x, c.id)
			o.do(o.owner.AddMember(o.clock(), x, replication.Member{Disk: d.id, Chunk: c.id}, o.effects()))
			break
		}
	}
}

// dropFailed takes replicas on failed disks out of their sets, though nothing has been written since: what is written next is not to rest on the
// others alone, and a copy that takes no new epoch must not become the last one.
func (m *meta) dropFailed(x block.ExtentIndex, rec *replication.Record) {
	w := m.w
	for _, mb := range rec.Members {
		if w.diskFailed(mb) && !w.lastGood(rec.Members, mb.Disk) {
			m.owner.do(m.owner.owner.RemoveMember(m.owner.clock(), x, mb.Disk, m.owner.effects()))
			return
		}
	}
}

func (w *World) diskFailed(mb replication.Member) bool {
	d := w.chunks[mb.Chunk-1].disk(mb.Disk)
	return d == nil || d.failed
}

// lastGood reports whether no full member but the given one is on a disk that works.
func (w *World) lastGood(ms []replication.Member, but block.DiskID) bool {
	for _, mb := range ms {
		if mb.Kind == replication.Full && mb.Disk != but && !w.diskFailed(mb) {
			return false
		}
	}
	return true
}

// stopgap adds a delta member where a replica is away (I10).
func (m *meta) stopgap(x block.ExtentIndex) {
	w := m.w
	rec := &m.extents[x]
	if !w.cfg.Deltas || w.now-m.since[x] < 200*ms || len(rec.Absent) == 0 || len(rec.Members) > fullMembers(rec.Members) || w.now-m.delta[x] < 1*sec {
		return
	}
	for _, k := range w.rng.Perm(len(w.chunks)) {
		c := w.chunks[k]
		d := c.disks[len(c.disks)-1]
		if !c.alive || d.failed || d.full || slices.ContainsFunc(rec.Members, func(mb replication.Member) bool { return mb.Chunk == c.id }) ||
			slices.ContainsFunc(rec.Absent, func(a replication.Absent) bool { return a.Chunk == c.id }) {
			continue
		}
		m.delta[x] = w.now
		w.tracef("meta: add a delta of extent %d on %d", x, c.id)
		m.owner.do(m.owner.owner.AddMember(m.owner.clock(), x, replication.Member{Disk: d.id, Chunk: c.id, Kind: replication.Delta}, m.owner.effects()))
		return
	}
}

func fullMembers(ms []replication.Member) int {
	n := 0
	for _, m := range ms {
		if m.Kind == replication.Full {
			n++
		}
	}
	return n
}

// noteDeltas counts what becomes of delta members.
func (w *World) noteDeltas(old *replication.Record, s *replication.SetChange) {
	if len(s.Members)-fullMembers(s.Members) > len(old.Members)-fullMembers(old.Members) {
		w.Stats.Deltas++
	}
	for _, m := range s.Members {
		back := slices.ContainsFunc(old.Absent, func(a replication.Absent) bool { return a.Disk == m.Disk })
		stays := slices.ContainsFunc(old.Members, func(o replication.Member) bool {
			return o.Kind == replication.Full && slices.ContainsFunc(s.Members, func(n replication.Member) bool { return n.Disk == o.Disk })
		})
		if back && !stays {
			w.Stats.Revivals++
		}
	}
}
