package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// modelBlock is what the model knows of a block.
type modelBlock struct {
	stamp   uint64
	written bool
}

type modelLayer struct {
	seq    block.SnapSeq
	blocks map[block.No]modelBlock
}

type modelReplica struct {
	lineage block.VolumeID
	layers  []*modelLayer // ascending
	join    uint64
	joining bool
	// bent: a copy into an older view was made that no source would send, after which a view may have older blocks than
	// the view before it. Space accounting is exact only without.
	bent bool
}

// model is the store's contract written down naively: layers are whole maps, copied at each snapshot.
type model struct {
	replicas map[block.ExtentID]*modelReplica
}

func (l *modelLayer) clone(seq block.SnapSeq) *modelLayer {
	c := &modelLayer{seq: seq, blocks: map[block.No]modelBlock{}}
	if l != nil {
		for b, x := range l.blocks {
			c.blocks[b] = x
		}
	}
	return c
}

func (r *modelReplica) view(v block.SnapSeq) *modelLayer {
	var out *modelLayer
	for _, l := range r.layers {
		if l.seq <= v {
			out = l
		}
	}
	return out
}

func (r *modelReplica) at(seq block.SnapSeq) int {
	i := 0
	for i < len(r.layers) && r.layers[i].seq < seq {
		i++
	}
	return i
}

func (m *model) apply(w *Write) {
	r := m.replicas[w.Extent]
	base := r.view(w.SnapSeq)
	if base == nil {
		base = &modelLayer{}
	}
	take := map[int]modelBlock{}
	for i := range int(w.Range.Count) {
		own := base.blocks[w.Range.Start+block.No(i)]
		stamp := w.stampOf(i)
		ok := own.stamp < stamp
		if w.Kind == Copy && r.joining && own.stamp < r.join && own.stamp != stamp {
			ok = true
		}
		if ok {
			take[i] = modelBlock{stamp, w.stateOf(i) == Written}
		}
	}
	if len(take) == 0 {
		return
	}
	i := r.at(w.SnapSeq)
	old := base.clone(0)
	if i == len(r.layers) || r.layers[i].seq != w.SnapSeq {
		r.layers = slices.Insert(r.layers, i, base.clone(w.SnapSeq))
	}
	for _, l := range r.layers[i:] {
		for k := range take {
			b := w.Range.Start + block.No(k)
			if x := l.blocks[b].stamp; l.seq != w.SnapSeq && x != old.blocks[b].stamp && x >= take[k].stamp {
				delete(take, k)
			}
		}
		for k, x := range take {
			l.blocks[w.Range.Start+block.No(k)] = x
		}
	}
}

// places are the parts of an extent the model test uses: few, so that they collide, over page and extent ends.
func modelRange(rnd *rand.Rand) block.Range {
	start := uint32(rnd.IntN(700))
	switch rnd.IntN(6) {
	case 0:
		start = block.PerExtent - 1 - uint32(rnd.IntN(300))
	case 1:
		start = start / 16 * 16
	}
	count := uint32(1 + rnd.IntN(4))
	switch rnd.IntN(6) {
	case 0:
		count = uint32(1 + rnd.IntN(100))
	case 1:
		count = 16 * uint32(1+rnd.IntN(8))
	}
	return rng(start, min(count, block.PerExtent-start))
}

// modelRun drives a store and the model with the same random operations and compares them.
type modelRun struct {
	t     *testing.T
	rnd   *rand.Rand
	disk  *vdisk.Sim
	s     *Store
	m     model
	ids   []block.ExtentID
	seq   map[block.ExtentID]block.SnapSeq
	stamp uint64
	log   []string
	c     waiter
	out   []*Write
	next  byte
}

func (r *modelRun) note(format string, a ...any) { r.log = append(r.log, fmt.Sprintf(format, a...)) }

func (r *modelRun) fail(format string, a ...any) {
	r.t.Helper()
	for _, l := range r.log[max(0, len(r.log)-60):] {
		r.t.Log(l)
	}
	r.t.Fatalf(format, a...)
}

