package chunk

import (
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// rmw is a command that has to read before it writes: parts of blocks, COMPARE AND WRITE, ORWRITE. The blocks are locked at
// the owner from before the read until the write is acknowledged, so replicas only ever see whole blocks and no other write
// comes between. Rare: it runs in a goroutine of its own; how many there are is bounded by the target's windows.
type rmw struct {
	v      *volume
	r      *request
	shares []share
}

// share is what a command touches in one extent.
type share struct {
	extent block.ExtentIndex
	rng    block.Range
	at     uint64
	lock   replication.LockID
	answer chan answer
}

type answer struct {
	result replication.Result
	rng    block.Range
	lock   replication.LockID
}

// submitMerge asks for the locks at once, so that they are in the order of Submit (I14), in ascending order, so that two
// commands never wait for each other; the rest happens when they are held.
func (v *volume) submitMerge(r *request, later *wakes.List) {
	if r.c.Length == 0 {
		r.c.Complete(target.Result{})
		return
	}
	m := &rmw{v: v, r: r}
	out := getEffects()
	out.later = later
	v.mu.Lock()
	if v.lost {
		v.mu.Unlock()
		out.put()
		r.c.Complete(target.Result{Kind: target.Lost})
		return
	}
	each(r.c.Offset, r.c.Length, func(e block.ExtentIndex, rng block.Range, at uint64) {
		m.shares = append(m.shares, share{extent: e, rng: rng, at: at, answer: make(chan answer, 1)})
	})
	for i := range m.shares {
		s := &m.shares[i]
		p := s.part()
		out.list = v.o.Lock(v.s.now(), replication.LockRequest{Tag: v.add(p), Extent: s.extent, Range: s.rng}, out.list)
	}
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
	v.s.wg.Go(m.run)
}

// part is a request to the machine whose outcome goes to the share's channel.
func (s *share) part() *part {
	return &part{extent: s.extent, rng: s.rng, at: s.at, done: func(_ *part, e *replication.Effect, buf *pagebuf.Buf) {
		buf.Release()
		s.answer <- answer{result: e.Result, rng: e.Range, lock: e.Lock}
	}}
}

func (m *rmw) run() {
	v, c := m.v, m.r.c
	res := target.Result{}
	for i := range m.shares {
		s := &m.shares[i]
		a := <-s.answer
		s.lock = a.lock
		if a.result != replication.ResultOK && res.Kind == target.OK {
			res = m.result(s, a)
		}
	}
	if res.Kind == target.OK && c.Aborting() {
		res.Kind = target.Aborted
	}
	if res.Kind == target.OK {
		res = m.change()
	}
	for i := range m.shares {
		if lock := m.shares[i].lock; lock != 0 {
			v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
				return o.Unlock(now, lock, out)
			})
		}
	}
	c.Complete(res)
}

// change reads, merges and writes under the locks.
func (m *rmw) change() target.Result {
	v, c := m.v, m.r.c
	first := c.Offset / block.Size * block.Size
	end := (c.Offset + c.Length + block.Size - 1) / block.Size * block.Size
	large := end-first > target.MaxTransferBytes+2*block.Size
	if large {
		// A long range of zeroes with edges: only the edge blocks are read.
		return m.zeroEdges(first, end)
	}
	buf := v.s.pool.Get(int(end - first))
	defer buf.Release()
	clear(buf.B)
	for i := range m.shares {
		s := &m.shares[i]
		if res := m.read(s, s.rng, buf.B[s.at-first:]); res.Kind != target.OK {
			return res
		}
	}
	old := buf.B[c.Offset-first:][:c.Length]
	switch c.Op {
	case target.OpWrite:
		copy(old, c.Data)
	case target.OpUnmap, target.OpWriteZeroes:
		clear(old)
	case target.OpOrWrite:
		for i, b := range c.Data[:c.Length] {
			old[i] |= b
		}
	case target.OpCompareAndWrite:
		for i, b := range c.Data[:c.Length] {
			if old[i] != b {
				return target.Result{Kind: target.Miscompare, Offset: uint64(i)}
			}
		}
		copy(old, c.Data[c.Length:])
	}
	for i := range m.shares {
		s := &m.shares[i]
		if res := m.write(s, s.rng, buf.B[s.at-first:][:s.rng.SizeBytes()], buf); res.Kind != target.OK {
			return res
		}
	}
	return target.Result{}
}

