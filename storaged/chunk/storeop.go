package chunk

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/store"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// storeOp is one store operation under way. Pooled; w must be the first field (see complete).
type storeOp struct {
	w      store.Write
	x      *replicaShell
	d      *disk
	op     replication.StoreOp
	m      replication.Message
	token  uint64
	buf    *pagebuf.Buf
	sums   []uint32
	stamps []block.Stamp
	states []store.State
	info   []store.BlockInfo
	more   replication.More
	done   replication.StoreDone
	began  time.Time // of a read or write
	rd     store.Reading
	load   *replicaLoad // counts it until its end, if not nil
}

var opPool = sync.Pool{New: func() any { return new(storeOp) }}

func (o *storeOp) put() {
	o.buf.Release()
	if o.load != nil {
		o.load.ended()
	}
	o.rd.Buf, o.rd.Info, o.rd.User = nil, nil, nil
	*o = storeOp{sums: o.sums[:0], stamps: o.stamps[:0], states: o.states[:0], info: o.info[:0], rd: o.rd}
	opPool.Put(o)
}

// finish reports the outcome to the machine and frees the operation. data, if any, lies in buf, which finish takes over.
func (o *storeOp) finish(status replication.Status, buf *pagebuf.Buf, later *wakes.List) {
	o.done.Token, o.done.Status = o.token, status
	if o.token != 0 {
		o.x.stored(&o.done, buf, later)
	}
	buf.Release()
	o.put()
}

// store begins an operation of a Replica. buf, if any, is what e.Msg.Data lies in.
func (s *Server) store(x *replicaShell, e *replication.Effect, buf *pagebuf.Buf, out *effects) {
	s.o.Calm.Touch()
	later := out.later
	o := opPool.Get().(*storeOp)
	o.x, o.op, o.m, o.token = x, e.Op, e.Msg, e.Token
	if buf != nil && len(e.Msg.Data) > 0 && e.Op != replication.StoreRead {
		buf.Retain()
		o.buf = buf
	}
	if e.Op == replication.StoreWatermark {
		for _, k := range e.Msg.More.Marks {
			if d := s.diskByID(k.Disk); d != nil {
				d.store.SetWatermark(block.ExtentID{Volume: e.Msg.Volume, Index: k.Extent}, k.Watermark)
			}
		}
		o.put()
		return
	}
	if o.d = s.diskByID(e.Msg.Disk); o.d == nil {
		o.finish(replication.StatusNoReplica, nil, later)
		return
	}
	if !out.own && ofClient(e) {
		o.load = &x.load
		o.load.begin(&s.crowd, s.since())
	}
	switch e.Op {
	case replication.StoreWrite, replication.StoreUnmap:
		// What the owner here sends was summed here, a moment ago: other chunks verify what they get.
		o.w.SumsVerified = out.own
		o.write(later)
	case replication.StoreCopy:
		if o.m.Range.Count == 0 {
			// The end of a resync: only the watermark.
			s.wg.Go(o.seal)
			return
		}
		o.copy(later)
	case replication.StoreRead:
		if o.d.stalled.Load() != nil || !o.d.read(o, later) {
			o.finish(replication.StatusReadFailed, nil, later)
		}
	default:
		// Rare, and they wait for the disk: each in a goroutine of its own, bounded by what peers may have outstanding.
		s.wg.Go(o.slow)
	}
}

// ofClient tells what a client waits for, unlike the operations of a scrub or resync.
func ofClient(e *replication.Effect) bool {
	return e.Op == replication.StoreWrite || e.Op == replication.StoreRead && e.Msg.Flags&replication.FlagStamps == 0
}

func (o *storeOp) extent() block.ExtentID {
	return block.ExtentID{Volume: o.m.Volume, Index: o.m.Extent}
}

func (o *storeOp) write(later *wakes.List) {
	kind := store.Data
	if o.op == replication.StoreUnmap {
		kind = store.Unmap
	}
	// The sums may lie in the sender's reusable memory.
	o.sums = append(o.sums[:0], o.m.Sums...)
	o.w = store.Write{Extent: o.extent(), Kind: kind, Range: o.m.Range, Stamp: o.m.Stamp, SnapSeq: o.m.SnapSeq, Epoch: o.m.Epoch,
		Generation: o.m.Generation, Watermark: o.m.Watermark, Data: o.m.Data, Sums: o.sums, Completer: completer{},
		UseReserve: o.m.Flags&replication.FlagReserve != 0, SumsVerified: o.w.SumsVerified,
		Plain: o.buf.Sums(o.m.Data)}
	if kind == store.Unmap {
		o.w.Data, o.w.Sums = nil, nil
	}
	o.began = time.Now()
	o.d.store.SubmitLater(&o.w, later)
}