func (r *modelRun) drain() {
	r.t.Helper()
	within(r.t, "writing", r.c.wg.Wait)
	for _, w := range r.out {
		if w.Err != nil {
			r.fail("write of %v: %v", w.Range, w.Err)
		}
	}
	r.out = r.out[:0]
}

// submit sends a write and applies it to the model; writes of one extent must not overlap in flight.
func (r *modelRun) submit(w *Write) {
	for _, o := range r.out {
		if o.Extent == w.Extent && (o.Range.Overlaps(w.Range) || o.SnapSeq != w.SnapSeq) {
			r.drain()
			break
		}
	}
	r.m.apply(w)
	w.Completer = &r.c
	r.c.wg.Add(1)
	r.out = append(r.out, w)
	r.s.Submit(w)
}

func (r *modelRun) step() {
	rnd := r.rnd
	id := r.ids[rnd.IntN(len(r.ids))]
	seq := r.seq[id]
	rg := modelRange(rnd)
	r.stamp += uint64(1 + rnd.IntN(3))
	switch p := rnd.IntN(100); {
	case p < 55:
		r.note("write %s seq %d %v stamp %d", id, seq, rg, r.stamp)
		r.submit(dataWrite(id, seq, rg, r.stamp))
	case p < 62:
		stamp := r.stamp
		if rnd.IntN(3) == 0 {
			rg = rng(uint32(rg.Start)/256*256, 256*uint32(1+rnd.IntN(2)))
			rg.Count = min(rg.Count, block.PerExtent-uint32(rg.Start))
		}
		r.note("unmap %s seq %d %v stamp %d", id, seq, rg, stamp)
		r.submit(&Write{Extent: id, Kind: Unmap, Range: rg, Stamp: block.Stamp(stamp), SnapSeq: seq})
	case p < 66:
		// A late duplicate with a stamp of the past.
		old := uint64(rnd.Int64N(int64(r.stamp))) + 1
		r.note("late write %s seq %d %v stamp %d", id, seq, rg, old)
		// Stamps are unique: a late one may only bring what is older than everything there or be refused by all.
		if r.unusedStamp(id, rg, old) {
			r.submit(dataWrite(id, seq, rg, old))
		}
	case p < 74:
		r.drain()
		v := block.SnapSeq(rnd.IntN(int(seq) + 1))
		w := &Write{Extent: id, Kind: Copy, Range: rg, SnapSeq: v, Data: make([]byte, rg.SizeBytes()), States: make([]State, rg.Count)}
		for i := range int(rg.Count) {
			st := r.stamp + uint64(i)
			w.Stamps = append(w.Stamps, block.Stamp(st))
			if rnd.IntN(4) > 0 {
				w.States[i] = Written
				pattern(w.Data[i*block.Size:], rg.Start+block.No(i), st)
			}
		}
		r.stamp += uint64(rg.Count)
		r.note("copy %s view %d %v stamps from %d", id, v, rg, w.Stamps[0])
		r.m.replicas[id].bent = true
		r.submit(w)
		r.drain()
	case p < 78:
		if seq < 12 {
			r.drain()
			r.seq[id]++
			r.note("snapshot %s -> %d", id, r.seq[id])
		}
	case p < 80:
		r.drain()
		r.trim(id)
	case p < 82:
		r.drain()
		r.clone(id)
	case p < 83:
		if len(r.ids) > 2 {
			r.drain()
			r.note("delete %s", id)
			if err := r.s.DeleteReplica(context.Background(), id); err != nil {
				r.fail("delete: %v", err)
			}
			if rnd.IntN(2) == 0 {
				// The same extent again, which must know nothing of the old one.
				mustReplica(r.t, r.s, id)
				r.m.replicas[id] = &modelReplica{lineage: id.Volume}
				break
			}
			delete(r.m.replicas, id)
			r.ids = slices.DeleteFunc(r.ids, func(x block.ExtentID) bool { return x == id })
		}
	case p < 86:
		r.drain()
		r.note("sync")
		within(r.t, "sync", func() {
			if err := r.s.Sync(context.Background()); err != nil {
				r.fail("sync: %v", err)
			}
		})
		r.checkSpace()
	case p < 88:
		r.drain()
		r.reopen(rnd.IntN(2) == 0)
	case p < 90:
		r.drain()
		m := r.m.replicas[id]
		m.joining = !m.joining
		m.join = 0
		if m.joining {
			r.stamp++
			m.join = r.stamp
		}
		r.note("join %s %d", id, m.join)
		if err := r.s.SetJoin(context.Background(), id, block.Stamp(m.join)); err != nil {
			r.fail("join: %v", err)
		}
	default:
		r.compare(id, rg)
	}
}

