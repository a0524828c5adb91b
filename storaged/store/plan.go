package store

import (
	"fmt"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
)

// plan brings the sealed overlays into map pages, older layers first: a layer that begins as another shares its pages once
// those are complete.
func (d *destager) plan() error {
	s := d.s
	for _, x := range d.st.replicas {
		base := x.r.base
		for i, l := range base {
			if l.sealed == nil && l.inherit == nil && !x.reshaped {
				continue
			}
			sh := d.layer(l)
			sh.reshaped = x.reshaped
			if i > 0 {
				sh.prev = base[i-1]
			}
			if i+1 < len(base) {
				sh.next = base[i+1]
			}
		}
	}
	for _, x := range d.st.replicas {
		for _, l := range x.r.base {
			if err := d.planLayer(l); err != nil {
				return err
			}
		}
	}
	for _, x := range d.st.replicas {
		if x.reshaped {
			if err := d.recount(x.r.base); err != nil {
				return err
			}
		}
	}
	// Units of large writes that were replaced before they came into a page.
	s.alloc.mu.Lock()
	for _, r := range s.sealed.runs {
		for u := r.start; u < r.start+r.count; u++ {
			if s.alloc.unitRef[u] == 0 {
				d.units = append(d.units, u)
			}
		}
	}
	s.alloc.mu.Unlock()
	return nil
}

// layer returns the shadow of a layer.
func (d *destager) layer(l *layer) *shadowLayer { return d.shadow.of(l) }

// planLayer plans one layer, after those it needs.
func (d *destager) planLayer(l *layer) error {
	if l.sealed == nil && l.inherit == nil {
		return nil
	}
	sh := d.layer(l)
	if sh.planned {
		return nil
	}
	sh.planned = true
	if l.inherit != nil {
		if err := d.planLayer(l.inherit); err != nil {
			return err
		}
		from := d.layer(l.inherit)
		sh.nodes, sh.mapped = from.nodes, from.mapped
		for _, n := range sh.nodes {
			if n != nil {
				n.refs.Add(1)
			}
		}
	}
	if l.sealed == nil {
		return nil
	}
	d.alone = d.alone[:0]
	for b, e := range l.sealed.blocks.all() {
		d.alone = append(d.alone, destageEntry{b, e})
	}
	slices.SortFunc(d.alone, func(a, b destageEntry) int { return int(a.b) - int(b.b) })
	d.runs = l.sealed.runs.sorted(d.runs[:0])
	defer clear(d.runs)
	pages := make([]uint32, 0, len(l.sealed.pages))
	for p := range l.sealed.pages {
		pages = append(pages, p)
	}
	slices.Sort(pages)
	alone, runs := d.alone, d.runs
	for len(alone) > 0 || len(runs) > 0 || len(pages) > 0 {
		p := ^uint32(0)
		if len(alone) > 0 {
			p = alone[0].b / pageBlocks
		}
		if len(runs) > 0 {
			p = min(p, runs[0].page)
		}
		var unmap *uint64
		if len(pages) > 0 && pages[0] <= p {
			p = pages[0]
			stamp := l.sealed.pages[p]
			unmap = &stamp
			pages = pages[1:]
		}
		n := 0
		for n < len(alone) && alone[n].b/pageBlocks == p {
			n++
		}
		ents := alone[:n]
		alone = alone[n:]
		if len(runs) > 0 && runs[0].page == p {
			d.ents = runs[0].merge(d.ents[:0], ents)
			ents, runs = d.ents, runs[1:]
		}
		if err := d.planPage(l, sh, p, unmap, ents); err != nil {
			return fmt.Errorf("page %d of %s: %w", p, l.rep.id, err)
		}
	}
	return nil
}

// writable returns the node of the page for change.
func (d *destager) writable(sh *shadowLayer, page uint32) *node {
	s := d.s
	n := sh.nodes[page/nodePages]
	if n != nil && n.disk == 0 && n.refs.Load() == 1 {
		return n
	}
	c := d.nodes.copy(n)
	if n != nil {
		if n.refs.Load() > 1 {
			n.refs.Add(-1)
			s.alloc.mu.Lock()
			for _, slot := range c.slot {
				if slot != 0 && slot != slotLost {
					s.alloc.slotRef[slot]++
				}
			}
			s.alloc.mu.Unlock()
		} else {
			d.slots = append(d.slots, n.disk)
			d.nodes.replaced(n)
		}
	}
	sh.nodes[page/nodePages] = c
	return c
}