// What comes here fits into one record of the store: writes are cut at writeBlocksMax, copies at replication.CopyBlocks.
const _ = uint(store.RecordBlocksMax-writeBlocksMax) + uint(store.RecordBlocksMax-replication.CopyBlocks)

func (o *storeOp) copy(later *wakes.List) {
	o.sums = append(o.sums[:0], o.m.Sums...)
	o.stamps, o.states = o.stamps[:0], o.states[:0]
	if o.m.More == nil || o.m.Range.Count > replication.IOBlocksMax {
		o.finish(replication.StatusInvalid, nil, later)
		return
	}
	for _, r := range o.m.More.Runs {
		st := store.Written
		switch r.State {
		case replication.BlockZero:
			st = store.Unwritten
		case replication.BlockBad:
			st = store.Bad
		}
		if len(o.stamps)+int(r.Range.Count) > int(o.m.Range.Count) {
			break
		}
		for range r.Range.Count {
			o.stamps = append(o.stamps, r.Stamp)
			o.states = append(o.states, st)
		}
	}
	if len(o.stamps) != int(o.m.Range.Count) {
		o.finish(replication.StatusInvalid, nil, later)
		return
	}
	kind := store.Copy
	if o.m.Flags&replication.FlagRepair != 0 {
		kind = store.Repair
	}
	label := o.m.View
	if label == block.LiveView {
		label = o.m.SnapSeq
	}
	o.w = store.Write{Extent: o.extent(), Kind: kind, Range: o.m.Range, Stamps: o.stamps, States: o.states, SnapSeq: label, Epoch: o.m.Epoch,
		Generation: o.m.Generation, Watermark: o.m.Watermark, Data: o.m.Data, Sums: o.sums, Completer: completer{},
		NewerOnly: o.m.Flags&replication.FlagRoll != 0, Plain: o.buf.Sums(o.m.Data)}
	if len(o.m.Data) == 0 {
		o.w.Data, o.w.Sums = nil, nil
	}
	o.d.store.SubmitLater(&o.w, later)
}

// completer receives finished writes of all stores.
type completer struct{}

func (completer) Complete(done []*store.Write) {
	later := laterPool.Get().(*wakes.List)
	for _, w := range done {
		// w is the first field of its storeOp, so their addresses are equal.
		o := (*storeOp)(unsafe.Pointer(w))
		if !o.began.IsZero() {
			o.x.s.metrics.diskWrite.Since(o.began)
		}
		o.finish(statusOf(w.Err), nil, later)
	}
	later.Wake()
	laterPool.Put(later)
}

var laterPool = sync.Pool{New: func() any { return new(wakes.List) }}

// statusOf maps errors of the store to what an owner needs to know.
func statusOf(err error) replication.Status {
	switch {
	case err == nil:
		return replication.StatusOK
	case errors.Is(err, store.ErrNoSpace):
		return replication.StatusNoSpace
	case errors.Is(err, store.ErrNoReplica):
		return replication.StatusNoReplica
	case errors.Is(err, store.ErrStaleEpoch):
		return replication.StatusOldGeneration
	case errors.Is(err, store.ErrInvalid):
		return replication.StatusInvalid
	case errors.Is(err, store.ErrClosed):
		return replication.StatusNoReplica
	}
	return replication.StatusDiskFailed
}

// startRead begins a StoreRead. False: it is for a goroutine of the disk.
func (o *storeOp) startRead() bool {
	n := int(o.m.Range.Count)
	if !o.m.Range.Valid() || n > replication.IOBlocksMax {
		return false
	}
	o.ready(n)
	r := &o.rd
	r.Extent, r.View, r.Range, r.Buf, r.Info, r.Completer, r.User = o.extent(), o.m.View, o.m.Range, o.buf.B, o.info, readCompleter{}, o
	return o.d.store.StartRead(r)
}

// ready gives a read its memory.
func (o *storeOp) ready(n int) {
	if o.buf == nil {
		o.buf = o.x.s.pool.Get(n * block.Size)
		o.info = slices.Grow(o.info[:0], n)[:n]
		o.began = time.Now()
	}
}

