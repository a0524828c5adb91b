package replication

import (
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
)

// A store takes a bounded range in one record, so that what was unmapped at once cannot be rolled forward at once.
func TestRollForwardComesInPiecesThatStoresTake(t *testing.T) {
	for _, state := range []BlockState{BlockData, BlockZero} {
		a, b := &peer{chunk: 1}, &peer{chunk: 2}
		e := &extent{}
		for i, p := range []*peer{a, b} {
			if e.addSlot(p, block.DiskID{byte(i + 1)}, Full, 0) != i {
				t.Fatal("no slot")
			}
		}
		const start, count = 100, 10*CopyBlocks + 7
		e.slots[0].found = &found{window: []Run{{Range: block.Range{Start: start, Count: count}, Stamp: 9, State: state}}}
		at := block.No(start)
		for _, task := range rollTasks(e, bit(0)|bit(1), 5) {
			r := task.run.Range
			if r.Start != at || r.Count == 0 || r.Count > CopyBlocks {
				t.Errorf("state %d: a piece %v, want it at %d with at most %d blocks", state, r, at, CopyBlocks)
			}
			if task.have != bit(0) || task.lack != bit(1) {
				t.Errorf("state %d: from %b to %b", state, task.have, task.lack)
			}
			at = r.End()
		}
		if at != start+count {
			t.Errorf("state %d: covered up to %d of %d", state, at, start+count)
		}
	}
}
