package store

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
)

// ovModel is an overlay as plain maps: entries by page and block, pages unmapped, and promises.
type ovModel struct {
	blocks   map[uint32]map[uint32]ovEntry
	pages    map[uint32]uint64
	promised map[uint32]uint16
}

func (m *ovModel) put(b uint32, e ovEntry) {
	p := b / pageBlocks
	if m.blocks[p] == nil {
		m.blocks[p] = map[uint32]ovEntry{}
	}
	m.blocks[p][b] = e
}

func (m *ovModel) touched(p uint32) bool {
	_, unmapped := m.pages[p]
	return unmapped || len(m.blocks[p]) > 0
}

// TestOverlay does with an overlay what its life consists of, and compares it with plain maps: blocks, runs over them and under them, few entries and
// many, pages unmapped, emptied and used again.
func TestOverlay(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var pool overlayPool
	stamp := uint64(0)
	for round := range 400 {
		o := pool.take()
		m := &ovModel{map[uint32]map[uint32]ovEntry{}, map[uint32]uint64{}, map[uint32]uint16{}}
		span := []uint32{block.PerExtent, 4 * pageBlocks, pageBlocks, 6}[round%4]
		runs := round % 3 // of eight puts
		for range []int{3, 6, 40, 3000}[rnd.IntN(4)] {
			stamp++
			b := rnd.Uint32N(span)
			p := b / pageBlocks
			before := m.touched(p)
			e := ovEntry{stamp: stamp, loc: locWritten | rnd.Uint64N(1<<40), crc: rnd.Uint32()}
			switch k := rnd.IntN(16); {
			case k == 0:
				if got := o.putPage(p, stamp); got != !before {
					t.Fatalf("putPage(%d) = %v, had entries: %v", p, got, before)
				}
				m.pages[p] = stamp
				delete(m.blocks, p)
			case k == 1:
				bit := uint16(1) << rnd.IntN(16)
				o.marks.of(p).promised |= bit
				m.promised[p] |= bit
			case k < 2+2*runs:
				u := unitOfPage(b)
				first := p*pageBlocks + u*block.UnitBlocks
				sums := make([]uint32, (1+rnd.Uint32N(min(pageUnits-u, 1+rnd.Uint32N(pageUnits))))*block.UnitBlocks)
				for i := range sums {
					sums[i] = rnd.Uint32()
					m.put(first+uint32(i), ovEntry{e.stamp, e.loc + uint64(i), sums[i]})
				}
				if got := o.putUnits(first, e.stamp, e.loc, sums); got != !before {
					t.Fatalf("putUnits(%d) = %v, had entries: %v", first, got, before)
				}
			default:
				if got := o.put(block.No(b), e); got != !before {
					t.Fatalf("put(%d) = %v, had entries: %v", b, got, before)
				}
				m.put(b, e)
			}
		}
		m.check(t, o, rnd)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		pool.give(o)
	}
}

// check compares what each way to look into the overlay tells with the model.
func (m *ovModel) check(t *testing.T, o *overlay, rnd *rand.Rand) {
	alone := map[uint32][]destageEntry{}
	for b, e := range o.blocks.all() {
		alone[b/pageBlocks] = append(alone[b/pageBlocks], destageEntry{b, e})
	}
	runs := map[uint32]*pageRuns{}
	last := -1
	for _, r := range o.runs.sorted(nil) {
		if int(r.page) <= last {
			t.Errorf("runs of page %d after those of %d", r.page, last)
		}
		last = int(r.page)
		runs[r.page] = r
	}
	for p := range uint32(pagesPerExtent) {
		want := m.blocks[p]
		mark := o.marks.get(p)
		if int(mark.count) != len(want) || mark.promised != m.promised[p] || int(o.alone(mark)) != len(alone[p]) || o.touched(p) != m.touched(p) {
			t.Errorf("mark of page %d is %+v with %d entries alone, want %d and %x", p, mark, o.alone(mark), len(want), m.promised[p])
		}
		ents := alone[p]
		delete(alone, p)
		slices.SortFunc(ents, func(a, b destageEntry) int { return int(a.b) - int(b.b) })
		if runs[p] != nil {
			ents = runs[p].merge(nil, ents)
		}
		if len(ents) != len(want) || !slices.IsSortedFunc(ents, func(a, b destageEntry) int { return int(a.b) - int(b.b) }) {
			t.Errorf("page %d has %d entries for the destager, want %d in order", p, len(ents), len(want))
		}
		for _, x := range ents {
			if e, ok := want[x.b]; !ok || e != x.e {
				t.Errorf("block %d is %v for the destager, want %v %v", x.b, x.e, e, ok)
			}
		}
		if len(want) > 0 || rnd.IntN(16) == 0 {
			m.checkPage(t, o, p, rnd)
		}
	}
	if o.runs != nil {
		room := 0
		for _, r := range o.runs.pages[:cap(o.runs.pages)] {
			room += cap(r.runs)
		}
		if room != o.runs.room {
			t.Errorf("memory for %d runs, counted %d", room, o.runs.room)
		}
	}
	if len(alone) > 0 || !maps.Equal(o.pages, m.pages) && len(o.pages)+len(m.pages) > 0 {
		t.Errorf("pages unmapped: %v, want %v", o.pages, m.pages)
	}
}