// readCompleter receives the readings of all stores that have ended.
type readCompleter struct{}

func (readCompleter) ReadsComplete(done []*store.Reading) {
	later := laterPool.Get().(*wakes.List)
	for _, r := range done {
		o := r.User.(*storeOp)
		d := o.d
		if r.Err == nil {
			o.answerRead(later)
		} else if !d.queueRead(o) {
			o.finish(replication.StatusReadFailed, nil, later)
		}
		d.readers.Done()
	}
	later.Wake()
	laterPool.Put(later)
}

// read performs a StoreRead; called by the disk's readers.
func (o *storeOp) read() {
	n := int(o.m.Range.Count)
	if !o.m.Range.Valid() || n > replication.IOBlocksMax {
		o.finish(replication.StatusInvalid, nil, nil)
		return
	}
	o.ready(n)
	if err := o.d.store.Read(o.extent(), o.m.View, o.m.Range, o.buf.B, o.info); err != nil {
		status := statusOf(err)
		if status == replication.StatusDiskFailed {
			status = replication.StatusReadFailed
		}
		o.finish(status, nil, nil)
		return
	}
	o.answerRead(nil)
}

// answerRead finishes a read whose data and info are there.
func (o *storeOp) answerRead(later *wakes.List) {
	o.x.s.metrics.diskRead.Since(o.began)
	n := len(o.info)
	stamps := o.m.Flags&replication.FlagStamps != 0
	sums := o.sums[:0]
	if stamps {
		// The owner may keep the sums for a copy, so they are not reused.
		sums = make([]uint32, 0, n)
	}
	data, bad := false, false
	o.done.Stamp = 0
	for _, b := range o.info {
		sums = append(sums, b.Sum)
		data = data || b.State == store.Written
		bad = bad || b.State == store.Bad
		o.done.Stamp = max(o.done.Stamp, b.Stamp)
	}
	if !stamps {
		o.sums = sums
	}
	o.done.Range = o.m.Range
	if bad || stamps {
		o.done.Runs = runsOf(o.m.Range, o.info, o.m.View, bad && !stamps)
	}
	status := replication.StatusOK
	if bad {
		status = replication.StatusBadBlocks
	}
	buf := o.buf
	o.buf = nil
	if !data || o.m.Flags&replication.FlagVerify != 0 {
		buf.Release()
		buf = nil
	} else {
		o.done.Data, o.done.Sums = buf.B, sums
	}
	o.finish(status, buf, later)
}

// runsOf joins equal neighbours of info into runs; with badOnly only the bad ones are listed.
func runsOf(r block.Range, info []store.BlockInfo, label block.SnapSeq, badOnly bool) []replication.Run {
	var runs []replication.Run
	for i, b := range info {
		st := blockState(b.State)
		if badOnly && st != replication.BlockBad {
			continue
		}
		at := r.Start + block.No(i)
		if k := len(runs) - 1; k >= 0 && runs[k].Range.End() == at && runs[k].Stamp == b.Stamp && runs[k].State == st {
			runs[k].Range.Count++
			continue
		}
		runs = append(runs, replication.Run{Range: block.Range{Start: at, Count: 1}, Stamp: b.Stamp, Label: label, State: st})
	}
	return runs
}

func blockState(s store.State) replication.BlockState {
	switch s {
	case store.Written:
		return replication.BlockData
	case store.Bad:
		return replication.BlockBad
	}
	return replication.BlockZero
}

// slow performs the operations that wait for the disk.
func (o *storeOp) slow() {
	ctx := context.Background()
	var err error
	switch o.op {
	case replication.StoreList:
		err = o.list()
	case replication.StoreWindow:
		err = o.window()
	case replication.StoreEpoch:
		err = o.d.store.Fence(ctx, store.VolumeFence{Volume: o.m.Volume, Epoch: o.m.Epoch, Owner: o.m.Owner})
	case replication.StoreJoin:
		err = o.join(ctx)
	default:
		err = store.ErrInvalid
	}
	if errors.Is(err, errStale) {
		o.finish(replication.StatusStale, nil, nil)
		return
	}
	o.finish(statusOf(err), nil, nil)
}

var errStale = errors.New("replica may have lost acknowledged writes")