// loadInto fills pg with a page of a layer as planned so far.
func (d *destager) loadInto(pg *mapPage, l *layer, n *node, page uint32) error {
	if n == nil {
		*pg = mapPage{}
		return nil
	}
	i := page % nodePages
	switch slot := n.slot[i]; slot {
	case 0:
		*pg = mapPage{}
		for k := range pg.stamp {
			pg.stamp[k] = n.high[i]
		}
	case slotLost:
		lostPage(pg)
	default:
		s := d.s
		s.mu.RLock()
		c := s.cache.get(slot)
		if c != nil {
			*pg = *c
		}
		s.mu.RUnlock()
		if c != nil {
			return nil
		}
		// Like loadPage, but without a place in the cache: the page is about to be replaced.
		if err := s.readPage(pg, slotRef{slot, n.crc[i]}, l.rep.family(), page); err != nil {
			s.n.metaErrors.Add(1)
			s.corrupt(fmt.Sprintf("map page %d: %v", page, err), l.rep.id)
			lostPage(pg)
		}
	}
	return nil
}

// planPage makes a new version of one page of a layer.
func (d *destager) planPage(l *layer, sh *shadowLayer, page uint32, unmap *uint64, ents []destageEntry) error {
	s := d.s
	n := d.writable(sh, page)
	i := page % nodePages
	if err := d.loadInto(&d.pg, l, n, page); err != nil {
		return err
	}
	pg := &d.pg
	old := pg.phys
	if slot := n.slot[i]; slot != 0 && slot != slotLost {
		s.alloc.mu.Lock()
		s.alloc.slotRef[slot]--
		shared := s.alloc.slotRef[slot] > 0
		s.alloc.mu.Unlock()
		if shared {
			// The old page stays for others, so that its units now have one page more.
			for _, p := range pg.phys {
				if p != 0 {
					d.ref(p - 1)
				}
			}
		} else {
			d.slots = append(d.slots, slot)
		}
	}
	if unmap != nil {
		for _, p := range pg.phys {
			if p != 0 {
				d.deref(p - 1)
			}
		}
		*pg = mapPage{}
		for k := range pg.stamp {
			pg.stamp[k] = *unmap
		}
	}
	for len(ents) > 0 {
		u := ents[0].b / block.UnitBlocks
		k := 1
		for k < len(ents) && ents[k].b/block.UnitBlocks == u {
			k++
		}
		if err := d.planUnit(l, sh, page, int(u%pageUnits), ents[:k]); err != nil {
			return err
		}
		ents = ents[k:]
	}
	if pg.uniform() {
		n.slot[i], n.crc[i], n.high[i], n.mask[i] = 0, 0, pg.stamp[0], 0
	} else {
		slot, ok := s.alloc.allocSlot()
		if !ok {
			return fmt.Errorf("%w: no slot for a map page", ErrNoSpace)
		}
		h := slotHeader{
			checkpoint: d.st.root.checkpoint, volume: l.rep.lineage, index: l.rep.id.Index, number: page,
			epoch: l.rep.baseTag.epoch, generation: l.rep.baseTag.generation,
		}
		p, err := d.out.next(slot)
		if err != nil {
			return err
		}
		pg.encode(p, &h)
		n.slot[i], n.crc[i], n.high[i], n.mask[i] = slot, slotCRC(p), pg.highest(), pg.mask()
		s.alloc.mu.Lock()
		s.alloc.slotRef[slot] = 1
		s.alloc.mu.Unlock()
		s.mu.Lock()
		s.cache.put(slot, pg)
		s.cache.pin(slot, true)
		s.mu.Unlock()
		d.pinned = append(d.pinned, slot)
		if len(d.pinned) >= pinnedMax {
			if err := d.unpin(); err != nil {
				return err
			}
		}
	}
	return d.count(sh, page, &old, &pg.phys)
}

// pinnedMax is the number of pages kept in memory until they are written.
const pinnedMax = 256

// unpin writes the pages that are only in memory.
func (d *destager) unpin() error {
	if err := d.out.flush(); err != nil {
		return err
	}
	d.s.mu.Lock()
	for _, slot := range d.pinned {
		d.s.cache.pin(slot, false)
	}
	d.s.mu.Unlock()
	d.pinned = d.pinned[:0]
	return nil
}

func (d *destager) ref(u uint32) {
	a := d.s.alloc
	a.mu.Lock()
	a.unitRef[u]++
	a.mu.Unlock()
	d.refs[u/refsPerPage/64] |= 1 << (u / refsPerPage % 64)
}

func (d *destager) deref(u uint32) {
	a := d.s.alloc
	a.mu.Lock()
	a.unitRef[u]--
	free := a.unitRef[u] == 0
	a.mu.Unlock()
	d.refs[u/refsPerPage/64] |= 1 << (u / refsPerPage % 64)
	if free {
		d.units = append(d.units, u)
	}
}

func (d *destager) refcount(u uint32) uint16 {
	a := d.s.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unitRef[u]
}
