package store

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

var cutSeeds = flag.Int("cutseeds", 2, "workloads of the power cut test")

// cutRun is a workload that ends in a power cut, and what must be true after it.
type cutRun struct {
	fail    func(string, ...any)
	rnd     *rand.Rand
	s       *Store
	m       model // what was acknowledged
	ids     []block.ExtentID
	seq     map[block.ExtentID]block.SnapSeq
	fence   map[block.VolumeID]block.Epoch
	stamp   uint64
	pending []*Write // submitted, not acknowledged when the power went
	maybe   map[block.ExtentID]*modelReplica
	fencing map[block.VolumeID]block.Epoch
}

func newCutRun(seed uint64, fail func(string, ...any)) *cutRun {
	return &cutRun{
		fail: fail, rnd: rand.New(rand.NewPCG(seed, 7)), m: model{map[block.ExtentID]*modelReplica{}},
		seq: map[block.ExtentID]block.SnapSeq{}, fence: map[block.VolumeID]block.Epoch{},
		maybe: map[block.ExtentID]*modelReplica{}, fencing: map[block.VolumeID]block.Epoch{},
	}
}

// load runs operations until the power goes, and reports whether it did.
func (r *cutRun) load(steps int) (cut bool) {
	ctx := context.Background()
	for i := range byte(2) {
		id := ext(i+1, uint32(i))
		r.maybe[id] = &modelReplica{lineage: id.Volume}
		if r.s.EnsureReplica(ctx, ReplicaSpec{Extent: id, Lineage: id.Volume, Generation: 1}) != nil {
			return true
		}
		r.m.replicas[id] = r.maybe[id]
		delete(r.maybe, id)
		r.ids = append(r.ids, id)
	}
	for range steps {
		id := r.ids[r.rnd.IntN(len(r.ids))]
		switch p := r.rnd.IntN(20); {
		case p < 14:
			if !r.group(id) {
				return true
			}
		case p < 15:
			r.seq[id]++
		case p < 16:
			if r.s.Sync(ctx) != nil {
				return true
			}
		case p < 17:
			e := r.fence[id.Volume] + 1
			r.fencing[id.Volume] = e
			if r.s.Fence(ctx, VolumeFence{id.Volume, e, 3}) != nil {
				return true
			}
			r.fence[id.Volume] = e
			delete(r.fencing, id.Volume)
		case p < 18:
			// Forget the views nobody asks for in verify: all but the newest two.
			if k := r.seq[id]; k > 2 {
				if r.s.SetSnapshots(ctx, id.Volume, k, []block.SnapSeq{k - 1, k - 2}) != nil {
					return true
				}
			}
		case p < 19:
			if len(r.ids) < 4 && r.seq[id] > 0 {
				to := block.ExtentID{Volume: block.VolumeID{0xcc, byte(len(r.ids))}, Index: id.Index}
				v := r.seq[id] - 1
				c := &modelReplica{lineage: r.m.replicas[id].lineage}
				if l := r.m.replicas[id].view(v); l != nil {
					c.layers = append(c.layers, l.clone(0))
				}
				r.maybe[to] = c
				if r.s.Clone(ctx, CloneSpec{Origin: id, View: v, Target: to}) != nil {
					return true
				}
				delete(r.maybe, to)
				r.m.replicas[to] = c
				r.ids = append(r.ids, to)
			}
		}
	}
	return false
}

// group submits a few writes of one extent that do not overlap, and waits for them.
func (r *cutRun) group(id block.ExtentID) bool {
	var ws []*Write
	var c waiter
	for range 1 + r.rnd.IntN(5) {
		rg := modelRange(r.rnd)
		rg.Count = min(rg.Count, 40)
		if slices.ContainsFunc(ws, func(w *Write) bool { return w.Range.Overlaps(rg) }) {
			continue
		}
		r.stamp++
		w := dataWrite(id, r.seq[id], rg, r.stamp)
		if r.rnd.IntN(6) == 0 {
			w = &Write{Extent: id, Kind: Unmap, Range: rg, Stamp: block.Stamp(r.stamp), SnapSeq: r.seq[id]}
		}
		w.Watermark = block.Stamp(r.stamp - 1)
		w.Completer = &c
		c.wg.Add(1)
		ws = append(ws, w)
		r.s.Submit(w)
	}
	c.wg.Wait()
	ok := true
	for _, w := range ws {
		if w.Err == nil {
			r.m.apply(w)
		} else {
			r.pending = append(r.pending, w)
			ok = false
		}
	}
	return ok
}

