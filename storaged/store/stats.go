package store

import (
	"time"

	"github.com/iomesh/iomesh/internal/hist"
	"github.com/iomesh/iomesh/storaged/block"
)

// Flushes is the time of each journal write since Open: until it was durable. For concurrent use; the store keeps it.
func (s *Store) Flushes() *hist.Histogram { return &s.flushes }

func (s *Store) stats() Stats {
	units, slots := s.alloc.freeCounts()
	st := Stats{
		CapacityBytes:     int64(s.geo.units) * block.UnitSizeBytes,
		ReservedBytes:     int64(s.alloc.reserve) * block.UnitSizeBytes,
		MetaCapacityBytes: int64(s.geo.slots) * slotBytes,
		MetaUsedBytes:     int64(s.geo.slots-slots) * slotBytes,
		JournalBytes:      int64(s.ring.blocks) * slotBytes,
		JournalUsedBytes:  int64(s.ring.used()) * slotBytes,
		Writes:            s.n.writes.Load(), WrittenBytes: s.n.writtenBytes.Load(),
		Reads: s.n.reads.Load(), ReadBytes: s.n.readBytes.Load(),
		JournalBatches: s.n.batches.Load(), JournalWrittenBytes: s.n.journalBytes.Load(),
		DestagedBlocks: s.n.destaged.Load(), Checkpoints: s.n.checkpoints.Load(),
		ReadErrors: s.n.readErrors.Load(), WriteErrors: s.n.writeErrors.Load(),
		ChecksumErrors: s.n.checksumErrors.Load(), MetaErrors: s.n.metaErrors.Load(),
		JournalLatency: time.Duration(s.n.journalNanos.Load()), ReadLatency: time.Duration(s.n.readNanos.Load()),
		CacheHits: s.cache.hits.Load(), CacheMisses: s.cache.misses.Load(),
		Direct: s.disk.Direct(), Fenced: s.failure(),
	}
	s.mu.RLock()
	st.Replicas, st.Layers = len(s.replicas), len(s.layers)
	promised := s.active.units + s.sealed.units
	for _, l := range s.dead {
		st.ReclaimableBytes += l.mapped * block.UnitSizeBytes
	}
	s.mu.RUnlock()
	used := int64(s.geo.units-units)*block.UnitSizeBytes + promised*block.UnitSizeBytes
	st.UsedBytes = max(min(used, st.CapacityBytes)-st.ReclaimableBytes, 0)
	return st
}
