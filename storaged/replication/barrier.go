package replication

import (
	"github.com/iomesh/iomesh/storaged/block"
)

// barrier is a snapshot being taken (I11): new writes are held, those in flight drain, the snapshot is committed, then writes go on
// with the next label.
type barrier struct {
	tag       uint64
	since     Time
	committed bool // EffCommitSnapshot is out
}

// release is a planned move being prepared.
type release struct {
	to    block.ChunkID
	since Time
}

// holding reports whether new writes have to wait for a barrier or a planned move.
func (o *Owner) holding() bool {
	return o.barrier != nil && !o.bugs.has(BugSnapshotWithoutBarrier) || o.release != nil
}

// Barrier takes a snapshot. It is refused with ResultBusy while another barrier or a planned move is under way.
func (o *Owner) Barrier(now Time, tag uint64, out []Effect) []Effect {
	if !o.enter(now, out) {
		return append(out, Effect{Kind: EffComplete, Tag: tag, Result: ResultLost})
	}
	if o.barrier != nil || o.release != nil {
		o.complete(tag, ResultBusy)
		return o.leave()
	}
	o.barrier = &barrier{tag: tag, since: now}
	if o.bugs.has(BugSnapshotWithoutBarrier) {
		o.drained()
	}
	return o.leave()
}

// BarrierResult takes the certain outcome of EffCommitSnapshot.
func (o *Owner) BarrierResult(now Time, tag uint64, committed bool, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	if b := o.barrier; b != nil && b.tag == tag && b.committed {
		o.barrier = nil
		res := ResultFailed
		if committed {
			res = ResultOK
			o.opt.Snapshots = append(append([]block.SnapSeq(nil), o.opt.Snapshots...), o.snapSeq)
			o.snapSeq++
		}
		o.complete(tag, res)
		o.resume()
	}
	return o.leave()
}

// Release moves the volume to another chunk: when no write is in flight the owner stops, its promises are given back, and the owner
// record is written. Given up with ReportStay if writes do not drain in ReleaseWait.
func (o *Owner) Release(now Time, to block.ChunkID, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	if o.barrier != nil || o.release != nil || to == o.opt.Self {
		o.report(Report{Kind: ReportStay})
		return o.leave()
	}
	o.release = &release{to: to, since: now}
	if o.bugs.has(BugReleaseWithoutDrain) {
		for _, e := range o.active {
			for e.inflight.head != nil {
				o.finish(e.inflight.head, ResultOK, true)
			}
		}
	}
	return o.leave()
}

// resume lets held writes go on.
func (o *Owner) resume() {
	for i := 0; i < len(o.active); i++ {
		o.wake(o.active[i])
		o.sendReads(o.active[i])
	}
}

// drained is called when no numbered write is unfinished and a barrier or a move waits for that.
func (o *Owner) drained() {
	if b := o.barrier; b != nil {
		for _, e := range o.active {
			if e.lingering.n > 0 && !o.bugs.has(BugSnapshotWithoutBarrier) {
				return // a joiner could get the next label's write first, and then skip this one
			}
		}
		// Of an extent that is not taken over yet an earlier owner may still acknowledge writes, with the old label.
		if !b.committed && (o.serving == len(o.extents) || o.bugs.has(BugSnapshotWithoutBarrier)) {
			b.committed = true
			o.out = append(o.out, Effect{Kind: EffCommitSnapshot, Tag: b.tag, SnapSeq: o.snapSeq + 1, Epoch: o.opt.Epoch})
		}
		return
	}
	for _, e := range o.extents {
		if e.change != nil {
			return // its outcome would be the next owner's to find out; wait for it
		}
	}
	to := o.release.to
	// The next owner then finds empty windows, and members that need not wait for a promise.
	o.markAll()
	o.sendMarks()
	o.stop(ResultReleased)
	end := o.out[len(o.out)-1]
	o.out = o.out[:len(o.out)-1]
	for _, p := range o.peers {
		if p.taken {
			o.send(p, MsgRelease)
		}
	}
	o.out = append(o.out, Effect{Kind: EffSetOwner, To: to, Epoch: o.opt.Epoch + 1}, end)
}

// Grow appends extents, whose replicas exist, and raises the size.
func (o *Owner) Grow(now Time, recs []Record, sizeBlocks uint64, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	o.opt.SizeBlocks = max(o.opt.SizeBlocks, sizeBlocks)
	for _, rec := range recs {
		o.activate(o.addExtent(rec))
	}
	for _, p := range o.peers {
		if p.up && len(recs) > 0 {
			o.ask(p)
		}
	}
	return o.leave()
}