// zeroEdges zeroes [c.Offset, c.Offset+c.Length): the whole blocks as such, the partial ones at both ends by merging.
func (m *rmw) zeroEdges(first, end uint64) target.Result {
	c := m.r.c
	buf := m.v.s.pool.Get(block.Size)
	defer buf.Release()
	for i := range m.shares {
		s := &m.shares[i]
		rng := s.rng
		if i == 0 && c.Offset != first {
			one := block.Range{Start: rng.Start, Count: 1}
			clear(buf.B)
			if res := m.read(s, one, buf.B); res.Kind != target.OK {
				return res
			}
			clear(buf.B[c.Offset-first:])
			if res := m.write(s, one, buf.B, buf); res.Kind != target.OK {
				return res
			}
			rng.Start++
			rng.Count--
		}
		if i == len(m.shares)-1 && c.Offset+c.Length != end && rng.Count > 0 {
			one := block.Range{Start: rng.End() - 1, Count: 1}
			clear(buf.B)
			if res := m.read(s, one, buf.B); res.Kind != target.OK {
				return res
			}
			clear(buf.B[:block.Size-(end-c.Offset-c.Length)])
			if res := m.write(s, one, buf.B, buf); res.Kind != target.OK {
				return res
			}
			rng.Count--
		}
		if rng.Count > 0 {
			if res := m.write(s, rng, nil, nil); res.Kind != target.OK {
				return res
			}
		}
	}
	return target.Result{}
}

// read fills dst with a range and waits for it.
func (m *rmw) read(s *share, rng block.Range, dst []byte) target.Result {
	done := make(chan answer, 1)
	p := &part{extent: s.extent, rng: rng, at: s.at}
	p.done = func(_ *part, e *replication.Effect, buf *pagebuf.Buf) {
		switch {
		case e.Kind == replication.EffPiece:
			if len(e.Data) > 0 {
				copy(dst[int(e.Range.Start-rng.Start)*block.Size:], e.Data)
			}
			return
		case e.Result == replication.ResultOK && !e.Assembled && len(e.Data) > 0:
			copy(dst[:rng.SizeBytes()], e.Data)
		}
		buf.Release()
		done <- answer{result: e.Result, rng: e.Range}
	}
	v := m.v
	out := getEffects()
	v.mu.Lock()
	out.list = v.o.Read(v.s.now(), replication.ReadRequest{Tag: v.add(p), Extent: s.extent, Range: rng, View: block.LiveView}, out.list)
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
	return m.result(s, <-done)
}

// write stores a range under the share's lock (zeroes if data is nil) and waits for it.
func (m *rmw) write(s *share, rng block.Range, data []byte, buf *pagebuf.Buf) target.Result {
	at := s.at + uint64(rng.Start-s.rng.Start)*block.Size
	if data == nil {
		return m.writePiece(s, rng, at, nil, nil)
	}
	res := target.Result{}
	first := at
	pieces(rng, at, func(rng block.Range, at uint64) {
		if res.Kind == target.OK {
			res = m.writePiece(s, rng, at, data[at-first:][:rng.SizeBytes()], buf)
		}
	})
	return res
}

func (m *rmw) writePiece(s *share, rng block.Range, at uint64, data []byte, buf *pagebuf.Buf) target.Result {
	done := make(chan answer, 1)
	p := &part{at: at, done: func(_ *part, e *replication.Effect, b *pagebuf.Buf) {
		b.Release()
		done <- answer{result: e.Result, rng: e.Range}
	}}
	v := m.v
	p.extent, p.rng = s.extent, rng
	if data != nil {
		v.fill(p, s.extent, rng, at, data, buf, nil)
	}
	out := getEffects()
	v.mu.Lock()
	v.beginWrite(p, s.lock, out)
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
	return m.result(s, <-done)
}

func (m *rmw) result(s *share, a answer) target.Result {
	e := replication.Effect{Result: a.result, Range: a.rng}
	return m.v.outcome(&e, &part{r: m.r, rng: s.rng, at: s.at})
}
