package store

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// scanBlocks is how far behind a place where no batch is found a later one is looked for: many times the largest batch.
const scanBlocks = 16384

// ringReader reads the journal in large pieces.
type ringReader struct {
	s    *Store
	buf  []byte
	from uint64 // absolute block of buf
	n    uint64
}

// blocks returns n blocks from abs on, which do not wrap. The memory is valid until the next call.
func (r *ringReader) blocks(abs, n uint64) ([]byte, error) {
	if abs < r.from || abs+n > r.from+r.n {
		ring := r.s.ring.blocks
		m := min(max(n, uint64(len(r.buf)/slotBytes)), ring-abs%ring)
		if m < n {
			return nil, fmt.Errorf("%w: batch beyond the end of the journal", ErrCorrupt)
		}
		if int(m)*slotBytes > len(r.buf) {
			r.buf = vdisk.Aligned(int(m) * slotBytes) // a batch larger than the buffer
		}
		r.n = 0
		if err := r.s.jdisk.ReadAt(r.buf[:m*slotBytes], r.s.journalOff(abs)); err != nil {
			return nil, err
		}
		r.from, r.n = abs, m
	}
	return r.buf[(abs-r.from)*slotBytes : (abs-r.from+n)*slotBytes], nil
}

// batchAt reads the header of the batch that begins at abs, if there is one with a good header.
func (r *ringReader) batchAt(abs uint64) (h batchHeader, head []byte, ok bool, err error) {
	p, err := r.blocks(abs, 1)
	if err != nil {
		return h, nil, false, err
	}
	ring := r.s.ring.blocks
	h, ok = decodeBatchHead(p, r.s.sb.journalID, uint32(ring))
	if !ok || uint64(h.lap)*ring+uint64(h.pos) != abs {
		return h, nil, false, nil
	}
	if p, err = r.blocks(abs, uint64(h.headBlocks)); err != nil {
		return h, nil, false, err
	}
	head = p[:h.headerBytes]
	return h, head, verifyBatch(head), nil
}

// replay applies what the journal holds beyond the checkpoint, and finds its end.
//
// A batch is written only when the one before is durable. So the first place without a good batch is the end, unless a good one
// with a higher number follows: then the batch in between was durable and is damaged, and that is told, not passed over (I8).
func (s *Store) replay(rt root) error {
	r := &ringReader{s: s, buf: vdisk.Aligned(int(min(4<<20, s.ring.blocks*slotBytes)))}
	at := uint64(rt.lap)*s.ring.blocks + uint64(rt.pos)
	seq := rt.seq
	s.ring.tail.Store(at)
	for {
		h, head, ok, err := s.nextBatch(r, &at, seq)
		if err != nil {
			return err
		}
		if !ok {
			later, lh, found, err := s.laterBatch(r, at, seq)
			if err != nil {
				return err
			}
			if !found {
				break
			}
			if err := s.lostBatches(r, seq, later, lh); err != nil {
				return err
			}
			at, seq = later, lh.seq
			continue
		}
		if h.checkpoint > rt.checkpoint {
			return fmt.Errorf("%w: the journal was written after checkpoint %d, but the newest found is %d", ErrCorrupt, h.checkpoint, rt.checkpoint)
		}
		done, err := s.replayBatch(r, at, h, slices.Clone(head))
		if err != nil {
			return err
		}
		if !done {
			break
		}
		at += uint64(h.blocks())
		seq = h.seq + 1
		s.ring.prev = s.ring.prev[:0]
	}
	// What a batch after this one must say of it is not known any more.
	s.ring.prevAny = true
	s.ring.head, s.ring.seq = at, seq
	s.ring.headAtomic.Store(at)
	return nil
}

// nextBatch finds batch seq at *at, or at the begin of the next lap if it did not fit.
func (s *Store) nextBatch(r *ringReader, at *uint64, seq uint64) (batchHeader, []byte, bool, error) {
	next := (*at/s.ring.blocks + 1) * s.ring.blocks
	for _, a := range []uint64{*at, next} {
		h, head, ok, err := r.batchAt(a)
		if err != nil {
			return h, nil, false, err
		}
		if ok && h.seq == seq {
			*at = a
			return h, head, true, nil
		}
	}
	return batchHeader{}, nil, false, nil
}

// laterBatch looks for a good batch with a number above seq behind at.
func (s *Store) laterBatch(r *ringReader, at, seq uint64) (uint64, batchHeader, bool, error) {
	// Beyond the end of the lap it would be at the begin of the next.
	if s.opts.planted == bugBadIsTail {
		return 0, batchHeader{}, false, nil
	}
	lapEnd := (at/s.ring.blocks + 1) * s.ring.blocks
	limit := min(uint64(scanBlocks), s.ring.blocks)
	for _, span := range [2][2]uint64{{at, min(at+limit, lapEnd)}, {lapEnd, lapEnd + min(limit, at%s.ring.blocks)}} {
		for a := span[0]; a < span[1]; a++ {
			h, _, ok, err := r.batchAt(a)
			if err != nil {
				return 0, h, false, err
			}
			if ok && h.seq > seq {
				return a, h, true, nil
			}
		}
	}
	return 0, batchHeader{}, false, nil
}

