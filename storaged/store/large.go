package store

import (
	"fmt"
	"sync"

	"github.com/iomesh/iomesh/storaged/block"
)

// dataWriters is the number of goroutines that write the data of large writes.
const dataWriters = 4

// jobQueue hands large writes to the data writers; it is bounded by what callers have in flight.
type jobQueue struct {
	mu     sync.Mutex
	cond   sync.Cond
	jobs   []*Write
	closed bool
}

func (q *jobQueue) push(w *Write) {
	q.mu.Lock()
	q.jobs = append(q.jobs, w)
	q.mu.Unlock()
	q.cond.Signal()
}

func (q *jobQueue) pop() *Write {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.jobs) == 0 {
		if q.closed {
			return nil
		}
		q.cond.Wait()
	}
	w := q.jobs[0]
	copy(q.jobs, q.jobs[1:])
	q.jobs[len(q.jobs)-1] = nil
	q.jobs = q.jobs[:len(q.jobs)-1]
	return w
}

func (q *jobQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.cond.Broadcast()
}

// large reports whether w's whole units go to fresh space.
func (w *Write) large() bool {
	w.q.units = 0
	if w.Kind != Data && w.Kind != Copy || w.Range.Count < largeMin || !w.hasData() {
		return false
	}
	w.q.head = uint32(-int64(w.Range.Start) & (block.UnitBlocks - 1))
	if w.q.head+block.UnitBlocks <= w.Range.Count {
		w.q.units = (w.Range.Count - w.q.head) / block.UnitBlocks
	}
	return w.q.units > 0
}

// startLarge takes units for w and lets its data be written. False if there is no room. It is the committer's.
func (s *Store) startLarge(w *Write) bool {
	s.mu.RLock()
	r := s.replicaOf(w)
	var hint uint32
	stale := false
	if r != nil {
		hint = r.nextUnit
		f := s.volumes[w.Extent.Volume]
		stale = w.Epoch != 0 && w.Epoch < f.Epoch
	}
	promised := s.active.units + s.sealed.units
	s.mu.RUnlock()
	w.q.runs = w.q.runs[:0]
	if r == nil || stale {
		// Let the apply say so.
		w.q.units = 0
		w.Err = fmt.Errorf("%w: %s", ErrNoReplica, w.Extent)
		if stale {
			w.Err = fmt.Errorf("%w: write of epoch %d of %s", ErrStaleEpoch, w.Epoch, w.Extent)
		}
		return false
	}
	var ok bool
	if w.q.runs, ok = s.alloc.allocUnits(w.q.runs, w.q.units, hint, s.alloc.reserve+uint32(promised)); !ok {
		return false
	}
	last := w.q.runs[len(w.q.runs)-1]
	// The committer alone moves the hint.
	r.nextUnit = last.start + last.count
	s.qmu.Lock()
	s.largeSeq++
	w.q.order = s.largeSeq
	s.larges[w.q.order] = struct{}{}
	s.qmu.Unlock()
	s.dataJobs.push(w)
	return true
}

// endLarge forgets a large write whose journal entry is durable or that failed.
func (s *Store) endLarge(w *Write) {
	if len(w.q.runs) > 0 {
		// Not applied: nothing points to the units.
		s.alloc.freeUnits(w.q.runs)
		w.q.runs = w.q.runs[:0]
	}
	s.qmu.Lock()
	delete(s.larges, w.q.order)
	s.qcond.Broadcast()
	s.qmu.Unlock()
}

// dataLoop writes data of large writes and hands them to the committer, which makes it durable together with the batch that points to it.
func (s *Store) dataLoop() {
	defer s.wg.Done()
	for {
		w := s.dataJobs.pop()
		if w == nil {
			return
		}
		if w.Err = s.writeUnits(w); w.Err != nil && s.failure() == nil {
			s.log.Debug("large write refused", "extent", w.Extent.String(), "error", w.Err)
		}
		s.enqueue(item{w: w, ready: true})
	}
}

func (s *Store) writeUnits(w *Write) error {
	if err := s.prepareSums(w); err != nil {
		return err
	}
	if err := s.failure(); err != nil {
		return err
	}
	data := w.Data[int(w.q.head)*block.Size:]
	for _, r := range w.q.runs {
		n := int(r.count) * block.UnitSizeBytes
		mark := s.io.begin(ioWrite)
		err := s.disk.WriteAt(data[:n], s.geo.blockOff(uint64(r.start)*block.UnitBlocks))
		s.io.end(mark)
		if err != nil {
			return s.fail(err)
		}
		data = data[n:]
	}
	return nil
}
