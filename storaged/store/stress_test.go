package store

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"go.uber.org/goleak"
)

// TestReadersNeverSeeAnythingButWholeWrites reads while blocks are written, destaged, snapshotted, cloned and deleted. Each
// block read must be exactly what was written with the stamp that is told, and no older than what was acknowledged before.
func TestReadersNeverSeeAnythingButWholeWrites(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx := context.Background()
	s := mustOpen(t, newSim(t, 256<<20, 2<<20), Options{DestageIdle: time.Millisecond, DestageFill: 10, CacheBytes: 1, OnStall: func(Stall) {}})
	const writers, blocks, rounds = 4, 1500, 250
	var acked [writers][blocks]atomic.Uint64
	var seq atomic.Uint32
	ids := []block.ExtentID{}
	for i := range byte(writers) {
		ids = append(ids, ext(1, uint32(i)))
		mustReplica(t, s, ids[i])
	}
	var wg, readers sync.WaitGroup
	var stop atomic.Bool
	for i := range writers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			stamp := uint64(0)
			for range rounds {
				var c waiter
				var ws []*Write
				for range 1 + rnd.IntN(8) {
					n := uint32(1 + rnd.IntN(3))
					if rnd.IntN(8) == 0 {
						n = 16 * uint32(1+rnd.IntN(6))
					}
					stamp++
					w := dataWrite(ids[i], block.SnapSeq(seq.Load()), rng(rnd.Uint32N(blocks-n), n), stamp)
					w.Completer = &c
					overlaps := false
					for _, o := range ws {
						overlaps = overlaps || o.Range.Overlaps(w.Range)
					}
					if !overlaps {
						ws = append(ws, w)
					}
				}
				c.wg.Add(len(ws))
				s.SubmitBatch(ws)
				c.wg.Wait()
				for _, w := range ws {
					if w.Err != nil {
						t.Error(w.Err)
						return
					}
					for b := w.Range.Start; b < w.Range.End(); b++ {
						acked[i][b].Store(uint64(w.Stamp))
					}
				}
			}
		})
	}
	for k := range 3 {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(k), 2))
			buf, info, want := vdisk.Aligned(64*block.Size), make([]BlockInfo, 64), make([]byte, block.Size)
			least := make([]uint64, 64)
			for !stop.Load() {
				i := rnd.IntN(writers)
				r := rng(rnd.Uint32N(blocks-64), 1+rnd.Uint32N(64))
				for j := range r.Count {
					least[j] = acked[i][r.Start+block.No(j)].Load()
				}
				if err := s.Read(ids[i], block.LiveView, r, buf, info[:r.Count]); err != nil {
					t.Error(err)
					return
				}
				for j, x := range info[:r.Count] {
					if uint64(x.Stamp) < least[j] || x.State == Bad {
						t.Errorf("block %d: stamp %d state %d, acknowledged %d", int(r.Start)+j, x.Stamp, x.State, least[j])
						return
					}
					if clear(want); x.Stamp != 0 {
						pattern(want, r.Start+block.No(j), uint64(x.Stamp))
					}
					if !bytes.Equal(want, buf[j*block.Size:(j+1)*block.Size]) {
						t.Errorf("block %d is not what was written with stamp %d", int(r.Start)+j, x.Stamp)
						return
					}
				}
				if _, _, err := s.ListStamps(ids[i], block.LiveView, 0, blocks, block.Stamp(least[0]), nil); err != nil {
					t.Error(err)
				}
				s.Stats()
				s.ListReplicas()
			}
		})
	}
	readers.Go(func() {
		for n := block.SnapSeq(1); !stop.Load(); n++ {
			seq.Add(1)
			clone := block.ExtentID{Volume: block.VolumeID{9}, Index: 0}
			err := s.Clone(ctx, CloneSpec{Origin: ids[0], View: n - 1, Target: clone})
			if err != nil && !errors.Is(err, ErrExists) {
				t.Error(err)
			}
			if n > 2 {
				if err := s.SetSnapshots(ctx, ids[0].Volume, n, []block.SnapSeq{n - 1, n - 2}); err != nil {
					t.Error(err)
				}
			}
			if err := s.DeleteReplica(ctx, clone); err != nil {
				t.Error(err)
			}
			if err := s.Fence(ctx, VolumeFence{ids[0].Volume, block.Epoch(n), 1}); err != nil {
				t.Error(err)
			}
			s.SetWatermark(ids[0], block.Stamp(n))
		}
	})
	wg.Wait()
	stop.Store(true)
	readers.Wait()
	for range 3 {
		if err := s.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	checkTree(t, s, nil, t.Fatalf)
	mustClose(t, s)
}

// TestCloseEndsWhateverIsGoingOn closes a nearly full disk with a nearly full journal while it is written, synced and listed.
func TestCloseEndsWhateverIsGoingOn(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for round := range 6 {
		s := mustOpen(t, newSim(t, 24<<20, 1<<20), Options{DestageIdle: time.Millisecond})
		e := ext(1, 0)
		mustReplica(t, s, e)
		var wg sync.WaitGroup
		for k := range uint32(4) {
			wg.Go(func() {
				for i := range uint32(4000) {
					err := run(s, dataWrite(e, 0, rng((k*4000+i)*13%200000, 1+i%40), uint64(k*4000+i+1)))
					if errors.Is(err, ErrClosed) {
						return
					}
					if err != nil && !errors.Is(err, ErrNoSpace) {
						t.Error(err)
					}
					if i%50 == 0 {
						if err := s.Sync(context.Background()); err != nil && !errors.Is(err, ErrClosed) {
							t.Error(err)
						}
						_, _, _ = s.ListStamps(e, 0, 0, 4000, 0, nil)
					}
				}
			})
		}
		time.AfterFunc(time.Duration(5+20*round)*time.Millisecond, func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		within(t, "closing", wg.Wait)
		<-s.committed
		s.wg.Wait()
	}
}
