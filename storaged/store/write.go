package store

import (
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
)

// validate refuses writes that contradict themselves.
func (s *Store) validate(w *Write) error {
	w.Err = nil
	w.q.retried, w.q.replica = false, nil
	n := int(w.Range.Count)
	bad := func(why string) error {
		return fmt.Errorf("%w: write of blocks [%d,%d) of %s: %s", ErrInvalid, w.Range.Start, w.Range.End(), w.Extent, why)
	}
	if !w.Range.Valid() {
		return bad("not within the extent")
	}
	if w.Kind != Unmap && n > blocksMax {
		return bad(fmt.Sprintf("more than %d blocks at once", blocksMax))
	}
	switch w.Kind {
	case Data, Unmap:
		if w.Stamp == 0 {
			return bad("no stamp")
		}
	case Copy, Repair, MarkBad:
		if len(w.Stamps) < n || w.States != nil && len(w.States) < n {
			return bad("stamps or states are missing")
		}
	default:
		return bad(fmt.Sprintf("unknown kind %d", w.Kind))
	}
	if w.hasData() {
		if len(w.Data) < w.Range.SizeBytes() {
			return bad("data is missing")
		}
		if w.Sums != nil && len(w.Sums) < n {
			return bad("checksums are missing")
		}
		if w.Plain != nil && len(w.Plain) < n {
			return bad("CRCs are missing")
		}
	}
	return nil
}

// hasData reports whether any block of w brings data.
func (w *Write) hasData() bool {
	switch w.Kind {
	case Data:
		return true
	case Copy, Repair:
		if w.States == nil {
			return true
		}
		for _, st := range w.States[:w.Range.Count] {
			if st == Written {
				return true
			}
		}
	}
	return false
}

// stateOf is the state block i is to have.
func (w *Write) stateOf(i int) State {
	switch {
	case w.Kind == Unmap:
		return Unwritten
	case w.Kind == MarkBad:
		return Bad
	case w.States == nil:
		return Written
	}
	return w.States[i]
}

func (w *Write) stampOf(i int) uint64 {
	if w.Kind == Data || w.Kind == Unmap {
		return uint64(w.Stamp)
	}
	return uint64(w.Stamps[i])
}

// journalBlocks is the number of data blocks of w that go into the journal.
func (w *Write) journalBlocks() uint32 {
	if !w.hasData() {
		return 0
	}
	return w.Range.Count - w.q.units*block.UnitBlocks
}

// headNeed is a bound of the header bytes w needs, unless its blocks fall into many runs.
func (w *Write) headNeed() int {
	n := 3 * entryBytes
	if w.hasData() {
		n += 4 * int(w.Range.Count)
	}
	if w.Kind != Data && w.Kind != Unmap {
		n += 8 * int(w.Range.Count)
	}
	return n
}

// sumsOf returns the checksums of w's data, given or computed.
func (w *Write) sumsOf() []uint32 {
	if w.Sums != nil {
		return w.Sums
	}
	return w.q.sums
}

// prepareSums computes or verifies the checksums of w's data.
func (s *Store) prepareSums(w *Write) error {
	if w.Sums != nil && (!s.opts.CheckSums || w.SumsVerified) {
		return nil
	}
	s.mu.RLock()
	r := s.replicaOf(w)
	s.mu.RUnlock()
	if r == nil {
		return fmt.Errorf("%w: %s", ErrNoReplica, w.Extent)
	}
	n := int(w.Range.Count)
	if cap(w.q.sums) < n {
		w.q.sums = make([]uint32, n)
	}
	w.q.sums = w.q.sums[:n]
	r.seeder.SumRange(w.Range, w.Data, w.Plain, w.q.sums)
	if w.Sums == nil {
		return nil
	}
	for i, sum := range w.q.sums {
		if sum != w.Sums[i] && w.stateOf(i) == Written {
			return fmt.Errorf("%w: checksum of block %d of %s does not match its data", ErrInvalid, w.Range.Start+block.No(i), w.Extent)
		}
	}
	return nil
}

// copyData puts the journalled blocks of w into the batch.
func (s *Store) copyData(w *Write) {
	if w.q.units == 0 {
		if w.Err = s.prepareSums(w); w.Err != nil {
			return
		}
	}
	dst := s.batch.buf[batchHeadMax+int(w.q.data)*block.Size:]
	if w.q.units == 0 {
		copy(dst, w.Data[:w.Range.SizeBytes()])
		return
	}
	head := int(w.q.head) * block.Size
	n := copy(dst, w.Data[:head])
	copy(dst[n:], w.Data[head+int(w.q.units)*block.UnitSizeBytes:w.Range.SizeBytes()])
}
