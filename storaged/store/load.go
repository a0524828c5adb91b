package store

import (
	"fmt"
	"sync"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

var slotBuffers = sync.Pool{New: func() any { b := vdisk.Aligned(slotBytes); return &b }}

// readPage reads a map page and checks that it is the one the table meant.
func (s *Store) readPage(pg *mapPage, ref slotRef, f family, page uint32) error {
	bp := slotBuffers.Get().(*[]byte)
	defer slotBuffers.Put(bp)
	if err := s.readDisk(*bp, s.geo.slotOff(ref.slot)); err != nil {
		return err
	}
	h, err := pg.decode(*bp, s.geo.units)
	switch {
	case err != nil:
		return fmt.Errorf("map page in slot %d: %w", ref.slot, err)
	case slotCRC(*bp) != ref.sum || h.volume != f.lineage || h.index != f.index || h.number != page:
		return fmt.Errorf("%w: slot %d holds page %d of %s/%d of checkpoint %d, not page %d of %s/%d", ErrCorrupt,
			ref.slot, h.number, h.volume, h.index, h.checkpoint, page, f.lineage, f.index)
	}
	return nil
}

// loadPage brings a page into the cache. A page that does not verify and is still the one the table names is replaced by a
// lost page, so that its blocks are bad, not zero.
func (s *Store) loadPage(ref pageRef) {
	var pg mapPage
	err := s.readPage(&pg, ref.slotRef, ref.layer.rep.family(), ref.page)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := ref.layer.nodes[ref.page/nodePages]
	if n == nil || n.slot[ref.page%nodePages] != ref.slot || n.crc[ref.page%nodePages] != ref.sum || s.cache.get(ref.slot) != nil {
		return
	}
	if err != nil {
		lostPage(&pg)
		s.n.metaErrors.Add(1)
		s.corrupt(fmt.Sprintf("map page %d: %v", ref.page, err), ref.layer.rep.id)
	}
	s.cache.put(ref.slot, &pg)
}

// corrupt reports damage.
func (s *Store) corrupt(what string, extents ...block.ExtentID) {
	s.log.Error("damage on disk", "disk", s.disk.String(), "diskID", s.sb.DiskID.String(), "what", what, "extents", len(extents))
	if s.opts.OnCorrupt != nil {
		s.opts.OnCorrupt(Corruption{What: what, Extents: extents})
	}
}
