package store

import (
	"fmt"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/iomesh/iomesh/storaged/wakes"
)

const (
	// batchHeadMax and batchDataMax bound one journal write.
	batchHeadMax = 128 << 10
	batchDataMax = 2 << 20
	// blocksMax bounds the range of all writes but Unmap.
	blocksMax = batchDataMax / block.Size
	// largeMin is the number of blocks from which whole units go to fresh space instead of the journal.
	largeMin = 8
	// softFill is the journal fill in percent from which writes are paced.
	softFill = 65
	// progressMax is the progress of a finished destage cycle.
	progressMax = 1000
)

// item is one thing for the committer: a write or a control.
type item struct {
	w *Write
	c *control
	// ready: the data of a large write is in its units.
	ready bool
}

// control is a change of something other than blocks, made by the committer so that it has its place in the journal.
type control struct {
	// apply runs with Store.mu held and adds entries to the batch.
	apply    func(b *batch) error
	headNeed int // bytes of entries apply may add
	err      error
	done     chan struct{}
}

// writeState is the store's part of a Write.
type writeState struct {
	sums    []uint32  // computed by the store
	runs    []unitRun // units of a large write
	head    uint32    // blocks before its first whole unit
	units   uint32    // whole units
	data    uint32    // first block in the batch's data
	order   uint64    // among large writes
	retried bool      // a cycle was waited for to find space
	replica *replica  // see Store.replicaOf
}

// batch is one journal write in the making. The committer's.
type batch struct {
	buf      []byte // headMax + dataMax, aligned
	head     []byte
	entries  uint32
	dataMax  uint32 // blocks
	data     uint32 // blocks
	headNeed int    // bytes of header the items may need
	start    uint64 // absolute position
	headLen  uint64 // blocks of header
	items    []item
	touched  []uint32
	any      bool
	done     []*Write
}

func (b *batch) reset() {
	b.head = b.head[:0]
	b.entries, b.data, b.headNeed = 0, 0, batchHeaderBytes+4*prevMax
	b.items = b.items[:0]
	b.touched = b.touched[:0]
	b.any = false
}

func (b *batch) add(e *entry) {
	b.head = appendEntry(b.head, e)
	b.entries++
}

// touch notes that the batch changes a replica.
func (b *batch) touch(handle uint32) {
	if n := len(b.touched); n > 0 && b.touched[n-1] == handle {
		return
	}
	for _, h := range b.touched {
		if h == handle {
			return
		}
	}
	if len(b.touched) == prevMax {
		b.any = true
		return
	}
	b.touched = append(b.touched, handle)
}

func (s *Store) submit(w *Write, later *wakes.List) {
	s.qmu.Lock()
	if s.closing {
		s.qmu.Unlock()
		s.refuse(w)
		return
	}
	s.queue = append(s.queue, item{w: w})
	waits := s.waits
	s.qmu.Unlock()
	if waits {
		later.Later(s)
	}
}

// Wake implements wakes.Sleeper: the committer and the disk's reads go on with what was left to them.
func (s *Store) Wake() {
	s.qmu.Lock()
	if s.waits && len(s.queue) > 0 {
		s.waits = false
		s.qcond.Broadcast()
	}
	s.qmu.Unlock()
	if s.async != nil {
		s.async.Kick()
	}
}

func (s *Store) submitBatch(ws []*Write) {
	s.qmu.Lock()
	if !s.closing {
		for _, w := range ws {
			s.queue = append(s.queue, item{w: w})
		}
		if s.waits {
			s.waits = false
			s.qcond.Broadcast()
		}
		s.qmu.Unlock()
		return
	}
	s.qmu.Unlock()
	for _, w := range ws {
		s.refuse(w)
	}
}

func (s *Store) refuse(w *Write) {
	w.Err = ErrClosed
	w.Completer.Complete([]*Write{w})
}

// enqueue hands an item to the committer; false when the store is closing.
func (s *Store) enqueue(it item) bool {
	s.qmu.Lock()
	defer s.qmu.Unlock()
	if s.closing && !it.ready {
		return false
	}
	s.queue = append(s.queue, it)
	if s.waits {
		s.waits = false
		s.qcond.Broadcast()
	}
	return true
}

