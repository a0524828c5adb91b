package sim

import (
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// rmwBlock is changed by read-modify-write only.
const rmwBlock = block.No(0)

type opKind uint8

const (
	opWrite opKind = iota
	opUnmap
	opRead
	opView
	opRMW
	opFlush
	opBarrier
)

// ioOp is one request of a client, with all its repetitions.
type ioOp struct {
	c        *client
	kind     opKind
	ext      block.ExtentIndex
	rng      block.Range
	view     block.SnapSeq
	vals     []uint32
	got      []uint32
	call     int64
	attempts int
	session  int
	first    []int // where its writes are in the history
}

// attempt is one repetition of a request inside an owner.
type attempt struct {
	o       *ioOp
	session int
	n       int
	tag     uint64
	vals    []uint32
	got     []uint32
	lock    replication.LockID
	stage   int // of a read-modify-write: 1 reads, 2 writes
}

// session is a login of a client at an owner.
type session struct {
	id    int
	chunk *chunk
	inc   uint64
}

// client is an initiator: it keeps Depth requests going, and repeats at the owner of the moment what was not answered.
type client struct {
	w        *World
	id       int
	who      string // as the history names it
	sess     *session
	sessions int
	open     []*ioOp
	again    []*ioOp // to be repeated in the next session
	linking  bool
	writes   int   // percent of its requests that change something
	patience int64 // how long it waits for an answer before it drops the session
	// It cannot reach that chunk until then.
	shunned     *chunk
	shunnedTill int64
}

func newClient(w *World, i int) *client {
	c := &client{w: w, id: i, who: fmt.Sprintf("client %d", i), writes: []int{0, 20, 50, 80}[w.rng.IntN(4)], patience: w.between(1*sec, 3*sec)}
	if w.chance(40) {
		c.patience = w.between(3*sec, 9*sec)
	}
	if i == 1 && w.chance(70) {
		// A patient reader stays with an owner that has been replaced for as long as that answers.
		c.writes, c.patience = 0, w.between(5*sec, 9*sec)
	}
	for range w.cfg.Depth {
		w.after(w.between(1*ms, 50*ms), c.pump)
	}
	return c
}

// pump begins a request unless Depth are open.
func (c *client) pump() {
	if !c.w.stop && len(c.open) < c.w.cfg.Depth {
		c.begin(c.draw())
	}
}

func (c *client) begin(o *ioOp) {
	w := c.w
	o.c, o.call = c, w.now
	c.open = append(c.open, o)
	c.submit(o)
}

// renew gives a write new values. Each repetition of a write is a write of its own: another initiator's can come in between.
func (o *ioOp) renew() {
	w := o.c.w
	o.vals = make([]uint32, 0, o.rng.Count)
	for i := range o.rng.Count {
		w.values++
		o.vals = append(o.vals, w.values)
		k := int(o.ext)*blocksMax + int(o.rng.Start) + int(i)
		o.first = append(o.first, len(w.ops[k]))
		w.ops[k] = append(w.ops[k], BlockOp{Write: true, Value: w.values, Call: w.now, Return: Never, Who: o.c.who})
	}
}

// written ends a write that was acknowledged: its last attempt has taken effect by now, the earlier ones have by now or never will (I14).
func (o *ioOp) written() {
	w := o.c.w
	n := len(o.first) - int(o.rng.Count)
	for j, at := range o.first {
		b := &w.ops[int(o.ext)*blocksMax+int(o.rng.Start)+j%int(o.rng.Count)][at]
		b.Return, b.Maybe = w.now, j < n
	}
}

// draw makes up the next request.
func (c *client) draw() *ioOp {
	w := c.w
	o := &ioOp{ext: block.ExtentIndex(w.rng.IntN(len(w.meta.extents)))}
	o.rng.Start = block.No(1 + w.rng.IntN(blocksMax-1))
	o.rng.Count = uint32(min(1+w.rng.IntN(4), blocksMax-int(o.rng.Start)))
	p := w.rng.IntN(100)
	if w.chance(c.writes) {
		switch {
		case p < 75:
			o.kind = opWrite
		case p < 83:
			o.kind = opUnmap
		case p < 95:
			o.kind = opRMW
			o.rng = block.Range{Start: rmwBlock, Count: 1}
		default:
			o.kind = opFlush
		}
		return o
	}
	if p < 12 && len(w.meta.views) > 0 {
		o.kind = opView
		o.view = w.meta.views[w.rng.IntN(len(w.meta.views))]
		return o
	}
	o.kind = opRead
	o.view = block.LiveView
	if w.chance(10) {
		o.rng = block.Range{Start: rmwBlock, Count: 1}
	}
	return o
}

func (c *client) submit(o *ioOp) {
	w := c.w
	if c.sess == nil {
		c.again = append(c.again, o)
		c.connect()
		return
	}
	o.session = c.sess.id
	o.attempts++
	if o.kind == opWrite || o.kind == opUnmap || o.kind == opRMW {
		o.renew()
	}
	s := c.sess
	if !s.chunk.clientCut {
		w.afterOn(s.chunk, w.between(20*us, 200*us), func() { s.chunk.begin(o, s) })
	}
	n := o.attempts
	w.after(c.patience, func() {
		if c.sess == s && o.attempts == n && o.session == s.id && c.isOpen(o) {
			c.dropSession(s)
		}
	})
}

func (c *client) isOpen(o *ioOp) bool {
	for _, p := range c.open {
		if p == o {
			return true
		}
	}
	return false
}

// dropSession ends a session; what is open is repeated in the next.
func (c *client) dropSession(s *session) {
	if c.sess != s {
		return
	}
	c.w.tracef("client %d: session %d ends", c.id, s.id)
	c.sess = nil
	for _, o := range append([]*ioOp(nil), c.open...) {
		if o.session == s.id {
			c.retry(o)
		}
	}
}

// retry repeats a request when there is a session again. A read-modify-write is not repeated: it may have been done.
func (c *client) retry(o *ioOp) {
	o.session = 0
	if o.kind == opRMW || o.kind == opBarrier || len(o.vals) > 0 && !c.w.stop && c.w.chance(40) {
		// Not repeated, as by an initiator that has gone: whether it was done stays open.
		c.close(o)
		return
	}
	if c.sess != nil {
		c.submit(o)
		return
	}
	c.again = append(c.again, o)
	c.connect()
}

func (c *client) close(o *ioOp) {
	for i, p := range c.open {
		if p == o {
			c.open = append(c.open[:i], c.open[i+1:]...)
			break
		}
	}
	if !c.w.stop {
		c.w.after(c.w.between(0, c.w.cfg.Think), c.pump)
	}
}

// connect logs in at the owner, as soon as there is one and what an earlier session left there has ended (I14).
func (c *client) connect() {
	if c.linking || c.sess != nil {
		return
	}
	c.linking = true
	w := c.w
	w.after(w.between(5*ms, 60*ms), func() {
		c.linking = false
		k := w.meta.owner
		ready := k.alive && k.frozenTill <= w.now && k.owner != nil && !k.clientCut && (k != c.shunned || w.now >= c.shunnedTill)
		for _, a := range k.serving {
			ready = ready && a.o.c != c
		}
		if !ready {
			c.connect()
			return
		}
		c.sessions++
		c.sess = &session{c.sessions, k, k.inc}
		if w.cfg.Confirm {
			k.owner.Arrived()
		}
		w.tracef("client %d: session %d at chunk %d", c.id, c.sessions, k.id)
		again := c.again
		c.again = nil
		for _, o := range again {
			c.submit(o)
		}
	})
}

func (c *client) chunkDied(k *chunk) {
	if s := c.sess; s != nil && s.chunk == k {
		c.w.after(c.w.between(0, 1*sec), func() { c.dropSession(s) })
	}
}

func (c *client) ownerLost(k *chunk) {
	if s := c.sess; s != nil && s.chunk == k {
		c.w.after(c.w.between(50*us, 2*ms), func() { c.dropSession(s) })
	}
}

// begin takes a request at the owner.
func (k *chunk) begin(o *ioOp, s *session) {
	w := k.w
	if s.inc != k.inc || k.clientCut || o.session != s.id {
		return
	}
	w.values++
	a := &attempt{o: o, session: o.session, n: o.attempts, tag: uint64(w.values), vals: o.vals}
	k.serving[a.tag] = a
	if k.owner == nil {
		k.answer(a, replication.ResultLost)
		return
	}
	now := k.clock()
	switch o.kind {
	case opWrite:
		k.do(k.owner.Write(now, replication.WriteRequest{Tag: a.tag, Extent: o.ext, Range: o.rng, Data: payload[:o.rng.SizeBytes()], Sums: a.vals}, k.effects()))
	case opUnmap:
		// The core passes the checksums of an unmap on untouched, so that even zeroes can be told apart here.
		k.do(k.owner.Write(now, replication.WriteRequest{Tag: a.tag, Extent: o.ext, Range: o.rng, Sums: a.vals}, k.effects()))
	case opRead, opView:
		k.do(k.owner.Read(now, replication.ReadRequest{Tag: a.tag, Extent: o.ext, Range: o.rng, View: o.view}, k.effects()))
	case opRMW:
		k.do(k.owner.Lock(now, replication.LockRequest{Tag: a.tag, Extent: o.ext, Range: o.rng}, k.effects()))
	case opFlush:
		k.do(k.owner.Flush(now, a.tag, k.effects()))
	case opBarrier:
		k.barrierAt = w.now
		k.do(k.owner.Barrier(now, a.tag, k.effects()))
	}
}

func (k *chunk) locked(e *replication.Effect) {
	a := k.serving[e.Tag]
	if a == nil || k.owner == nil {
		return
	}
	a.lock, a.stage = e.Lock, 1
	k.do(k.owner.Read(k.clock(), replication.ReadRequest{Tag: a.tag, Extent: a.o.ext, Range: a.o.rng, View: block.LiveView}, k.effects()))
}

func (a *attempt) piece(rng block.Range, sums []uint32) {
	if a.got == nil {
		a.got = make([]uint32, a.o.rng.Count)
	}
	for i := range rng.Count {
		j := rng.Start + block.No(i) - a.o.rng.Start
		if int(j) < len(a.got) {
			a.got[j] = 0
			if int(i) < len(sums) {
				a.got[j] = sums[i]
			}
		}
	}
}

// complete takes the owner's answer to a request.
func (k *chunk) complete(e *replication.Effect) {
	a := k.serving[e.Tag]
	if a == nil {
		return
	}
	o := a.o
	res := e.Result
	if res == replication.ResultOK && (o.kind == opRead || o.kind == opView || a.stage == 1) && !e.Assembled {
		a.got = nil
		a.piece(o.rng, e.Sums)
	}
	if a.stage == 1 && res == replication.ResultOK {
		if k.owner != nil {
			a.stage = 2
			k.do(k.owner.Write(k.clock(), replication.WriteRequest{Tag: a.tag, Extent: o.ext, Range: o.rng, Data: payload[:block.Size], Sums: a.vals, Lock: a.lock}, k.effects()))
			return
		}
		res = replication.ResultLost
	}
	k.answer(a, res)
	if a.lock != 0 && k.owner != nil {
		k.do(k.owner.Unlock(k.clock(), a.lock, k.effects()))
	}
}

// answer sends a result to the client, if the session it came in still exists.
func (k *chunk) answer(a *attempt, res replication.Result) {
	w := k.w
	delete(k.serving, a.tag)
	if k.clientCut {
		return
	}
	inc := k.inc
	w.after(w.between(20*us, 200*us), func() {
		o := a.o
		c := o.c
		if c.sess != nil && c.sess.id == a.session && o.session == a.session && o.attempts == a.n && k.inc == inc && c.isOpen(o) {
			o.got = a.got
			c.answered(o, res)
		}
	})
}

// answered puts an answer into the history.
func (c *client) answered(o *ioOp, res replication.Result) {
	w := c.w
	if w.cfg.Trace != nil {
		w.tracef("client %d: op kind %d extent %d %v vals %v got %v result %d", c.id, o.kind, o.ext, o.rng, o.vals, o.got, res)
	}
	if res == replication.ResultInvalid && int(o.ext) >= w.cfg.Extents {
		res = replication.ResultLost // an owner that has been replaced does not learn that the volume grew
	}
	switch res {
	case replication.ResultLost, replication.ResultReleased, replication.ResultBusy:
		o.session = 0
		w.after(w.between(1*ms, 20*ms), func() {
			if c.isOpen(o) && o.session == 0 {
				c.retry(o)
			}
		})
		return
	case replication.ResultOK:
		c.succeeded(o)
	case replication.ResultSpaceExhausted:
		w.Stats.Errors++
		if o.attempts == 1 {
			for i, at := range o.first {
				w.ops[int(o.ext)*blocksMax+int(o.rng.Start)+i][at].Refused = true
			}
		}
	case replication.ResultInvalid:
		w.fail("request of client %d is invalid: %+v", c.id, *o)
	default:
		w.Stats.Errors++
	}
	c.close(o)
}

func (c *client) succeeded(o *ioOp) {
	w := c.w
	base := int(o.ext)*blocksMax + int(o.rng.Start)
	switch o.kind {
	case opWrite, opUnmap:
		w.Stats.Writes++
		o.written()
	case opRead:
		w.Stats.Reads++
		for i, v := range o.got {
			w.ops[base+i] = append(w.ops[base+i], BlockOp{Value: v, Call: o.call, Return: w.now, Who: c.who})
		}
	case opView:
		w.Stats.Reads++
		for _, s := range w.snaps {
			if s.view == o.view {
				s.seen(w, base, o.got)
			}
		}
	case opRMW:
		w.Stats.Writes++
		w.ops[base] = append(w.ops[base], BlockOp{Value: o.got[0], Call: o.call, Return: w.now, Who: c.who + " (locked)"})
		o.written()
		key := rmwKey{o.ext, o.rng.Start, o.got[0]}
		if other, ok := w.rmws[key]; ok {
			w.fail("two read-modify-writes of extent %d block %d found %d: they wrote %d and %d", o.ext, o.rng.Start, o.got[0], other, o.vals[0])
		}
		w.rmws[key] = o.vals[0]
	}
}

// snapshot is what is known of a committed snapshot.
type snapshot struct {
	view              block.SnapSeq
	epoch             block.Epoch
	called, committed int64
	content           map[int]uint32
}

// seen takes what a client read from the snapshot: always the same, and what the blocks held at one time between the call of the barrier and the commit.
func (s *snapshot) seen(w *World, base int, got []uint32) {
	for i, v := range got {
		k := base + i
		if old, ok := s.content[k]; ok {
			if old != v {
				w.fail("snapshot of view %d: block %d was %d and is %d", s.view, k, old, v)
			}
			continue
		}
		s.content[k] = v
		w.ops[k] = append(w.ops[k], BlockOp{Value: v, Call: s.called, Return: s.committed, Who: "a snapshot"})
	}
}
