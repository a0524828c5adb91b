package meta

import (
	"cmp"
	"maps"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// chunkFact is what the choice of an owner knows of a chunk.
type chunkFact struct {
	Node        string
	Present     bool // its stream is up and it has reported
	Expected    bool // the leader is new and has not heard of it yet
	Maintenance bool
	Settled     bool            // present for some seconds without a break
	Owned       int             // volumes it owns
	Unreachable []block.ChunkID // chunks it says it cannot reach
}

// chooseOwner picks the chunk that should own a volume, or 0 if none can: only present chunks with a full member of
// some extent can serve, or, where none is present, chunks with an absent replica that a present delta completes (I10). In order of weight: not in maintenance; reaches the other present members; is the node of the exclusive
// grant; has members of the most extents; owns the fewest volumes; has the lowest number. avoid is chosen only if it is
// the only one (the chunk that just failed or whose process restarted).
func chooseOwner(extents []metadb.Extent, grants []metadb.Grant, chunks map[block.ChunkID]chunkFact, avoid block.ChunkID) block.ChunkID {
	held := heldBy(extents)
	if !slices.ContainsFunc(slices.Collect(maps.Keys(held)), func(id block.ChunkID) bool { return chunks[id].Present }) {
		held = revivableBy(extents, chunks)
	}
	type candidate struct {
		id      block.ChunkID
		rank    [4]int // lower is better
		extents int
		owned   int
	}
	var all []candidate
	want := exclusiveNode(grants)
	for id, n := range held {
		f := chunks[id]
		if !f.Present {
			continue
		}
		cut := 0
		for _, u := range f.Unreachable {
			if held[u] > 0 && chunks[u].Present {
				cut++
			}
		}
		all = append(all, candidate{
			id: id, rank: [4]int{flag(id == avoid), flag(f.Maintenance), cut, flag(want == "" || f.Node != want)},
			extents: n, owned: f.Owned,
		})
	}
	if len(all) == 0 {
		return 0
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(slices.Compare(a.rank[:], b.rank[:]), cmp.Compare(b.extents, a.extents), cmp.Compare(a.owned, b.owned), cmp.Compare(a.id, b.id))
	})
	return all[0].id
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// heldBy counts, per chunk, the extents it has a full member of.
func heldBy(extents []metadb.Extent) map[block.ChunkID]int {
	held := map[block.ChunkID]int{}
	for i := range extents {
		for _, m := range extents[i].Members {
			if m.Kind == metadb.KindFull {
				held[m.Chunk]++
			}
		}
	}
	return held
}

// revivableBy counts, per chunk, the extents it has an absent replica of that a present delta completes: the delta has everything above the
// watermark at which the replica left.
func revivableBy(extents []metadb.Extent, chunks map[block.ChunkID]chunkFact) map[block.ChunkID]int {
	by := map[block.ChunkID]int{}
	for i := range extents {
		for _, m := range extents[i].Members {
			if m.Kind != metadb.KindDelta || !chunks[m.Chunk].Present {
				continue
			}
			for _, a := range extents[i].Absent {
				if a.Watermark != 0 && a.Watermark >= m.Since && chunks[a.Chunk].Present {
					by[a.Chunk]++
				}
			}
		}
	}
	return by
}

// exclusiveNode is the node of the one exclusive grant, or "".
func exclusiveNode(grants []metadb.Grant) string {
	for _, g := range grants {
		if g.Mode == metadb.AccessExclusive && !g.Closing {
			return g.Node
		}
	}
	return ""
}

// moveTarget says where a volume with a healthy owner should move, or 0: off a node in maintenance, or next to the
// initiator of an exclusive grant. The new owner must be in sync for every extent, settled, and reach all present members, so
// that a move neither makes reads remote nor flaps.
func moveTarget(owner block.ChunkID, extents []metadb.Extent, grants []metadb.Grant, chunks map[block.ChunkID]chunkFact) block.ChunkID {
	want := exclusiveNode(grants)
	away := want != "" && chunks[owner].Node != want
	if !away && !chunks[owner].Maintenance {
		return 0 // as nearly always: the extents need not be looked at
	}
	held := heldBy(extents)
	good := func(id block.ChunkID) bool {
		f := chunks[id]
		if held[id] < len(extents) || !f.Present || !f.Settled || f.Maintenance {
			return false
		}
		for _, u := range f.Unreachable {
			if held[u] > 0 && chunks[u].Present {
				return false
			}
		}
		return true
	}
	if away {
		for id := range held {
			if chunks[id].Node == want && good(id) {
				return id
			}
		}
	}
	if !chunks[owner].Maintenance {
		return 0
	}
	best := block.ChunkID(0)
	for id := range held {
		if id == owner || !good(id) {
			continue
		}
		if best == 0 || cmp.Or(cmp.Compare(chunks[id].Owned, chunks[best].Owned), cmp.Compare(id, best)) < 0 {
			best = id
		}
	}
	return best
}
