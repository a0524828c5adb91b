package meta

import (
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

func TestPlanDelta(t *testing.T) {
	away := func(e metadb.Extent, n byte, w block.Stamp) metadb.Extent {
		e.Absent = append(e.Absent, metadb.Absent{Disk: block.DiskID{n}, Chunk: block.ChunkID(n), Watermark: w})
		return e
	}
	delta := set(0, 1, 4)
	delta.Members[1].Kind, delta.Members[1].Since = metadb.KindDelta, 7
	for _, c := range []struct {
		name string
		e    metadb.Extent
		h    diskHealth // of disk 3
		keep int        // 0: no delta
	}{
		{"a replica that is waited for gets a delta elsewhere", away(set(0, 1, 2), 3, 7), diskReturning, 3},
		{"one that is coming back needs none", away(set(0, 1, 2), 3, 7), diskGood, 0},
		{"one that is gone is replaced instead", away(set(0, 1, 2), 3, 7), diskGone, 0},
		{"one of which nobody knows what it has cannot be completed", away(set(0, 1, 2), 3, 0), diskReturning, 0},
		{"one delta is enough", away(delta, 3, 7), diskReturning, 0},
		{"a whole set needs none", away(set(0, 1, 2, 5), 3, 7), diskReturning, 0},
		{"a whole extent needs none", set(0, 1, 2, 3), diskReturning, 0},
	} {
		step, due := planDelta(&c.e, 3, func(d block.DiskID) diskHealth {
			if d[0] == 3 {
				return c.h
			}
			return diskGood
		})
		if due != (c.keep > 0) || due && (!step.Delta || step.Add != 1 || len(step.Keep) != c.keep) {
			t.Errorf("%s: %+v, due %v", c.name, step, due)
		}
	}
}

func TestChooseOwnerWhereADeltaIsLeft(t *testing.T) {
	// Chunk 1 has the only full replica, 2 the delta; 3 left before the delta began, 4 after.
	e := set(0, 1, 2)
	e.Members[1].Kind, e.Members[1].Since = metadb.KindDelta, 7
	e.Absent = []metadb.Absent{{Chunk: 3, Watermark: 6}, {Chunk: 4, Watermark: 7}, {Chunk: 5}}
	for _, c := range []struct {
		name   string
		chunks map[block.ChunkID]chunkFact
		want   block.ChunkID
	}{
		{"the full member while it is there", online(1, 2, 3, 4), 1},
		{"else the one that the delta completes", online(2, 3, 4, 5), 4},
		{"not without the delta", online(3, 4, 5), 0},
		{"not one that left before", online(2, 3, 5), 0},
	} {
		if got := chooseOwner([]metadb.Extent{e}, nil, c.chunks, 1); got != c.want {
			t.Errorf("%s: chose %d, want %d", c.name, got, c.want)
		}
	}
}