// checkPage looks up a part of a page, of which some blocks are known already.
func (m *ovModel) checkPage(t *testing.T, o *overlay, p uint32, rnd *rand.Rand) {
	first := rnd.Uint32N(pageBlocks)
	out := make([]ovEntry, 1+rnd.Uint32N(pageBlocks-first))
	first += p * pageBlocks
	var have [pageBlocks]bool
	for i := range out {
		have[i] = rnd.IntN(8) == 0
	}
	known, n, highest := have, 0, uint64(0)
	got := o.fill(first, out, &have)
	for i := range out {
		b := first + uint32(i)
		want, ok := m.blocks[p][b]
		if e, found := o.get(b, o.marks.get(p)); found != ok || e != want {
			t.Errorf("get(%d) = %v %v, want %v %v", b, e, found, want, ok)
		}
		highest = max(highest, want.stamp)
		if known[i] {
			want = ovEntry{}
		} else if ok {
			n++
		}
		if out[i] != want || have[i] != (known[i] || ok) {
			t.Errorf("fill gives %v %v for block %d, want %v", out[i], have[i], b, want)
		}
	}
	if got != n {
		t.Errorf("fill gives %d blocks, want %d", got, n)
	}
	last := first + uint32(len(out)) - 1
	if !o.below(first, last, highest+1) || highest > 0 && o.below(first, last, highest) {
		t.Errorf("below is wrong about blocks %d to %d, whose highest stamp is %d", first, last, highest)
	}
}

// TestRedoneRuns lets a journal entry with a rotten block have its effect again: each block is found as it was, the rotten one is bad.
func TestRedoneRuns(t *testing.T) {
	s := mustOpen(t, newSim(t, 64<<20, 8<<20), quiet())
	defer mustClose(t, s)
	mustReplica(t, s, ext(1, 0))
	if err := run(s, dataWrite(ext(1, 0), 0, rng(0, 1), 1)); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	const count, data, abs, rotten = 3*block.UnitBlocks + 10, 7, 1000, 30
	l := s.replicas[ext(1, 0)].live()
	for _, flags := range []uint8{fWritten, fWritten | fStamps, fWritten | fRepair, fStamps} {
		e := entry{typ: ePut, flags: flags, handle: l.handle, extent: ext(1, 0), start: pageBlocks - 2*block.UnitBlocks - 5, count: count, stamp: 2, data: data}
		for i := range uint32(count) {
			if flags&fWritten != 0 {
				e.extra = binary.LittleEndian.AppendUint32(e.extra, 100+i)
			}
		}
		for i := range uint64(count) {
			if flags&fStamps != 0 {
				e.extra = binary.LittleEndian.AppendUint64(e.extra, 1000+i)
			}
		}
		for _, damaged := range []map[uint64]bool{nil, {data + rotten: true}} {
			s.redoPut(l, &e, abs, damaged)
			for i := range count {
				var got [1]ovEntry
				if _, ok := s.lookup(l, block.No(e.start)+block.No(i), got[:]); !ok {
					t.Fatal("a map page is needed")
				}
				want := ovEntry{stamp: e.stampOf(i), loc: e.locFlags()}
				if flags&fWritten != 0 {
					want.loc, want.crc = want.loc|locWritten|locJournal|uint64(abs+data+i), 100+uint32(i)
					if i == rotten && damaged != nil {
						want.loc, want.crc = locBad|e.locFlags(), 0
					}
				}
				if got[0] != want {
					t.Fatalf("flags %x: block %d is %x, want %x", flags, i, got[0], want)
				}
			}
		}
	}
	if l.max != 1000+count-1 || l.rep.highest != l.max {
		t.Fatalf("the highest stamp is %d, of the replica %d", l.max, l.rep.highest)
	}
}

// TestOverlayPoolIsBounded gives back more, and larger, overlays than the pool may keep.
func TestOverlayPoolIsBounded(t *testing.T) {
	for _, runs := range []bool{false, true} {
		var pool overlayPool
		for range map[bool]int{false: 12, true: 40}[runs] {
			o := &overlay{}
			if runs {
				for p := range uint32(pagesPerExtent) {
					o.putUnits(p*pageBlocks, 1, locWritten, make([]uint32, pageBlocks))
				}
			} else {
				for b := range block.No(block.PerExtent) {
					o.put(b, ovEntry{stamp: 1})
				}
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
		held := 0
		for len(pool.free) > 0 {
			o := pool.take()
			if o.blocks.len() != 0 || o.marks.n != 0 || len(o.runs.sorted(nil)) != 0 {
				t.Fatal("an overlay of the pool is not empty")
			}
			if o.runs != nil {
				for _, r := range o.runs.pages[:cap(o.runs.pages)] {
					held += cap(r.runs)
				}
			}
		}
		if runs && (2*held > overlayEntriesKept || held < overlayEntriesKept/4) {
			t.Fatalf("the pool kept memory for %d runs", held)
		}
		if pool.kept != 0 {
			t.Fatalf("an empty pool counts %d entries", pool.kept)
		}
	}
}