func (r *modelRun) unusedStamp(id block.ExtentID, rg block.Range, stamp uint64) bool {
	for _, l := range r.m.replicas[id].layers {
		for i := range rg.Count {
			if l.blocks[rg.Start+block.No(i)].stamp == stamp {
				return false
			}
		}
	}
	return true
}

func (r *modelRun) trim(id block.ExtentID) {
	known := block.SnapSeq(r.rnd.IntN(int(r.seq[id]) + 1))
	var keep []block.SnapSeq
	for v := range known {
		if r.rnd.IntN(2) == 0 {
			keep = append(keep, v)
		}
	}
	r.note("keep %s known %d %v", id, known, keep)
	if err := r.s.SetSnapshots(context.Background(), id.Volume, known, keep); err != nil {
		r.fail("snapshots: %v", err)
	}
	for e, m := range r.m.replicas {
		if e.Volume != id.Volume {
			continue
		}
		for i := 0; i+1 < len(m.layers); {
			lo, hi := m.layers[i].seq, m.layers[i+1].seq
			if hi <= known && !slices.ContainsFunc(keep, func(k block.SnapSeq) bool { return k >= lo && k < hi }) {
				m.layers = slices.Delete(m.layers, i, i+1)
				continue
			}
			i++
		}
	}
}

func (r *modelRun) clone(id block.ExtentID) {
	if len(r.ids) > 6 {
		return
	}
	r.next++
	to := block.ExtentID{Volume: block.VolumeID{0xcc, r.next}, Index: id.Index}
	v := block.SnapSeq(r.rnd.IntN(int(r.seq[id]) + 1))
	r.seq[id] = max(r.seq[id], v+1)
	r.note("clone %s view %d to %s", id, v, to)
	if err := r.s.Clone(context.Background(), CloneSpec{Origin: id, View: v, Target: to, Generation: 1}); err != nil {
		r.fail("clone: %v", err)
	}
	o := r.m.replicas[id]
	c := &modelReplica{lineage: o.lineage, bent: o.bent}
	if l := o.view(v); l != nil {
		if l == o.layers[len(o.layers)-1] {
			o.layers = append(o.layers, l.clone(v+1))
		}
		c.layers = append(c.layers, l.clone(0))
	}
	r.m.replicas[to] = c
	r.ids = append(r.ids, to)
}

func (r *modelRun) reopen(clean bool) {
	r.note("reopen clean=%v", clean)
	if clean {
		if err := r.s.Close(); err != nil {
			r.fail("close: %v", err)
		}
	} else {
		r.s.abandon()
		r.disk = r.disk.Clone()
	}
	s, err := Open(context.Background(), r.disk, r.s.opts)
	if err != nil {
		r.fail("open: %v", err)
	}
	r.s = s
}

