package store

import "github.com/iomesh/iomesh/storaged/block"

// put records a block in the layer's active overlay.
func (s *Store) put(l *layer, b block.No, e ovEntry) {
	o := s.overlayOf(l)
	s.active.entries++
	if o.put(b, e) {
		s.active.pages++
	}
	l.max = max(l.max, e.stamp)
	l.rep.highest = max(l.rep.highest, e.stamp)
}

// putWritten records blocks written together: one stamp, data in consecutive places from loc on.
func (s *Store) putWritten(l *layer, first block.No, stamp, loc uint64, sums []uint32) {
	for len(sums) > 0 {
		n := 1
		if uint32(first)%block.UnitBlocks == 0 && len(sums) >= block.UnitBlocks {
			n = len(sums) &^ (block.UnitBlocks - 1)
			s.putUnits(l, first, stamp, loc, sums[:n])
		} else {
			s.put(l, first, ovEntry{stamp, loc, sums[0]})
		}
		first, loc, sums = first+block.No(n), loc+uint64(n), sums[n:]
	}
}

// putUnits is putWritten for whole units. They count as many entries as they have blocks, though they take an eighth of the
// memory: the entries of a generation also bound how many units that large writes replaced wait for its checkpoint.
func (s *Store) putUnits(l *layer, first block.No, stamp, loc uint64, sums []uint32) {
	o := s.overlayOf(l)
	s.active.entries += len(sums)
	for len(sums) > 0 {
		n := min(len(sums), pageBlocks-int(first%pageBlocks))
		if o.putUnits(uint32(first), stamp, loc, sums[:n]) {
			s.active.pages++
		}
		first, loc, sums = first+block.No(n), loc+uint64(n), sums[n:]
	}
	l.max = max(l.max, stamp)
	l.rep.highest = max(l.rep.highest, stamp)
}

func (s *Store) putPage(l *layer, p uint32, stamp uint64) {
	o := s.overlayOf(l)
	s.active.entries++
	if o.putPage(p, stamp) {
		s.active.pages++
	}
	l.max = max(l.max, stamp)
	l.rep.highest = max(l.rep.highest, stamp)
}

func (s *Store) overlayOf(l *layer) *overlay {
	if l.active == nil {
		l.active = s.overlays.take()
		s.active.layers = append(s.active.layers, l)
	}
	return l.active
}

// lookup fills out with the blocks [start, start+len(out)) of l, which lie in one page. If a map page is needed that is not
// in memory it returns where that is (see pageRef) and false.
func (s *Store) lookup(l *layer, start block.No, out []ovEntry) (pageRef, bool) {
	page := uint32(start) / pageBlocks
	if len(out) == 1 {
		return s.lookupOne(l, start, page, &out[0])
	}
	var have [pageBlocks]bool
	left := len(out)
	for ; ; l = l.inherit {
		for _, o := range [2]*overlay{l.active, l.sealed} {
			if o == nil || left == 0 {
				continue
			}
			left -= o.fill(uint32(start), out, &have)
			if len(o.pages) != 0 && left > 0 {
				if stamp, ok := o.pages[page]; ok {
					for i := range out {
						if !have[i] {
							out[i], have[i] = ovEntry{stamp: stamp}, true
						}
					}
					left = 0
				}
			}
		}
		if left == 0 {
			return pageRef{}, true
		}
		if l.inherit == nil {
			break
		}
	}
	pg, uniform, ref := s.basePage(l, page)
	if pg == nil && ref.slot != 0 {
		return ref, false
	}
	first := int(uint32(start) % pageBlocks)
	for i := range out {
		if have[i] {
			continue
		}
		if pg == nil {
			out[i] = uniform
		} else {
			out[i] = pg.entry(first + i)
		}
	}
	return pageRef{}, true
}

func (s *Store) lookupOne(l *layer, b block.No, page uint32, out *ovEntry) (pageRef, bool) {
	for ; ; l = l.inherit {
		for _, o := range [2]*overlay{l.active, l.sealed} {
			if o == nil {
				continue
			}
			if m := o.marks.get(page); m.count != 0 {
				if e, ok := o.get(uint32(b), m); ok {
					*out = e
					return pageRef{}, true
				}
			}
			if len(o.pages) != 0 {
				if stamp, ok := o.pages[page]; ok {
					*out = ovEntry{stamp: stamp}
					return pageRef{}, true
				}
			}
		}
		if l.inherit == nil {
			break
		}
	}
	pg, uniform, ref := s.basePage(l, page)
	switch {
	case pg != nil:
		*out = pg.entry(int(uint32(b) % pageBlocks))
	case ref.slot != 0:
		return ref, false
	default:
		*out = uniform
	}
	return pageRef{}, true
}

// pageRef names a map page to be loaded: of which layer, and by which slot and checksum its table knew it.
type pageRef struct {
	slotRef
	layer *layer
	page  uint32
}

// basePage finds page of l as of the last checkpoint: the page if it is in memory, else where it is, else what every
// block of it is.
func (s *Store) basePage(l *layer, page uint32) (pg *mapPage, uniform ovEntry, ref pageRef) {
	n := l.nodes[page/nodePages]
	if n == nil {
		return nil, ovEntry{}, pageRef{}
	}
	switch slot := n.slot[page%nodePages]; slot {
	case 0:
		return nil, ovEntry{stamp: n.high[page%nodePages]}, pageRef{}
	case slotLost:
		return nil, ovEntry{loc: locBad}, pageRef{}
	default:
		if pg := s.cache.get(slot); pg != nil {
			s.cache.hits.Add(1)
			return pg, ovEntry{}, pageRef{}
		}
		s.cache.misses.Add(1)
		return nil, ovEntry{}, pageRef{slotRef{slot, n.crc[page%nodePages]}, l, page}
	}
}

// baseHigh is an upper bound of the stamps in a page of l as of the last checkpoint; inherited layers included.
func (l *layer) baseHigh(page uint32) uint64 {
	for l.inherit != nil {
		l = l.inherit
	}
	n := l.nodes[page/nodePages]
	if n == nil {
		return 0
	}
	if n.slot[page%nodePages] == slotLost {
		return ^uint64(0)
	}
	return n.high[page%nodePages]
}
