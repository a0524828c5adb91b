package store

import (
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
)

// listRuns is the number of runs returned when the caller's slice has no capacity.
const listRuns = 64

func (s *Store) listStamps(e block.ExtentID, view block.SnapSeq, from, to block.No, above block.Stamp, runs []StampRun) ([]StampRun, block.No, error) {
	if from > to || to > block.PerExtent {
		return runs, from, fmt.Errorf("%w: stamps of blocks [%d,%d) of %s", ErrInvalid, from, to, e)
	}
	if err := s.barrier(); err != nil {
		return runs, from, err
	}
	if cap(runs) == len(runs) {
		runs = append(make([]StampRun, 0, len(runs)+listRuns), runs...)
	}
	sc := s.scratch.Get().(*readScratch)
	defer s.scratch.Put(sc)
	for at := from; at < to; {
		end := min(to, (at/pageBlocks+1)*pageBlocks)
		skip, err := s.listPage(e, view, at, above, sc.ents[:end-at])
		if err != nil {
			return runs, at, err
		}
		if !skip {
			for i, x := range sc.ents[:end-at] {
				if x.stamp <= uint64(above) && !(above == 0 && x.state() == Bad) {
					continue
				}
				b := at + block.No(i)
				if k := len(runs) - 1; k >= 0 && runs[k].Range.End() == b && runs[k].Stamp == block.Stamp(x.stamp) && runs[k].State == x.state() {
					runs[k].Range.Count++
					continue
				}
				if len(runs) == cap(runs) {
					return runs, b, nil
				}
				runs = append(runs, StampRun{block.Range{Start: b, Count: 1}, block.Stamp(x.stamp), x.state()})
			}
		}
		at = end
	}
	return runs, to, nil
}

// listPage looks up blocks of one page, unless its highest stamp tells that none is above.
func (s *Store) listPage(e block.ExtentID, view block.SnapSeq, at block.No, above block.Stamp, out []ovEntry) (skip bool, err error) {
	for {
		s.mu.RLock()
		rep := s.replicas[e]
		if rep == nil {
			s.mu.RUnlock()
			return false, fmt.Errorf("%w: %s", ErrNoReplica, e)
		}
		l := rep.view(view)
		page := uint32(at) / pageBlocks
		if l == nil || !l.touched(page) && l.baseHigh(page) <= uint64(above) {
			s.mu.RUnlock()
			return true, nil
		}
		ref, ok := s.lookup(l, at, out)
		s.mu.RUnlock()
		if ok {
			return false, nil
		}
		s.loadPage(ref)
	}
}

// touched reports whether the journal has something for the page.
func (l *layer) touched(page uint32) bool {
	for ; l != nil; l = l.inherit {
		if l.active != nil && l.active.touched(page) || l.sealed != nil && l.sealed.touched(page) {
			return true
		}
	}
	return false
}

// barrier returns when everything submitted before the call has been applied or has failed.
func (s *Store) barrier() error {
	s.qmu.Lock()
	idle := len(s.queue) == 0 && !s.busy && len(s.larges) == 0
	s.qmu.Unlock()
	if idle || s.failure() != nil {
		return nil
	}
	// What was queued before is applied when this control is, except large writes: they have been given numbers by then.
	if err := s.do(&control{apply: func(*batch) error { return nil }}); err != nil {
		if s.failure() != nil {
			return nil
		}
		return err
	}
	s.qmu.Lock()
	defer s.qmu.Unlock()
	last := s.largeSeq
	for {
		pending := false
		for order := range s.larges {
			pending = pending || order <= last
		}
		if !pending {
			return nil
		}
		s.qcond.Wait()
	}
}
