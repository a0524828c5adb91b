package chunk

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// volume is a volume this chunk owns: its Owner machine with a lock, and what connects it to the target, the peers and the
// metadata. No lock is shared between volumes. Effects are performed outside the lock.
type volume struct {
	s       *Server
	id      block.VolumeID
	lineage block.VolumeID
	owner   metadb.Owner
	log     *slog.Logger
	size    atomic.Uint64 // bytes
	meter   volumeMeter
	news    atomic.Bool // the report of the volume may differ from the last one
	thin    bool
	factor  int // wanted full members per extent
	turns   turns

	// Of volumes.tick.
	scrubAt replication.Time // when the next scrub begins

	mu     sync.Mutex
	o      *replication.Owner
	awake  bool    // in volumes.awake
	parts  []*part // by tag
	free   []uint64
	bufs   map[*byte]*pagebuf.Buf // what the data of writes in progress lies in
	lost   bool
	reason replication.Result
	extent []extentView
	grants []metadb.Grant
	snaps  map[uint64]block.SnapshotID // barriers by tag
	check  *verification               // the last one asked for

	ready  chan struct{} // closed when every extent serves, or the wait for it is given up
	stay   chan struct{} // a planned move was given up
	passed chan struct{} // closed when the record of the next owner was written, or that was given up
	gone   chan struct{} // closed when the ownership has ended and the sessions are dropped
	once   sync.Once
	sets   setQueue
	ctx    context.Context
	cancel context.CancelFunc
}

// extentView is what the machine reported of one extent last.
type extentView struct {
	phase     replication.ExtentPhase
	record    replication.Record
	joining   block.DiskID
	copied    uint64
	counted   uint64 // of what the resync has copied, in the metric
	left      uint64
	needs     block.DiskID
	needsWhy  bool
	badBlocks uint64
}

// step runs f on the machine and performs what it wants.
func (v *volume) step(f func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect) {
	out := getEffects()
	v.mu.Lock()
	out.list = f(v.o, v.s.now(), out.list)
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
}

// settle does, under the lock and in order, what must not be overtaken by the effects of a later call of the machine, which another
// goroutine may perform first: content is copied into the buffers of reads before these are given back, tags are let go before they are
// used anew, and messages get their reference to the client's buffer while it is still the client's. It must be called after every
// call of the machine.
func (v *volume) settle(out *effects) {
	out.with = slices.Grow(out.with[:0], len(out.list))[:len(out.list)]
	clear(out.with)
	for i := range out.list {
		e := &out.list[i]
		switch e.Kind {
		case replication.EffReport:
			v.note(e.Report)
		case replication.EffLost:
			v.lost, v.reason = true, e.Result
		case replication.EffSend:
			// nil: memory of the collector.
			if len(e.Msg.Data) > 0 {
				if b := v.bufs[&e.Msg.Data[0]]; b != nil {
					b.Retain()
					out.with[i].buf = b
				}
			}
		case replication.EffPiece:
			v.pieceLocked(e)
		case replication.EffComplete:
			out.with[i].part = v.endLocked(e)
		case replication.EffLocked:
			p := v.parts[e.Tag]
			v.dropLocked(p)
			out.with[i].part = p
		case replication.EffForget:
			v.dropLocked(v.parts[e.Tag])
		}
	}
	if !v.awake && !v.o.Quiet() {
		v.awake = true
		v.s.volumes.woke(v)
	}
}

func (v *volume) perform(out *effects) {
	for i := range out.list {
		e := &out.list[i]
		switch e.Kind {
		case replication.EffSend:
			buf := out.with[i].buf
			v.s.send(e.To, &e.Msg, buf, out.later)
			buf.Release()
		case replication.EffComplete:
			v.complete(e, out.with[i].part, nil, out.later)
		case replication.EffLocked:
			p := out.with[i].part
			p.done(p, e, nil)
		case replication.EffSetChange:
			v.sets.add(v, e.Change)
		case replication.EffCommitSnapshot:
			v.commitSnapshot(e.Tag)
		case replication.EffSetOwner:
			v.passOwner(e.To)
		case replication.EffLost:
			v.s.volumes.ended(v)
		}
	}
	out.put()
}

// receive hands an answer of a replica to the machine. buf, if any, is what m.Data lies in; receive takes over one reference.
//
// The data of a read goes to the client without a copy when the machine completes the read at once, which is nearly always.
// Otherwise the machine keeps the slice for a while: then the memory is left to the collector.
func (v *volume) receive(from block.ChunkID, m *replication.Message, buf *pagebuf.Buf, later *wakes.List) {
	out := getEffects()
	out.later = later
	v.mu.Lock()
	out.list = v.o.Receive(v.s.now(), from, m, out.list)
	v.settle(out)
	v.mu.Unlock()
	if buf != nil {
		for i := range out.list {
			e := &out.list[i]
			if e.Kind == replication.EffComplete && len(e.Data) > 0 && len(m.Data) > 0 && &e.Data[0] == &m.Data[0] {
				v.complete(e, out.with[i].part, buf, later)
				e.Kind, buf = 0, nil
				break
			}
		}
		if len(m.Data) > 0 {
			buf.Abandon()
		} else {
			buf.Release()
		}
	}
	v.perform(out)
}