// commitLoop is the committer: the one goroutine that gives changes their place in the journal and applies them.
func (s *Store) commitLoop() {
	defer s.wg.Done()
	defer close(s.committed)
	for {
		s.qmu.Lock()
		s.busy = false
		for len(s.queue) == 0 && s.seal == nil {
			if s.closing && len(s.larges) == 0 {
				s.qmu.Unlock()
				return
			}
			s.waits = true
			s.qcond.Wait()
		}
		s.waits = false
		work := s.queue
		s.queue = s.spare[:0]
		s.busy = true
		if len(work) > 0 {
			s.lastBusy = time.Now()
		}
		s.qmu.Unlock()
		for rest := s.dispatch(work); ; {
			s.serveSeal()
			if len(rest) == 0 {
				break
			}
			rest = rest[s.commit(rest):]
		}
		clear(work)
		s.spare = work
	}
}

// commit makes one batch of the first items of work durable and returns how many it dealt with.
func (s *Store) commit(work []item) int {
	if err := s.failure(); err != nil {
		for _, it := range work {
			s.finish(it, err)
		}
		s.complete(work)
		return len(work)
	}
	b := &s.batch
	b.reset()
	n := s.gather(work)
	if len(b.items) == 0 {
		return n
	}
	if !s.makeRoom() {
		return s.commit(work)
	}
	applied := s.applyAll()
	if applied < len(b.items) {
		// The rest needs another batch: what it lacks (header room, space on the disk) may be there then.
		n -= len(b.items) - applied
		b.items = b.items[:applied]
	}
	if b.entries > 0 {
		if err := s.writeBatch(); err != nil {
			for _, it := range b.items {
				s.finish(it, err)
			}
		}
	}
	s.complete(b.items)
	return n
}

// dispatch validates new writes and sends the data of large ones on its way; they come back when it is durable. It returns
// the items that are left.
func (s *Store) dispatch(work []item) []item {
	if s.failure() != nil {
		return work
	}
	left := work[:0]
	for _, it := range work {
		if it.w != nil && !it.ready {
			if it.w.Err = s.validate(it.w); it.w.Err == nil && it.w.large() && s.startLarge(it.w) {
				continue
			}
		}
		left = append(left, it)
	}
	return left
}

// gather chooses the items of the batch and copies their data into it. It returns how many items it dealt with; those in the
// batch are the last of them, so that leaving off a tail of the batch leaves off a tail of the work.
func (s *Store) gather(work []item) int {
	b := &s.batch
	for i, it := range work {
		if it.c != nil {
			if len(b.items) > 0 && (b.headNeed+it.c.headNeed > batchHeadMax || b.large()) {
				// Behind a large write it waits for the next batch: what it deletes must not decide whether this one is torn.
				return i
			}
			b.headNeed += it.c.headNeed
			b.items = append(b.items, it)
			continue
		}
		w := it.w
		if w.Err == nil && !it.ready && w.large() {
			// There was no room for it in fresh space. The journal takes it, and the blocks it replaces, if it must.
			if len(b.items) > 0 && !w.q.retried {
				return i
			}
			if !w.q.retried {
				w.q.retried = true
				if s.awaitCycle() && s.startLarge(w) {
					continue
				}
			}
			w.q.units = 0
			if w.Range.Count > b.dataMax {
				w.Err = fmt.Errorf("%w: disk %s, extent %s", ErrNoSpace, s.disk, w.Extent)
			}
		}
		if w.Err != nil {
			b.items = append(b.items, it)
			continue
		}
		blocks := w.journalBlocks()
		need := w.headNeed()
		if len(b.items) > 0 && (b.headNeed+need > batchHeadMax || b.data+blocks > b.dataMax) {
			return i
		}
		b.headNeed += need
		w.q.data = b.data
		if blocks > 0 {
			s.copyData(w)
		}
		b.data += blocks
		b.items = append(b.items, it)
	}
	return len(work)
}