// verify checks a recovered store: what was acknowledged is there; what was not is there whole or not at all.
func (r *cutRun) verify(s *Store) {
	for v, e := range r.fence {
		if got := s.FenceOf(v).Epoch; got != e && got != r.fencing[v] {
			r.fail("fence of %s is %d, acknowledged %d", v, got, e)
		}
	}
	for id, m := range r.maybe {
		if _, err := s.Replica(id); err == nil {
			r.verifyReplica(s, id, m)
		}
	}
	for id, m := range r.m.replicas {
		r.verifyReplica(s, id, m)
	}
}

func (r *cutRun) verifyReplica(s *Store, id block.ExtentID, m *modelReplica) {
	want := make([]byte, block.Size)
	zero := make([]byte, block.Size)
	for _, rg := range []block.Range{rng(0, 800), rng(block.PerExtent-340, 340)} {
		buf := vdisk.Aligned(rg.SizeBytes())
		info := make([]BlockInfo, rg.Count)
		seq := r.seq[id]
		views := []block.SnapSeq{seq, block.LiveView}
		if seq > 1 {
			views = append(views, seq-1, seq-2)
		}
		for _, v := range views {
			if err := s.Read(id, v, rg, buf, info); err != nil {
				r.fail("read %s: %v", id, err)
			}
			l := m.view(v)
			for i := range int(rg.Count) {
				b := rg.Start + block.No(i)
				got := buf[i*block.Size : (i+1)*block.Size]
				var x modelBlock
				if l != nil {
					x = l.blocks[b]
				}
				ok := false
				allow := func(x modelBlock) {
					st := Unwritten
					copy(want, zero)
					if x.written {
						st = Written
						pattern(want, b, x.stamp)
					}
					ok = ok || uint64(info[i].Stamp) == x.stamp && info[i].State == st && bytes.Equal(got, want)
				}
				allow(x)
				for _, w := range r.pending {
					if w.Extent == id && w.Range.Contains(b) && w.SnapSeq <= v {
						allow(modelBlock{uint64(w.Stamp), w.Kind == Data})
					}
				}
				if !ok {
					r.fail("%s view %d block %d: stamp %d state %d; acknowledged stamp %d written %v", id, v, b, info[i].Stamp, info[i].State, x.stamp, x.written)
				}
			}
		}
	}
}

// powerCuts cuts the power at every flush of a workload and checks what comes back. It returns how many there were.
func powerCuts(seed uint64, steps, every int, o Options, fail func(string, ...any)) int {
	ctx := context.Background()
	blank := vdisk.NewSim("sim", 32<<20)
	if err := Format(ctx, blank, FormatOptions{Cluster: testCluster, DiskID: block.DiskID{1}, JournalBytes: 1 << 20}); err != nil {
		fail("format: %v", err)
	}
	for n := 1; ; n += every {
		disk := blank.Clone()
		disk.CutAt(n, seed<<20+uint64(n))
		r := newCutRun(seed, func(f string, a ...any) { fail("seed %d, power cut at flush %d: %s", seed, n, fmt.Sprintf(f, a...)) })
		s, err := Open(ctx, disk, o)
		cut := true
		if err == nil {
			r.s = s
			cut = r.load(steps)
			s.abandon()
		}
		after := disk.Clone()
		if n%3 == 0 {
			// The power goes again while recovering.
			again := after.Clone()
			again.CutAt(1+n%4, uint64(n))
			if s, err := Open(ctx, again, o); err == nil {
				s.abandon()
			}
			again.Crash(uint64(n))
			after = again.Clone()
		}
		if s, err = Open(ctx, after, o); err != nil {
			r.fail("open: %v", err)
			return n
		}
		if mc := s.Superblock().MountCount; mc < 1 {
			r.fail("mount counter %d", mc)
		}
		r.verify(s)
		if err := s.Close(); err != nil {
			r.fail("close: %v", err)
		}
		if s, err = Open(ctx, after, o); err != nil {
			r.fail("second open: %v", err)
			return n
		}
		r.verify(s)
		s.abandon()
		if !cut {
			return n
		}
	}
}

func TestNothingAcknowledgedIsLostWhereverThePowerIsCut(t *testing.T) {
	busy := Options{DestageFill: 1, DestageIdle: time.Millisecond, StallAfter: -1, CacheBytes: 1}
	for seed := range uint64(*cutSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			n := powerCuts(seed, 40, thin, quiet(), t.Fatalf)
			// Once more with checkpoints at every moment.
			n += powerCuts(seed, 40, 2*thin, busy, t.Fatalf)
			t.Logf("%d power cuts", n)
		})
	}
}