// compare reads a range of every view and checks stamps and data.
func (r *modelRun) compare(id block.ExtentID, rg block.Range) {
	r.t.Helper()
	m := r.m.replicas[id]
	buf := vdisk.Aligned(rg.SizeBytes())
	want := make([]byte, block.Size)
	zero := make([]byte, block.Size)
	info := make([]BlockInfo, rg.Count)
	for v := block.SnapSeq(0); v <= r.seq[id]+1; v++ {
		view := v
		if v == r.seq[id]+1 {
			view = block.LiveView
		}
		pend := false
		for _, o := range r.out {
			pend = pend || o.Extent == id && o.Range.Overlaps(rg)
		}
		if pend {
			r.drain()
		}
		if err := r.s.Read(id, view, rg, buf, info); err != nil {
			r.fail("read %s view %d %v: %v", id, view, rg, err)
		}
		l := m.view(view)
		for i := range int(rg.Count) {
			b := rg.Start + block.No(i)
			var x modelBlock
			if l != nil {
				x = l.blocks[b]
			}
			got := buf[i*block.Size : (i+1)*block.Size]
			state := Unwritten
			if x.written {
				state = Written
				pattern(want, b, x.stamp)
			} else {
				copy(want, zero)
			}
			if uint64(info[i].Stamp) != x.stamp || info[i].State != state || !bytes.Equal(got, want) {
				r.fail("%s view %d block %d: stamp %d state %d, want %d %d; data equal %v", id, view, b, uint64(info[i].Stamp), info[i].State, x.stamp, state, bytes.Equal(got, want))
			}
		}
	}
}

// compareAll compares everything, through Read and through ListStamps.
func (r *modelRun) compareAll() {
	r.t.Helper()
	r.drain()
	for _, id := range r.ids {
		r.compare(id, rng(0, 900))
		r.compare(id, rng(block.PerExtent-400, 400))
		m := r.m.replicas[id]
		for _, view := range []block.SnapSeq{0, r.seq[id], block.LiveView} {
			above := uint64(r.rnd.Int64N(int64(r.stamp) + 1))
			want := map[block.No]uint64{}
			if l := m.view(view); l != nil {
				for b, x := range l.blocks {
					if x.stamp > above {
						want[b] = x.stamp
					}
				}
			}
			for at := block.No(0); at < block.PerExtent; {
				runs, next, err := r.s.ListStamps(id, view, at, block.PerExtent, block.Stamp(above), make([]StampRun, 0, 7))
				if err != nil {
					r.fail("list: %v", err)
				}
				for _, x := range runs {
					for b := x.Range.Start; b < x.Range.End(); b++ {
						if want[b] != uint64(x.Stamp) {
							r.fail("%s view %d lists block %d stamp %d above %d, want %d", id, view, b, uint64(x.Stamp), above, want[b])
						}
						delete(want, b)
					}
				}
				at = next
			}
			if len(want) != 0 {
				r.fail("%s view %d: %d blocks above %d are not listed", id, view, len(want), above)
			}
		}
	}
}

// checkSpace recounts references and space from the tree and compares them with what the store believes. The store has just
// been synced.
func (r *modelRun) checkSpace() {
	r.t.Helper()
	for range 2 {
		if err := r.s.Sync(context.Background()); err != nil {
			r.fail("sync: %v", err)
		}
	}
	checkTree(r.t, r.s, func(e block.ExtentID) bool { return r.m.replicas[e].bent }, r.fail)
}

