package store

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
)

// TestOverlay does with an overlay what its life consists of, and compares it with plain maps: few entries and many, pages unmapped, emptied and used
// again.
func TestOverlay(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var pool overlayPool
	for round := range 400 {
		o := pool.take()
		blocks, pages, promised := map[uint32]ovEntry{}, map[uint32]uint64{}, map[uint32]uint16{}
		span := []uint32{block.PerExtent, 4 * pageBlocks, pageBlocks, 6}[round%4]
		for range []int{3, 6, 40, 3000}[rnd.IntN(4)] {
			b := rnd.Uint32N(span)
			p := b / pageBlocks
			_, unmapped := pages[p]
			before := unmapped
			for k := range blocks {
				before = before || k/pageBlocks == p
			}
			switch rnd.IntN(8) {
			case 0:
				stamp := rnd.Uint64()
				if got := o.putPage(p, stamp); got != !before {
					t.Fatalf("putPage(%d) = %v, had entries: %v", p, got, before)
				}
				pages[p] = stamp
				maps.DeleteFunc(blocks, func(k uint32, _ ovEntry) bool { return k/pageBlocks == p })
			case 1:
				bit := uint16(1) << rnd.IntN(16)
				o.marks.of(p).promised |= bit
				promised[p] |= bit
			default:
				e := ovEntry{stamp: rnd.Uint64()}
				if got := o.put(block.No(b), e); got != !before {
					t.Fatalf("put(%d) = %v, had entries: %v", b, got, before)
				}
				blocks[b] = e
			}
		}
		if got := maps.Collect(o.blocks.all()); !maps.Equal(got, blocks) || o.blocks.len() != len(blocks) {
			t.Fatalf("round %d: %d entries, want %d", round, o.blocks.len(), len(blocks))
		}
		count := map[uint32]uint16{}
		for b, want := range blocks {
			count[b/pageBlocks]++
			if got, ok := o.blocks.get(b); !ok || got != want {
				t.Fatalf("get(%d) = %v %v", b, got, ok)
			}
		}
		for p := range uint32(pagesPerExtent) {
			if got, want := o.marks.get(p), (pageMark{count[p], promised[p]}); got != want {
				t.Fatalf("round %d: mark of page %d is %+v, want %+v", round, p, got, want)
			}
			if _, ok := pages[p]; o.touched(p) != (ok || count[p] > 0) {
				t.Fatalf("touched(%d) = %v", p, o.touched(p))
			}
		}
		if len(o.pages) != len(pages) {
			t.Fatalf("%d pages, want %d", len(o.pages), len(pages))
		}
		pool.give(o)
	}
}

// TestOverlayPoolIsBounded gives back more, and larger, overlays than the pool may keep.
func TestOverlayPoolIsBounded(t *testing.T) {
	var pool overlayPool
	for range 12 {
		o := &overlay{}
		for b := range block.No(block.PerExtent) {
			o.put(b, ovEntry{stamp: 1})
		}
		pool.give(o)
	}
	for range overlaysKept + 10 {
		pool.give(&overlay{})
	}
	if pool.kept > overlayEntriesKept || len(pool.free) > overlaysKept {
		t.Fatalf("the pool keeps %d overlays with memory for %d entries", len(pool.free), pool.kept)
	}
	if pool.kept < block.PerExtent {
		t.Fatal("the pool keeps no large overlay")
	}
	for len(pool.free) > 0 {
		if o := pool.take(); o.blocks.len() != 0 || o.marks.n != 0 {
			t.Fatal("an overlay of the pool is not empty")
		}
	}
	if pool.kept != 0 {
		t.Fatalf("an empty pool counts %d entries", pool.kept)
	}
}
