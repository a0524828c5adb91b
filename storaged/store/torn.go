package store

import (
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// tornUnits reports whether data of the batch's large writes is not what its entries say. It is asked of the last batch only: the next one is not
// written before the data of this one is durable.
//
// A block that a later entry of the batch gives to the same layer again may have been destaged to its place in the unit, and says nothing.
func (s *Store) tornUnits(entries []entry) (bool, error) {
	seeders := s.seeders(entries)
	var buf []byte
	for i := range entries {
		e := &entries[i]
		if !e.inUnits() {
			continue
		}
		seeder, ok := seeders(e.extent)
		if !ok {
			continue
		}
		if n := int(e.count) * block.Size; n > len(buf) {
			buf = vdisk.Aligned(n)
		}
		if err := s.disk.ReadAt(buf[:int(e.count)*block.Size], s.geo.blockOff(e.data)); err != nil {
			return false, fmt.Errorf("data of the last journal batch: %w", err)
		}
		for k := range int(e.count) {
			if seeder.Sum(block.No(e.start)+block.No(k), buf[k*block.Size:(k+1)*block.Size]) != e.sum(k) && !again(entries[i+1:], e.handle, e.start+uint32(k)) {
				return true, nil
			}
		}
	}
	return false, nil
}

// again reports whether one of the entries gives the block of the layer new content.
func again(entries []entry, handle, b uint32) bool {
	for i := range entries {
		e := &entries[i]
		if e.typ == ePut && e.handle == handle && b >= e.start && b-e.start < e.count {
			return true
		}
	}
	return false
}

// inUnits reports whether the entry points to data outside the journal.
func (e *entry) inUnits() bool {
	return e.typ == ePut && e.flags&fWritten != 0 && e.flags&fUnits != 0
}

// seeders finds the seeds of checksums of the replicas in a batch, of which some may come into being with it.
func (s *Store) seeders(entries []entry) func(block.ExtentID) (block.Seeder, bool) {
	fresh := map[block.ExtentID]block.Seeder{}
	for i := range entries {
		if e := &entries[i]; e.typ == eReplica {
			fresh[e.extent] = block.NewSeeder(block.VolumeID(e.extra), e.extent.Index)
		}
	}
	return func(id block.ExtentID) (block.Seeder, bool) {
		if x, ok := fresh[id]; ok {
			return x, true
		}
		if x := s.replicas[id]; x != nil {
			return x.seeder, true
		}
		return block.Seeder{}, false
	}
}

// dropTail makes sure that the torn batch that replay ended at stays torn: the units its entries name are free, and whatever is written there next
// must not complete it.
func (s *Store) dropTail() error {
	if !s.ring.torn {
		return nil
	}
	s.ring.torn = false
	if err := s.jdisk.WriteDurable(vdisk.Aligned(slotBytes), s.journalOff(s.ring.head)); err != nil {
		return fmt.Errorf("journal: end it before a torn batch: %w", err)
	}
	return nil
}