// makeRoom waits until the ring has room for the batch and fixes its place. False when the store has been fenced meanwhile.
func (s *Store) makeRoom() bool {
	b, r := &s.batch, &s.ring
	b.headLen = uint64((b.headNeed + slotBytes - 1) / slotBytes)
	n := b.headLen + uint64(b.data)
	b.start = r.head
	if at := b.start % r.blocks; at+n > r.blocks {
		b.start += r.blocks - at
	}
	need := b.start + n - r.head
	// The last blocks are for batches without data: a full journal must still take fences and deletions.
	limit := r.blocks - r.blocks/64
	if b.data == 0 {
		limit = r.blocks
	}
	soft := r.blocks * softFill / 100
	if r.head+need-r.tail.Load() <= soft {
		return s.failure() == nil
	}
	return s.await(func() bool {
		tail := r.tail.Load()
		used := r.head + need - tail
		// Past the soft limit the journal fills no faster than the destager empties it, so that there is never a long
		// stop while a whole cycle ends. An empty journal takes any batch.
		if used <= limit && (b.data == 0 || r.head == tail || used <= soft+(limit-soft)*s.progress/progressMax) {
			return true
		}
		if s.cycles.started == s.cycles.done {
			// What is missing may be the rest of the lap, with a journal that is not full enough for a cycle by itself.
			s.cycles.wanted = max(s.cycles.wanted, s.cycles.started+1)
		}
		return false
	})
}

// await waits, as the committer between two batches, until ok, evaluated with qmu held. False when the store is fenced.
func (s *Store) await(ok func() bool) bool {
	s.qmu.Lock()
	for {
		if s.failure() != nil {
			s.qmu.Unlock()
			return false
		}
		if ok() {
			s.qmu.Unlock()
			return true
		}
		if s.seal != nil {
			s.qmu.Unlock()
			s.serveSeal()
			s.qmu.Lock()
			continue
		}
		s.poke()
		s.qcond.Wait()
	}
}

// awaitCycle waits for one whole destage cycle that begins after the call.
func (s *Store) awaitCycle() bool {
	s.qmu.Lock()
	want := s.cycles.started + 1
	s.cycles.wanted = max(s.cycles.wanted, want)
	s.qmu.Unlock()
	return s.await(func() bool { return s.cycles.done >= want })
}

// applyAll applies the items of the batch and returns how many; fewer than all when the next needs a batch of its own.
func (s *Store) applyAll() int {
	b := &s.batch
	s.mu.Lock()
	defer s.mu.Unlock()
	// From here on the batch's blocks are found in memory.
	s.inflight = inflight{from: b.start + b.headLen, to: b.start + b.headLen + uint64(b.data), data: b.buf[batchHeadMax:]}
	room := int(b.headLen)*slotBytes - batchHeaderBytes - 4*len(s.ring.prev)
	for i := 0; i < len(b.items); {
		it := b.items[i]
		if it.c != nil {
			if it.c.headNeed > 0 && len(b.head)+it.c.headNeed > room {
				return i
			}
			if it.c.err = it.c.apply(b); it.c.err == nil {
				b.any = true
			}
			i++
			continue
		}
		if it.w.Err != nil {
			i++
			continue
		}
		switch v := s.apply(it.w, room); v.what {
		case applied:
			i++
		case needPage:
			s.mu.Unlock()
			s.loadPage(v.page)
			s.mu.Lock()
		case needBatch:
			if i > 0 {
				return i
			}
			// Alone and still too large: give it the largest header.
			if int(b.headLen)*slotBytes >= batchHeadMax {
				it.w.Err = fmt.Errorf("%w: write of %s falls into too many pieces", ErrInvalid, it.w.Extent)
				i++
				continue
			}
			b.headNeed = batchHeadMax
			s.mu.Unlock()
			ok := s.makeRoom()
			s.mu.Lock()
			if !ok {
				return i
			}
			s.inflight.from = b.start + b.headLen
			s.inflight.to = s.inflight.from + uint64(b.data)
			room = int(b.headLen)*slotBytes - batchHeaderBytes - 4*len(s.ring.prev)
		case needCycle:
			if i > 0 {
				return i
			}
			if it.w.q.retried {
				it.w.Err = fmt.Errorf("%w: disk %s, extent %s", ErrNoSpace, s.disk, it.w.Extent)
				i++
				continue
			}
			it.w.q.retried = true
			s.mu.Unlock()
			s.awaitCycle()
			// The cycle's checkpoint may have moved the tail; the place in the ring is still right.
			s.mu.Lock()
		}
	}
	if b.entries > 0 {
		s.flushState(b, room)
	}
	return len(b.items)
}

