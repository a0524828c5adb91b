package chunk

import (
	"context"
	"errors"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// atomicMaxBytes is the longest write stored as a whole or not at all: one journal record. A write that crosses from one extent into the next
// would be two, so an atomic one is refused.
const atomicMaxBytes = 128 << 10

// Properties implements target.Volume.
func (v *volume) Properties() target.Properties {
	return target.Properties{Serial: v.id.Serial(), NAA: v.id.NAA(), Thin: v.thin, LendsReads: true, AtomicMaxBytes: atomicMaxBytes}
}

// SizeBytes implements target.Volume.
func (v *volume) SizeBytes() uint64 { return v.size.Load() }

// LoadReservations implements target.Volume.
func (v *volume) LoadReservations(ctx context.Context) ([]byte, int64, error) {
	r, err := v.s.db.GetReservation(ctx, v.id)
	return r.State, r.Revision, err
}

// SaveReservations implements target.Volume.
func (v *volume) SaveReservations(ctx context.Context, data []byte, version int64) (int64, error) {
	rev, err := v.s.db.SetReservation(ctx, v.owner.Guard(), metadb.Reservation{Volume: v.id, State: data, Revision: version})
	if errors.Is(err, metadb.ErrConflict) {
		return 0, target.ErrReservationsChanged
	}
	return rev, err
}

// request is the state of one target.Command, kept in its Private and reused with it.
type request struct {
	v       *volume
	c       *target.Command
	left    int // parts not finished; guarded by v.mu
	result  target.Result
	buf     *pagebuf.Buf // of a read that is assembled of several pieces
	rmw     *rmw
	partBuf [2]part
	parts   []*part     // of a write, while it is begun
	cost    int         // turns taken, once it has begun; 0: it needs none
	later   *wakes.List // of the goroutine that completes it, while it does
	meter
}

// part is one request to the machine: a command, or its share within one extent.
type part struct {
	r      *request
	tag    uint64
	extent block.ExtentIndex
	rng    block.Range
	at     uint64 // byte offset in the volume of the first block
	data   []byte
	buf    *pagebuf.Buf // reference of a write
	sums   []uint32
	done   func(*part, *replication.Effect, *pagebuf.Buf) // set for internal requests instead of r
}

// Submit implements target.Volume.
func (v *volume) Submit(c *target.Command) {
	r, ok := c.Private.(*request)
	if !ok || r == nil {
		r = &request{}
		c.Private = r
	}
	r.v, r.c, r.left, r.result, r.rmw, r.cost = v, c, 0, target.Result{}, nil, 0
	r.measure()
	if end := c.Offset + c.Length; end > v.size.Load() || end < c.Offset {
		c.Complete(target.Result{Kind: target.OutOfRange})
		return
	}
	switch c.Op {
	case target.OpFlush:
		v.submitFlush(r)
		return
	case target.OpMapStatus:
		c.Complete(target.Result{Mapped: true, Offset: c.Length})
		return
	case target.OpUnmap, target.OpWriteZeroes:
		r.cost = 1
	default:
		r.cost = cost(c.Length)
	}
	if v.turns.ask(r, r.began.Sub(v.s.start)) {
		v.begin(r, c.Wakes)
	}
}

// turn begins a request that has waited.
func (v *volume) turn(r *request, later *wakes.List) {
	if r.c.Aborting() {
		r.later = later
		r.c.CompleteLater(target.Result{Kind: target.Aborted}, later)
		return
	}
	v.begin(r, later)
}

// begin hands a request whose turn it is to the machine.
func (v *volume) begin(r *request, later *wakes.List) {
	c := r.c
	whole := (c.Offset|c.Length)%block.Size == 0
	switch c.Op {
	case target.OpRead, target.OpVerify:
		v.submitRead(r, later)
	case target.OpWrite:
		if !whole {
			v.submitMerge(r, later)
			return
		}
		v.submitWrite(r, later)
	case target.OpUnmap, target.OpWriteZeroes:
		if !whole {
			v.submitMerge(r, later)
			return
		}
		v.submitZero(r, c.Offset, c.Length, later)
	case target.OpCompareAndWrite, target.OpOrWrite:
		v.submitMerge(r, later)
	default:
		c.Complete(target.Result{Kind: target.Internal})
	}
}

// each calls f for the share of [off, off+n) in each extent, in blocks (the range is widened to whole blocks).
func each(off, n uint64, f func(e block.ExtentIndex, r block.Range, at uint64)) {
	end := (off + n + block.Size - 1) / block.Size
	for b := off / block.Size; b < end; {
		in := b % block.PerExtent
		count := min(end-b, block.PerExtent-in)
		f(block.ExtentIndex(b/block.PerExtent), block.Range{Start: block.No(in), Count: uint32(count)}, b*block.Size)
		b += count
	}
}

// add registers a part and returns its tag; the caller holds v.mu.
func (v *volume) add(p *part) uint64 {
	if n := len(v.free); n > 0 {
		p.tag = v.free[n-1]
		v.free = v.free[:n-1]
		v.parts[p.tag] = p
		return p.tag
	}
	p.tag = uint64(len(v.parts))
	v.parts = append(v.parts, p)
	return p.tag
}

// newPart returns a part of the request, without an allocation for the usual one or two.
func (r *request) newPart(i int) *part {
	if i < len(r.partBuf) {
		p := &r.partBuf[i]
		*p = part{r: r, sums: p.sums[:0]}
		return p
	}
	return &part{r: r}
}

// submitRead starts a read of any alignment; the data is lent to the target as it comes from the replica if it is in one
// piece, otherwise assembled.
func (v *volume) submitRead(r *request, later *wakes.List) {
	if r.c.Length == 0 {
		r.c.Complete(target.Result{})
		return
	}
	out := getEffects()
	out.later = later
	v.mu.Lock()
	if v.lost {
		v.mu.Unlock()
		out.put()
		r.c.Complete(target.Result{Kind: target.Lost})
		return
	}
	n := 0
	each(r.c.Offset, r.c.Length, func(block.ExtentIndex, block.Range, uint64) { n++ })
	r.left = n
	i := 0
	each(r.c.Offset, r.c.Length, func(e block.ExtentIndex, rng block.Range, at uint64) {
		p := r.newPart(i)
		i++
		p.extent, p.rng, p.at = e, rng, at
		tag := v.add(p)
		out.list = v.o.Read(v.s.now(), replication.ReadRequest{Tag: tag, Extent: e, Range: rng, View: block.LiveView}, out.list)
	})
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
}

// submitWrite starts a write of whole blocks.
func (v *volume) submitWrite(r *request, later *wakes.List) {
	if r.c.Length == 0 {
		r.c.Complete(target.Result{})
		return
	}
	r.parts = r.parts[:0]
	each(r.c.Offset, r.c.Length, func(e block.ExtentIndex, rng block.Range, at uint64) {
		pieces(rng, at, func(rng block.Range, at uint64) {
			p := r.newPart(len(r.parts))
			r.parts = append(r.parts, p)
			data := r.c.Data[at-r.c.Offset:][:rng.SizeBytes()]
			v.fill(p, e, rng, at, data, r.c.Buf, r.c.Buf.Sums(data))
		})
	})
	if r.c.Atomic && len(r.parts) > 1 {
		r.c.Complete(target.Result{Kind: target.Internal})
		return
	}
	out := getEffects()
	out.later = later
	v.mu.Lock()
	if v.lost {
		v.mu.Unlock()
		out.put()
		r.c.Complete(target.Result{Kind: target.Lost})
		return
	}
	r.left = len(r.parts)
	for _, p := range r.parts {
		v.beginWrite(p, 0, out)
	}
	clear(r.parts)
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
}

// writeBlocksMax is how much goes into one write of a replica: half of what the store takes in one record.
const writeBlocksMax = 256

// pieces calls f for the parts of a range of one extent, the first block of which is at the byte offset at, cut where the blocks' numbers
// are multiples of writeBlocksMax if it is longer than that.
func pieces(r block.Range, at uint64, f func(r block.Range, at uint64)) {
	for r.Count > writeBlocksMax {
		n := writeBlocksMax - uint32(r.Start)%writeBlocksMax
		f(block.Range{Start: r.Start, Count: n}, at)
		r.Start += block.No(n)
		r.Count -= n
		at += uint64(n) * block.Size
	}
	f(r, at)
}

// fill prepares a write part, with the checksums made here, where the data enters (I8). plain, if any, are the CRCs of its blocks.
func (v *volume) fill(p *part, e block.ExtentIndex, rng block.Range, at uint64, data []byte, buf *pagebuf.Buf, plain []uint32) {
	p.extent, p.rng, p.at, p.data, p.buf = e, rng, at, data, buf
	p.sums = slices.Grow(p.sums[:0], int(rng.Count))[:rng.Count]
	block.NewSeeder(v.lineage, e).SumRange(rng, data, plain, p.sums)
}

// beginWrite hands a filled write part to the machine; the caller holds v.mu.
func (v *volume) beginWrite(p *part, lock replication.LockID, out *effects) {
	if p.buf != nil {
		p.buf.Retain()
		v.bufs[&p.data[0]] = p.buf
	}
	out.list = v.o.Write(v.s.now(), replication.WriteRequest{Tag: v.add(p), Extent: p.extent, Range: p.rng, Data: p.data, Sums: p.sums, Lock: lock}, out.list)
}

// submitZero starts an unmap of whole blocks.
func (v *volume) submitZero(r *request, off, n uint64, later *wakes.List) {
	if n == 0 {
		r.c.Complete(target.Result{})
		return
	}
	out := getEffects()
	out.later = later
	v.mu.Lock()
	if v.lost {
		v.mu.Unlock()
		out.put()
		r.c.Complete(target.Result{Kind: target.Lost})
		return
	}
	count := 0
	each(off, n, func(block.ExtentIndex, block.Range, uint64) { count++ })
	r.left = count
	i := 0
	each(off, n, func(e block.ExtentIndex, rng block.Range, at uint64) {
		p := r.newPart(i)
		i++
		p.extent, p.rng, p.at = e, rng, at
		out.list = v.o.Write(v.s.now(), replication.WriteRequest{Tag: v.add(p), Extent: e, Range: rng}, out.list)
	})
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
}

func (v *volume) submitFlush(r *request) {
	out := getEffects()
	out.later = r.c.Wakes
	v.mu.Lock()
	if v.lost {
		v.mu.Unlock()
		out.put()
		r.c.Complete(target.Result{Kind: target.Lost})
		return
	}
	p := r.newPart(0)
	r.left = 1
	out.list = v.o.Flush(v.s.now(), v.add(p), out.list)
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
}

// pieceLocked copies a part of a read into the request's own buffer.
func (v *volume) pieceLocked(e *replication.Effect) {
	p := v.parts[e.Tag]
	if p.done != nil {
		p.done(p, e, nil)
		return
	}
	if p.r.buf == nil {
		p.r.assembled()
	}
	p.copyIn(e.Range, e.Data)
}

// assembled gives the request a zeroed buffer for its whole range, widened to blocks; the caller holds v.mu.
func (r *request) assembled() {
	first := r.c.Offset / block.Size * block.Size
	end := (r.c.Offset + r.c.Length + block.Size - 1) / block.Size * block.Size
	r.buf = r.v.s.pool.Get(int(end - first))
	clear(r.buf.B)
}

// copyIn puts the content of a range of the part's extent into the request's buffer; the caller holds v.mu.
func (p *part) copyIn(rng block.Range, data []byte) {
	if len(data) == 0 {
		return
	}
	first := p.r.c.Offset / block.Size * block.Size
	off := p.at - first + uint64(rng.Start-p.rng.Start)*block.Size
	copy(p.r.buf.B[off:], data)
}

// endLocked takes the part that an EffComplete is about from the books.
func (v *volume) endLocked(e *replication.Effect) *part {
	p := v.parts[e.Tag]
	if e.Retained {
		// The machine still refers to the buffers: the tag lives until EffForget, without the command.
		kept := &part{tag: p.tag, data: p.data, buf: p.buf, sums: p.sums}
		v.parts[e.Tag] = kept
		p.buf, p.sums = nil, nil
	} else {
		v.dropLocked(p)
	}
	return p
}

// complete finishes a part. buf, if not nil, is what the data of a read lies in; complete takes over its reference.
func (v *volume) complete(e *replication.Effect, p *part, buf *pagebuf.Buf, later *wakes.List) {
	if p.done != nil {
		p.done(p, e, buf)
		return
	}
	v.mu.Lock()
	r := p.r
	if res := v.outcome(e, p); res.Kind != target.OK && r.result.Kind == target.OK {
		r.result = res
	}
	read := r.c.Op == target.OpRead
	r.left--
	whole := r.left == 0 && r.buf == nil && !e.Assembled
	if read && e.Result == replication.ResultOK && !whole && !e.Assembled {
		if r.buf == nil {
			r.assembled()
		}
		p.copyIn(p.rng, e.Data)
	}
	if r.left > 0 {
		v.mu.Unlock()
		buf.Release()
		return
	}
	assembled := r.buf
	r.buf = nil
	v.mu.Unlock()

	c, res := r.c, r.result
	skew := c.Offset % block.Size
	switch {
	case !read || res.Kind != target.OK:
		buf.Release()
		assembled.Release()
	case assembled != nil:
		buf.Release()
		c.Lend(assembled.B[skew:skew+c.Length], assembled)
	case len(e.Data) == 0:
		zero := v.s.pool.Get(int(c.Length))
		clear(zero.B)
		buf.Release()
		c.Lend(zero.B, zero)
	default:
		c.Lend(e.Data[skew:skew+c.Length], buf)
	}
	r.later = later
	c.CompleteLater(res, later)
}

// dropLocked forgets a part that the machine is done with.
func (v *volume) dropLocked(p *part) {
	if p.buf != nil {
		delete(v.bufs, &p.data[0])
		p.buf.Release()
		p.buf = nil
	}
	v.parts[p.tag] = nil
	v.free = append(v.free, p.tag)
}

// outcome translates a result of the machine for the target.
func (v *volume) outcome(e *replication.Effect, p *part) target.Result {
	switch e.Result {
	case replication.ResultOK:
		return target.Result{}
	case replication.ResultLost, replication.ResultReleased:
		return target.Result{Kind: target.Lost}
	case replication.ResultTooFewReplicas, replication.ResultUnavailable, replication.ResultBusy:
		return target.Result{Kind: target.Unavailable}
	case replication.ResultSpaceExhausted:
		return target.Result{Kind: target.SpaceExhausted}
	case replication.ResultMediumError:
		at := p.at
		if e.Range.Valid() {
			at += uint64(e.Range.Start-p.rng.Start) * block.Size
		}
		return target.Result{Kind: target.MediumError, Offset: max(at, p.r.c.Offset)}
	case replication.ResultInvalid:
		return target.Result{Kind: target.OutOfRange}
	}
	return target.Result{Kind: target.Internal}
}