// checkTree verifies the invariants of an idle store: every reference count, what is taken, and the space accounting.
func checkTree(t *testing.T, s *Store, bent func(block.ExtentID) bool, fail func(string, ...any)) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	unit := make([]uint16, len(s.alloc.unitRef))
	slots := map[uint32]bool{0: true}
	seenNode := map[*node]bool{}
	nodeRefs := map[*node]int{}
	seenPage := map[uint32]bool{}
	slotRefs := map[uint32]uint16{}
	pages := map[uint32]*mapPage{}
	load := func(l *layer, n *node, j int, page uint32) *mapPage {
		if n == nil || n.slot[j] == 0 {
			return &mapPage{}
		}
		if pages[n.slot[j]] == nil {
			pg := new(mapPage)
			if err := s.readPage(pg, slotRef{n.slot[j], n.crc[j]}, l.rep.family(), page); err != nil {
				fail("page: %v", err)
			}
			pages[n.slot[j]] = pg
		}
		return pages[n.slot[j]]
	}
	for _, l := range s.layers {
		if l.inherit != nil || l.sealed != nil {
			fail("layer %d is not settled", l.handle)
		}
		for k, n := range l.nodes {
			if n == nil {
				continue
			}
			nodeRefs[n]++
			if seenNode[n] {
				continue
			}
			seenNode[n] = true
			slots[n.disk] = true
			for j, slot := range n.slot {
				if slot == 0 {
					continue
				}
				slotRefs[slot]++
				if seenPage[slot] {
					continue
				}
				seenPage[slot] = true
				slots[slot] = true
				pg := load(l, n, j, uint32(k*nodePages+j))
				for _, p := range pg.phys {
					if p != 0 {
						unit[p-1]++
					}
				}
			}
		}
	}
	for n, c := range nodeRefs {
		if int(n.refs.Load()) != c {
			fail("node has %d references, its count says %d", c, n.refs.Load())
		}
	}
	for slot, c := range slotRefs {
		if s.alloc.slotRef[slot] != c {
			fail("slot %d has %d references, its count says %d", slot, c, s.alloc.slotRef[slot])
		}
	}
	for u, c := range unit {
		if s.alloc.unitRef[u] != c {
			fail("unit %d has %d references, its count says %d", u, c, s.alloc.unitRef[u])
		}
		if s.alloc.units.taken(uint32(u)) != (c > 0) {
			fail("unit %d with %d references: taken is %v", u, c, s.alloc.units.taken(uint32(u)))
		}
	}
	for _, x := range s.refSlots {
		slots[x.slot] = true
	}
	for _, x := range s.dirSlots {
		slots[x] = true
	}
	for slot := range s.geo.slots {
		if s.alloc.slots.taken(slot) != slots[slot] {
			fail("slot %d: taken is %v, used %v", slot, s.alloc.slots.taken(slot), slots[slot])
		}
	}
	for _, r := range s.replicas {
		var live, snap int64
		for k := range nodesPerExtent {
			for j := range nodePages {
				for u := range pageUnits {
					seen := map[uint32]bool{0: true}
					if n := len(r.layers); n > 0 {
						p := load(r.layers[n-1], r.layers[n-1].nodes[k], j, uint32(k*nodePages+j)).phys[u]
						if p != 0 {
							live++
						}
						seen[p] = true
					}
					for _, l := range r.layers {
						p := load(l, l.nodes[k], j, uint32(k*nodePages+j)).phys[u]
						if !seen[p] {
							snap++
							seen[p] = true
						}
					}
				}
			}
		}
		i := r.info()
		if bent != nil && bent(r.id) {
			snap = i.SnapshotBytes / block.UnitSizeBytes
		}
		if i.LiveBytes != live*block.UnitSizeBytes || i.SnapshotBytes != snap*block.UnitSizeBytes {
			fail("%s: live %d snapshot %d units, accounted %d %d", r.id, live, snap, i.LiveBytes/block.UnitSizeBytes, i.SnapshotBytes/block.UnitSizeBytes)
		}
	}
}

func TestStoreBehavesLikeTheModel(t *testing.T) {
	for seed := range max(uint64(10)/thin, 2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := &modelRun{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), m: model{map[block.ExtentID]*modelReplica{}}, seq: map[block.ExtentID]block.SnapSeq{}}
			r.disk = newSim(t, 1<<30, 2<<20)
			o := quiet()
			o.CacheBytes = 1 // the smallest: pages come and go
			r.s = mustOpen(t, r.disk, o)
			for i := range byte(3) {
				id := ext(i+1, uint32(i))
				mustReplica(t, r.s, id)
				r.ids = append(r.ids, id)
				r.m.replicas[id] = &modelReplica{lineage: id.Volume}
			}
			for range max(600/thin, 150) {
				r.step()
			}
			r.compareAll()
			r.checkSpace()
			r.compareAll()
			r.reopen(true)
			r.compareAll()
			r.checkSpace()
			mustClose(t, r.s)
		})
	}
}
