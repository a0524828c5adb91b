package store

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// fill writes pieces of count blocks from start on until the disk is full, and returns how many went in.
func fill(t testing.TB, s *Store, e block.ExtentID, count, step uint32, stamp *uint64) (n uint32) {
	t.Helper()
	for ; n*step < block.PerExtent-step; n++ {
		*stamp++
		err := run(s, dataWrite(e, 0, rng(n*step, count), *stamp))
		if errors.Is(err, ErrNoSpace) {
			return n
		}
		if err != nil {
			t.Fatalf("piece %d: %v", n, err)
		}
	}
	t.Fatal("the disk never gets full")
	return 0
}

func TestAFullDiskRefusesNewBlocksAndGoesOnWhenSpaceIsFreed(t *testing.T) {
	for name, c := range map[string]struct{ count, step uint32 }{
		"large writes":                {64, 64},
		"small writes":                {4, 4},
		"one block in each unit":      {1, 16},
		"one block in each map page":  {1, 256},
		"writes over unit boundaries": {40, 40},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			disk := newSim(t, 24<<20, 1<<20)
			s := mustOpen(t, disk, quiet())
			e, other := ext(1, 0), ext(2, 0)
			mustReplica(t, s, e)
			mustReplica(t, s, other)
			var stamp uint64
			n := fill(t, s, e, c.count, c.step, &stamp)
			if st := s.Stats(); c.step < 256 && st.UsedBytes < st.CapacityBytes*8/10 {
				t.Errorf("full at %d of %d bytes", st.UsedBytes, st.CapacityBytes)
			}
			// What is there can be read, written over, small and large, and fenced.
			check := func(i uint32, stamp uint64) {
				t.Helper()
				r := rng(i*c.step, c.count)
				buf, info := vdisk.Aligned(r.SizeBytes()), make([]BlockInfo, r.Count)
				if err := s.Read(e, 0, r, buf, info); err != nil || uint64(info[0].Stamp) != stamp || !bytes.Equal(buf, patterns(r, stamp)) {
					t.Fatalf("piece %d: stamp %d, want %d, %v", i, info[0].Stamp, stamp, err)
				}
			}
			for i := range n {
				check(i, uint64(i)+1)
			}
			if c.step < 256 {
				for i := range n {
					stamp++
					if err := run(s, dataWrite(e, 0, rng(i*c.step, c.count), stamp)); err != nil {
						t.Fatalf("write over piece %d: %v", i, err)
					}
					check(i, stamp)
				}
			}
			if err := s.Fence(ctx, VolumeFence{e.Volume, 2, 1}); err != nil {
				t.Fatal(err)
			}
			isErr(t, run(s, dataWrite(other, 0, rng(0, 64), 1)), ErrNoSpace)
			// Unmaps work and make room.
			for i := range n / 2 {
				stamp++
				if err := run(s, &Write{Extent: e, Kind: Unmap, Range: rng(i*c.step, c.step), Stamp: block.Stamp(stamp)}); err != nil {
					t.Fatalf("unmap %d: %v", i, err)
				}
			}
			if err := run(s, dataWrite(other, 0, rng(0, 64), 2)); err != nil {
				t.Fatalf("after unmaps: %v", err)
			}
			mustClose(t, s)
			s = mustOpen(t, disk, quiet())
			fill(t, s, other, 16, 16, &stamp)
			if err := s.DeleteReplica(ctx, e); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := s.Sync(ctx); err != nil {
					t.Fatal(err)
				}
			}
			stamp++
			if err := run(s, dataWrite(other, 0, rng(16384, 64), stamp)); err != nil {
				t.Fatalf("after a deletion: %v", err)
			}
			for range 2 {
				if err := s.Sync(ctx); err != nil {
					t.Fatal(err)
				}
			}
			checkTree(t, s, nil, t.Fatalf)
			mustClose(t, s)
		})
	}
}

func TestSnapshotSpaceIsCountedAndComesBack(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, newSim(t, 64<<20, 1<<20), quiet())
	defer s.abandon()
	e := ext(1, 0)
	mustReplica(t, s, e)
	const unit = block.UnitSizeBytes
	space := func(live, snap int64) {
		t.Helper()
		for range 2 {
			if err := s.Sync(ctx); err != nil {
				t.Fatal(err)
			}
		}
		i, err := s.Replica(e)
		if err != nil || i.LiveBytes != live*unit || i.SnapshotBytes != snap*unit {
			t.Fatalf("live %d, snapshots %d units, want %d, %d; %v", i.LiveBytes/unit, i.SnapshotBytes/unit, live, snap, err)
		}
	}
	write := func(seq block.SnapSeq, start, count uint32, stamp uint64) {
		t.Helper()
		if err := run(s, dataWrite(e, seq, rng(start, count), stamp)); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 0, 320, 1)
	space(20, 0)
	write(1, 0, 32, 2) // two units over
	space(20, 2)
	write(2, 0, 1, 3) // one block: a copy of its unit
	space(20, 3)
	write(2, 5, 1, 4) // again: in place
	space(20, 3)
	used := s.Stats().UsedBytes
	if used != 23*unit {
		t.Errorf("used %d units, want 23", used/unit)
	}
	if err := s.SetSnapshots(ctx, e.Volume, 2, []block.SnapSeq{0}); err != nil {
		t.Fatal(err)
	}
	space(20, 2) // the second version of the first unit is gone
	if err := s.SetSnapshots(ctx, e.Volume, 2, nil); err != nil {
		t.Fatal(err)
	}
	space(20, 0)
	if err := run(s, &Write{Extent: e, Kind: Unmap, Range: rng(0, 320), Stamp: 9, SnapSeq: 2}); err != nil {
		t.Fatal(err)
	}
	space(0, 0)
	if used := s.Stats().UsedBytes; used != 0 {
		t.Errorf("%d bytes in use after all was unmapped", used)
	}
}

func TestAListThatIsOlderThanASnapshotDoesNotDeleteIt(t *testing.T) {
	ctx := context.Background()
	s := mustOpen(t, newSim(t, 32<<20, 1<<20), quiet())
	defer s.abandon()
	e := ext(1, 0)
	mustReplica(t, s, e)
	for seq := range block.SnapSeq(3) {
		if err := run(s, dataWrite(e, seq, rng(0, 1), uint64(seq)+1)); err != nil {
			t.Fatal(err)
		}
	}
	// The list was taken when the volume's snapshot sequence was 1: it cannot know of view 1.
	if err := s.SetSnapshots(ctx, e.Volume, 1, nil); err != nil {
		t.Fatal(err)
	}
	buf, info := vdisk.Aligned(block.Size), make([]BlockInfo, 1)
	if err := s.Read(e, 1, rng(0, 1), buf, info); err != nil || info[0].Stamp != 2 {
		t.Errorf("view 1 has stamp %d, %v", info[0].Stamp, err)
	}
	if i, _ := s.Replica(e); len(i.Layers) != 2 {
		t.Errorf("layers %v, want those of views 1 and 2", i.Layers)
	}
}