// isLast reports whether no batch follows h at abs. It leaves the reader elsewhere.
func (s *Store) isLast(r *ringReader, abs uint64, h batchHeader) (bool, error) {
	next := abs + uint64(h.blocks())
	_, _, ok, err := s.nextBatch(r, &next, h.seq+1)
	if ok || err != nil {
		return false, err
	}
	_, _, ok, err = s.laterBatch(&ringReader{s: s, buf: vdisk.Aligned(1 << 20)}, next, h.seq)
	return !ok, err
}

// lostBatches notes that the batches from seq up to the good one h at abs are damaged. The good one tells which replicas the
// batch before it changed; of any others that are lost, nothing is known.
func (s *Store) lostBatches(r *ringReader, seq, abs uint64, h batchHeader) error {
	_, head, _, err := r.batchAt(abs)
	if err != nil {
		return err
	}
	lost := map[uint32]bool{}
	all := h.prevCount == prevAll || h.seq != seq+1
	if !all {
		if int(h.prevCount)*4 > len(head)-batchHeaderBytes {
			all = true
		} else {
			for i := range int(h.prevCount) {
				lost[binary.LittleEndian.Uint32(head[batchHeaderBytes+4*i:])] = true
			}
		}
	}
	var suspects []block.ExtentID
	for id, x := range s.replicas {
		if all || lost[x.handle] {
			s.suspect(x)
			suspects = append(suspects, id)
		}
	}
	s.n.metaErrors.Add(1)
	s.corrupt(fmt.Sprintf("journal batches %d to %d do not verify, but batch %d does", seq, h.seq-1, h.seq), suspects...)
	return nil
}

// suspect marks a replica that may lack acknowledged writes of any stamp: nobody may rely on its watermark.
func (s *Store) suspect(r *replica) {
	r.suspect, r.watermark = true, 0
}

// replayBatch applies one batch. False if it is the torn tail: its data, in the journal or in units, does not verify and nothing follows.
func (s *Store) replayBatch(r *ringReader, at uint64, h batchHeader, head []byte) (bool, error) {
	n := batchHeaderBytes
	if h.prevCount != prevAll {
		if int64(h.prevCount)*4 > int64(len(head)-batchHeaderBytes) {
			return false, fmt.Errorf("%w: journal batch %d", ErrCorrupt, h.seq)
		}
		n += 4 * int(h.prevCount)
	}
	entries := make([]entry, 0, min(h.entries, uint32(len(head)/entryBytes)))
	rest := head[n:]
	for range h.entries {
		e, more, err := decodeEntry(rest, h.dataBlocks, s.geo.units)
		if err != nil {
			return false, fmt.Errorf("journal batch %d: %w", h.seq, err)
		}
		entries, rest = append(entries, e), more
	}
	dataAbs := at + uint64(h.headBlocks)
	data, err := r.blocks(dataAbs, uint64(h.dataBlocks))
	if err != nil {
		return false, err
	}
	rotten := s.verifyData(entries, data)
	if len(rotten) > 0 {
		_, later, found, err := s.laterBatch(&ringReader{s: s, buf: vdisk.Aligned(1 << 20)}, at+uint64(h.blocks()), h.seq)
		if err != nil || !found {
			return false, err
		}
		s.n.checksumErrors.Add(uint64(len(rotten)))
		s.corrupt(fmt.Sprintf("%d blocks of data in journal batch %d do not verify, but batch %d follows", len(rotten), h.seq, later.seq))
	}
	if len(rotten) == 0 && slices.ContainsFunc(entries, func(e entry) bool { return e.inUnits() }) {
		last, err := s.isLast(r, at, h)
		if err != nil {
			return false, err
		}
		if last && s.opts.planted != bugTornUnits {
			if s.ring.torn, err = s.tornUnits(entries); err != nil || s.ring.torn {
				return false, err
			}
		}
	}
	for i := range entries {
		s.redo(&entries[i], dataAbs, rotten)
	}
	return true, nil
}