// list answers a StoreList; the answer covers the whole range unless there are more than RunsMax runs.
func (o *storeOp) list() error {
	r := o.m.Range
	from, to := r.Start, r.End()
	buf := make([]store.StampRun, 0, 512)
	var runs []replication.Run
	for from < to && len(runs) < replication.RunsMax-512 {
		part, next, err := o.d.store.ListStamps(o.extent(), o.m.View, from, to, o.m.Stamp, buf[:0])
		if err != nil {
			return err
		}
		for _, p := range part {
			runs = append(runs, replication.Run{Range: p.Range, Stamp: p.Stamp, Label: o.m.View, State: blockState(p.State)})
		}
		from = next
	}
	o.done.Runs = runs
	o.done.Range = block.Range{Start: r.Start, Count: uint32(from - r.Start)}
	return nil
}

// window answers a StoreWindow: the replica's state, and what is above its watermark in every view that brought it.
func (o *storeOp) window() error {
	info, err := o.d.store.Replica(o.extent())
	if err != nil {
		return err
	}
	o.done.State = stateOf(info)
	if info.Suspect {
		return errStale
	}
	views := info.Layers
	seen := map[block.No]block.Stamp{}
	buf := make([]store.StampRun, 0, 512)
	for i, view := range views {
		at := view
		if i == len(views)-1 {
			at = block.LiveView
		}
		for from := block.No(0); from < block.PerExtent; {
			part, next, err := o.d.store.ListStamps(o.extent(), at, from, block.PerExtent, info.Watermark, buf[:0])
			if err != nil {
				return err
			}
			for _, p := range part {
				o.done.Runs = appendNew(o.done.Runs, p, view, seen, len(views) > 1)
			}
			from = next
		}
	}
	return nil
}

// appendNew adds the blocks of p that an older view did not have already with the same stamp.
func appendNew(runs []replication.Run, p store.StampRun, label block.SnapSeq, seen map[block.No]block.Stamp, several bool) []replication.Run {
	if !several {
		return append(runs, replication.Run{Range: p.Range, Stamp: p.Stamp, Label: label, State: blockState(p.State)})
	}
	for b := p.Range.Start; b < p.Range.End(); b++ {
		if seen[b] == p.Stamp {
			continue
		}
		seen[b] = p.Stamp
		if k := len(runs) - 1; k >= 0 && runs[k].Range.End() == b && runs[k].Stamp == p.Stamp && runs[k].Label == label {
			runs[k].Range.Count++
			continue
		}
		runs = append(runs, replication.Run{Range: block.Range{Start: b, Count: 1}, Stamp: p.Stamp, Label: label, State: blockState(p.State)})
	}
	return runs
}

func stateOf(i store.ReplicaInfo) replication.State {
	return replication.State{Generation: i.Generation, Watermark: i.Watermark, Highest: i.Highest, JoinStamp: i.JoinStart}
}

// seal ends a join: the replica has everything up to the watermark, durably.
func (o *storeOp) seal() {
	o.d.store.SetWatermark(o.extent(), o.m.Watermark)
	o.finish(statusOf(o.d.store.SetJoin(context.Background(), o.extent(), 0)), nil, nil)
}

// join makes the replica a joiner, creating it if allowed.
func (o *storeOp) join(ctx context.Context) error {
	st := o.d.store
	if err := st.Fence(ctx, store.VolumeFence{Volume: o.m.Volume, Epoch: o.m.Epoch, Owner: o.m.Owner}); err != nil {
		return err
	}
	info, err := st.Replica(o.extent())
	if errors.Is(err, store.ErrNoReplica) && o.m.Flags&replication.FlagCreate != 0 {
		lineage, lerr := o.x.s.lineage(ctx, o.m.Volume)
		if lerr != nil {
			return lerr
		}
		err = st.EnsureReplica(ctx, store.ReplicaSpec{Extent: o.extent(), Lineage: lineage, Generation: o.m.Generation, Epoch: o.m.Epoch})
		info = store.ReplicaInfo{}
	}
	if err != nil {
		return err
	}
	if o.done.State = stateOf(info); info.Suspect {
		o.done.State = replication.State{} // what it has is not what it acknowledged
	} else if !info.Joining && info.Watermark < o.m.Watermark && info.Highest >= o.m.Watermark {
		// It has been a member up to there (I6). Later nothing would tell, since what it gets as a joiner is higher.
		st.SetWatermark(o.extent(), o.m.Watermark)
		o.done.State.Watermark = o.m.Watermark
	}
	return st.SetJoin(ctx, o.extent(), o.m.Stamp)
}