// writeBatch writes the batch with one durable write and moves the head.
func (s *Store) writeBatch() error {
	b, r := &s.batch, &s.ring
	h := batchHeader{
		journal: s.sb.journalID, seq: r.seq, lap: uint32(b.start / r.blocks), pos: uint32(b.start % r.blocks),
		headBlocks: uint32(b.headLen), dataBlocks: b.data, entries: b.entries, checkpoint: r.checkpoint.Load(),
	}
	// The header lies right before the data in memory, as on disk.
	p := b.buf[batchHeadMax-int(b.headLen)*slotBytes : batchHeadMax+int(b.data)*slotBytes]
	at := batchHeaderBytes
	if r.prevAny {
		h.prevCount = prevAll
	} else {
		h.prevCount = uint32(len(r.prev))
		for _, x := range r.prev {
			putU32(p[at:], x)
			at += 4
		}
	}
	at += copy(p[at:], b.head)
	h.headerBytes = uint32(at)
	clear(p[at : int(b.headLen)*slotBytes])
	h.encode(p[:at])
	t := time.Now()
	if err := s.makeDurable(p, s.geo.journalOff+int64(h.pos)*slotBytes); err != nil {
		return s.fail(err)
	}
	took := time.Since(t)
	average(&s.n.journalNanos, took)
	s.flushes.Observe(took)
	s.n.batches.Add(1)
	s.n.journalBytes.Add(uint64(len(p)))
	r.head = b.start + uint64(h.blocks())
	r.headAtomic.Store(r.head)
	r.seq++
	r.prev = append(r.prev[:0], b.touched...)
	r.prevAny = b.any
	s.mu.Lock()
	s.inflight = inflight{}
	s.mu.Unlock()
	if r.used()*100 >= r.blocks*uint64(s.opts.DestageFill) {
		s.poke()
	}
	return nil
}

// makeDurable writes the batch p, and returns when it is durable with the data of the large writes in it. One flush does for both: until it is
// done nothing of the batch is acknowledged and no other follows, and a batch whose data did not all arrive is recognized at replay (tornUnits).
func (s *Store) makeDurable(p []byte, off int64) error {
	large := s.batch.large() && s.opts.planted != bugAckLargeEarly
	write := s.jdisk.WriteDurable
	if large && s.jdisk == s.disk || s.opts.planted == bugAckEarly {
		write = s.jdisk.WriteAt
	}
	mark := s.io.begin(ioJournal)
	err := write(p, off)
	s.io.end(mark)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if large {
		mark = s.io.begin(ioFlush)
		err = s.disk.Flush()
		s.io.end(mark)
	}
	return err
}

// large reports whether the batch has writes whose data are in units.
func (b *batch) large() bool {
	for _, it := range b.items {
		if it.ready && it.w.q.units > 0 && it.w.Err == nil {
			return true
		}
	}
	return false
}

// finish sets the outcome of an item that failed.
func (s *Store) finish(it item, err error) {
	if it.c != nil {
		if it.c.err == nil {
			it.c.err = err
		}
		return
	}
	if it.w.Err == nil {
		it.w.Err = err
	}
}

// complete tells of the items, writes with the same Completer together.
func (s *Store) complete(items []item) {
	b := &s.batch
	flush := func() {
		if len(b.done) > 0 {
			b.done[0].Completer.Complete(b.done)
			b.done = b.done[:0]
		}
	}
	for _, it := range items {
		if it.c != nil {
			close(it.c.done)
			continue
		}
		w := it.w
		w.q.replica = nil
		if it.ready {
			s.endLarge(w)
		}
		if w.Err == nil {
			s.n.writes.Add(1)
			if w.hasData() {
				s.n.writtenBytes.Add(uint64(w.Range.SizeBytes()))
			}
		}
		if len(b.done) > 0 && b.done[0].Completer != w.Completer {
			flush()
		}
		b.done = append(b.done, w)
	}
	flush()
	clear(b.done[:cap(b.done)])
}

// do runs a control through the committer and waits until its entries are durable.
func (s *Store) do(c *control) error {
	c.done = make(chan struct{})
	if !s.enqueue(item{c: c}) {
		return ErrClosed
	}
	<-c.done
	return c.err
}

func newBatch(dataMax uint32) batch {
	return batch{buf: vdisk.Aligned(batchHeadMax + int(dataMax)*slotBytes), dataMax: dataMax}
}