// verifyData returns the blocks of the batch's data that no entry's checksum fits.
func (s *Store) verifyData(entries []entry, data []byte) map[uint64]bool {
	var rotten map[uint64]bool
	seeders := s.seeders(entries)
	for i := range entries {
		e := &entries[i]
		if e.typ != ePut || e.flags&fWritten == 0 || e.flags&fUnits != 0 {
			continue
		}
		seeder, ok := seeders(e.extent)
		if !ok {
			continue
		}
		for k := range e.count {
			b := e.data + uint64(k)
			if seeder.Sum(block.No(e.start+k), data[b*slotBytes:(b+1)*slotBytes]) != e.sum(int(k)) {
				if rotten == nil {
					rotten = map[uint64]bool{}
				}
				rotten[b] = true
			}
		}
	}
	return rotten
}

// redo gives a journal entry its effect again.
func (s *Store) redo(e *entry, dataAbs uint64, rotten map[uint64]bool) {
	r := s.replicas[e.extent]
	switch e.typ {
	case ePut, eUnmapPage:
		l := s.layers[e.handle]
		if l == nil || l.rep != r || r == nil {
			// Its layer was made in a batch that is lost, or the replica is gone.
			if r != nil && l == nil {
				s.suspect(r)
			}
			return
		}
		if l.dead {
			return
		}
		r.epoch, r.generation = max(r.epoch, e.epoch), max(r.generation, e.generation)
		if !r.suspect {
			r.watermark = max(r.watermark, e.watermark)
		}
		if e.typ == eUnmapPage {
			for p := range e.count {
				s.putPage(l, e.start+p, e.stamp)
			}
			return
		}
		s.redoPut(l, e, dataAbs, rotten)
	case eReplica:
		if r == nil {
			r = s.addReplica(e.extent, e.handle, block.VolumeID(e.extra))
			r.epoch, r.generation, r.watermark = e.epoch, e.generation, e.watermark
		}
	case eDelete:
		if r != nil && r.handle == e.handle {
			s.removeReplica(r)
		}
		s.nextHandle = max(s.nextHandle, e.handle+1)
	case eLayer:
		if r == nil || s.layers[e.handle] != nil {
			return
		}
		from := s.layers[e.start]
		if e.start != 0 && from == nil {
			s.suspect(r)
		}
		if _, exists := r.find(e.snapSeq); exists {
			s.suspect(r)
			return
		}
		l := s.addLayer(r, e.handle, e.snapSeq, from)
		r.highest = max(r.highest, l.max)
		if from != nil && from.rep != r {
			r.suspect = r.suspect || from.rep.suspect
		}
	case eFence:
		f := VolumeFence{e.extent.Volume, e.epoch, block.ChunkID(e.count)}
		if f.Epoch >= s.volumes[f.Volume].Epoch {
			s.volumes[f.Volume] = f
		}
	case eForget:
		delete(s.volumes, e.extent.Volume)
	case eState:
		if r == nil || r.handle != e.handle {
			return
		}
		r.generation = max(r.generation, e.generation)
		if e.flags&fJoin != 0 {
			s.join(r, e.flags&fJoining != 0, e.stamp)
		}
		if !r.suspect {
			r.watermark = max(r.watermark, e.watermark)
		}
	case eSnapshots:
		keep := make([]block.SnapSeq, e.count)
		for i := range keep {
			keep[i] = block.SnapSeq(binary.LittleEndian.Uint32(e.extra[4*i:]))
		}
		s.keepViews(e.extent.Volume, e.snapSeq, keep)
	}
}

func (s *Store) redoPut(l *layer, e *entry, dataAbs uint64, rotten map[uint64]bool) {
	written := e.flags&fWritten != 0
	loc := uint64(0)
	if written {
		loc = e.loc(dataAbs)
		switch {
		case e.flags&fUnits == 0:
			s.promise(l.rep, l, e.start, e.start+e.count-1)
		case e.flags&fInherit == 0:
			for u := uint32(e.data / block.UnitBlocks); u <= uint32((e.data+uint64(e.count)-1)/block.UnitBlocks); u++ {
				if s.alloc.units.take(u) {
					s.active.runs = append(s.active.runs, unitRun{u, 1})
				}
			}
		}
	}
	loc |= e.locFlags()
	isRotten := func(i int) bool { return e.flags&fUnits == 0 && rotten[e.data+uint64(i)] }
	sums := make([]uint32, 0, blocksMax)
	for i := 0; written && i < int(e.count) && !isRotten(i); i++ {
		sums = append(sums, e.sum(i))
	}
	if len(sums) == int(e.count) && e.flags&fStamps == 0 {
		s.putWritten(l, block.No(e.start), e.stamp, loc, sums)
		return
	}
	for i := range int(e.count) {
		o := ovEntry{stamp: e.stampOf(i), loc: loc}
		if written {
			o.crc = e.sum(i)
			if isRotten(i) {
				o.loc = locBad | e.locFlags()
				o.crc = 0
			}
			loc++
		}
		s.put(l, block.No(e.start)+block.No(i), o)
	}
}