// note keeps what status needs to know.
func (v *volume) note(r *replication.Report) {
	if int(r.Extent) >= len(v.extent) {
		v.extent = append(v.extent, make([]extentView, int(r.Extent)+1-len(v.extent))...)
	}
	x := &v.extent[r.Extent]
	v.news.Store(true)
	switch r.Kind {
	case replication.ReportPhase:
		x.phase = r.Phase
		if r.Phase == replication.PhaseServing {
			x.needsWhy = false
		}
	case replication.ReportReady:
		v.setReady()
	case replication.ReportSet:
		x.record = r.Record
		x.needsWhy = false
	case replication.ReportStay:
		select {
		case v.stay <- struct{}{}:
		default:
		}
	case replication.ReportNeeds:
		x.needs, x.needsWhy = r.Disk, true
		v.log.Warn("extent needs a disk that is not there", "extent", uint32(r.Extent), "disk", r.Disk.String())
	case replication.ReportJoin:
		v.countCopied(x, r.CopiedBytes)
		x.joining, x.copied, x.left = r.Disk, r.CopiedBytes, r.LeftBytes
	case replication.ReportJoined:
		v.countCopied(x, r.CopiedBytes)
		x.counted = 0
		v.log.Info("replica is in sync", "extent", uint32(r.Extent), "disk", r.Disk.String(), "bytes", r.CopiedBytes)
		x.joining, x.left, x.copied = block.DiskID{}, 0, r.CopiedBytes
	case replication.ReportJoinFailed:
		v.countCopied(x, r.CopiedBytes)
		x.counted = 0
		v.log.Warn("resync given up", "extent", uint32(r.Extent), "disk", r.Disk.String(), "status", uint8(r.Status))
		x.joining, x.left = block.DiskID{}, 0
	case replication.ReportRefused:
		v.log.Warn("set change refused", "extent", uint32(r.Extent), "disk", r.Disk.String(), "status", uint8(r.Status))
	case replication.ReportRepaired:
		v.s.metrics.repairs.Inc()
		v.check.note(r)
		v.log.Warn("bad blocks repaired", "extent", uint32(r.Extent), "disk", r.Disk.String(), "first", uint32(r.Range.Start), "blocks", r.Range.Count)
	case replication.ReportBad:
		x.badBlocks += uint64(r.Range.Count)
		v.s.metrics.badBlocks.Add(uint64(r.Range.Count))
		v.check.note(r)
		v.log.Error("blocks without a good copy", "extent", uint32(r.Extent), "first", uint32(r.Range.Start), "blocks", r.Range.Count)
	case replication.ReportScrubbed:
		v.s.metrics.scrubBytes.Add(float64(r.CopiedBytes))
		v.check.note(r)
	case replication.ReportPassedOver, replication.ReportVerified:
		v.check.note(r)
	case replication.ReportBehind:
		v.check.note(r)
		v.log.Error("scrub found a replica without a write that it acknowledged: it leaves its set and is compared", "extent", uint32(r.Extent), "disk", r.Disk.String(), "first", uint32(r.Range.Start))
	case replication.ReportDiskFailed:
		v.log.Error("disk failed under a replica", "extent", uint32(r.Extent), "disk", r.Disk.String(), "status", uint8(r.Status))
	case replication.ReportSpace, replication.ReportFull:
		v.log.Warn("no space for a replica", "extent", uint32(r.Extent), "disk", r.Disk.String(), "all", r.Kind == replication.ReportFull)
	}
}

// countCopied counts what a resync has copied since its last report.
func (v *volume) countCopied(x *extentView, copied uint64) {
	if copied > x.counted {
		v.s.metrics.resyncBytes.Add(float64(copied - x.counted))
		x.counted = copied
	}
}

func (v *volume) setReady() { v.once.Do(func() { close(v.ready) }) }

// commitSnapshot makes the snapshot of a barrier a record; repeated until the outcome is certain.
func (v *volume) commitSnapshot(tag uint64) {
	v.mu.Lock()
	id, ok := v.snaps[tag]
	v.mu.Unlock()
	v.s.wg.Go(func() {
		committed := false
		if ok {
			committed = v.commitSnapshotRecord(id)
		}
		v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
			return o.BarrierResult(now, tag, committed, out)
		})
	})
}

// passOwner writes the next owner's record at the end of a planned move, or a new epoch of this chunk's. It is repeated until the outcome is certain: nobody
// else gives a volume whose owner has stopped to another.
func (v *volume) passOwner(to block.ChunkID) {
	v.s.wg.Go(func() {
		defer close(v.passed)
		for {
			ctx, cancel := context.WithTimeout(v.s.ctx, passTimeout)
			_, err := v.s.db.PassOwner(ctx, v.owner.Guard(), to)
			cancel()
			if err == nil || errors.Is(err, metadb.ErrNotOwner) {
				return
			}
			v.log.Warn("ownership not passed yet", "to", to, "err", err)
			select {
			case <-v.s.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}
