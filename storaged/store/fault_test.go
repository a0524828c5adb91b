package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"golang.org/x/sys/unix"
)

// sweepImage is a store with every kind of structure in use, and what must be read from it.
type sweepImage struct {
	disk *vdisk.Sim
	s    *Store // abandoned; its tables tell what the places on the disk are
	want map[block.ExtentID]map[block.SnapSeq]map[block.No]uint64
	// highest stamp acknowledged per extent
	highest map[block.ExtentID]block.Stamp
}

// buildImage writes small and large blocks in two views of two extents, a clone, deletions; a part is left in the journal.
func buildImage(t *testing.T) *sweepImage {
	ctx := context.Background()
	im := &sweepImage{disk: newSim(t, 64<<20, 1<<20), highest: map[block.ExtentID]block.Stamp{}, want: map[block.ExtentID]map[block.SnapSeq]map[block.No]uint64{}}
	s := mustOpen(t, im.disk, quiet())
	stamp := uint64(0)
	put := func(e block.ExtentID, seq block.SnapSeq, rg block.Range) {
		stamp++
		if err := run(s, dataWrite(e, seq, rg, stamp)); err != nil {
			t.Fatal(err)
		}
		im.highest[e] = block.Stamp(stamp)
		for v := seq; v <= 1; v++ {
			if im.want[e][v] == nil {
				im.want[e][v] = map[block.No]uint64{}
			}
			for i := range rg.Count {
				im.want[e][v][rg.Start+block.No(i)] = stamp
			}
		}
	}
	ids := []block.ExtentID{ext(1, 0), ext(2, 3)}
	for _, e := range ids {
		im.want[e] = map[block.SnapSeq]map[block.No]uint64{}
		mustReplica(t, s, e)
		for i := range uint32(12) {
			put(e, 0, rng(i*20, 1+i%5))
		}
		put(e, 0, rng(1024, 64))
	}
	if err := s.Fence(ctx, VolumeFence{ids[0].Volume, 9, 2}); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for _, e := range ids {
		put(e, 1, rng(60, 2))
		put(e, 1, rng(1030, 20))
	}
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(6) {
		put(ids[i%2], 1, rng(300+i, 1))
	}
	put(ids[1], 1, rng(2048, 16))
	put(ids[0], 1, rng(5, 2))
	s.abandon()
	im.s = s
	return im
}

// kindOf says what lies at an offset of the image.
func (im *sweepImage) kindOf(off int64) string {
	g := im.s.geo
	switch {
	case off < slotBytes || off >= g.tailOff() && off < g.tailOff()+slotBytes:
		return "superblock"
	case off < headBytes || off >= g.tailOff():
		return "root"
	case off < g.metaOff:
		return "journal"
	case off >= g.dataOff:
		return "data"
	}
	buf := make([]byte, slotBytes)
	_ = im.disk.Clone().ReadAt(buf, off/slotBytes*slotBytes)
	for k, name := range map[uint16]string{kindPage: "map page", kindNode: "table node", kindRefs: "reference counts", kindDir: "directory"} {
		if _, err := decodeSlot(buf, k); err == nil {
			return name
		}
	}
	return "other"
}

// check reads everything. Wrong data, or zeros where data was written, is a failure. It returns the bad blocks.
func (im *sweepImage) check(t *testing.T, s *Store, what string) (bad []string) {
	t.Helper()
	want := make([]byte, block.Size)
	zero := make([]byte, block.Size)
	for e, views := range im.want {
		info, err := s.Replica(e)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for v := range block.SnapSeq(2) {
			for _, rg := range []block.Range{rng(0, 320), rng(420, 8), rng(1020, 80), rng(2040, 30)} {
				buf, out := vdisk.Aligned(rg.SizeBytes()), make([]BlockInfo, rg.Count)
				if err := s.Read(e, v, rg, buf, out); err != nil {
					t.Errorf("%s: %v", what, err)
					continue
				}
				for i := range int(rg.Count) {
					b := rg.Start + block.No(i)
					got := buf[i*block.Size : (i+1)*block.Size]
					stamp := views[v][b]
					if out[i].State == Bad {
						bad = append(bad, fmt.Sprintf("%s view %d block %d", e, v, b))
						if !bytes.Equal(got, zero) {
							t.Errorf("%s: a bad block has data", what)
						}
						continue
					}
					copy(want, zero)
					if stamp != 0 {
						pattern(want, b, stamp)
					}
					// The last batch of the journal, damaged, is a torn tail for all the disk can know. Then the replica's highest stamp
					// is below what the others know, and it is stale (I6).
					stale := info.Highest < im.highest[e]
					if !bytes.Equal(got, want) && !info.Suspect && !stale {
						t.Errorf("%s: %s view %d block %d: wrong data with stamp %d, written with %d", what, e, v, b, out[i].Stamp, stamp)
					}
				}
			}
		}
	}
	return bad
}

func sweep(t *testing.T, bug plantedBug, flips int) map[string]int {
	im := buildImage(t)
	pages := im.disk.Clone().WrittenPages()
	slices.Sort(pages)
	rnd := rand.New(rand.NewPCG(3, 4))
	detected := map[string]int{}
	for _, page := range pages {
		n := flips
		if page >= im.s.geo.dataOff/slotBytes && page%(8*thin) != 0 {
			n = 0 // data pages are alike
		}
		if page*slotBytes >= headBytes && page*slotBytes < im.s.geo.metaOff && page%thin != 0 {
			n = 0 // and so are those of the journal
		}
		for range n {
			off := page*slotBytes + int64(rnd.IntN(slotBytes))
			kind := im.kindOf(off)
			if kind == "data" && !im.s.alloc.units.taken(uint32((off-im.s.geo.dataOff)/block.UnitSizeBytes)) {
				continue
			}
			d := im.disk.Clone()
			d.FlipBit(off, uint(rnd.IntN(8)))
			o := quiet()
			o.planted = bug
			told := 0
			o.OnCorrupt = func(Corruption) { told++ }
			what := fmt.Sprintf("bit flipped in %s at %d", kind, off)
			s, err := Open(context.Background(), d, o)
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			if f := s.FenceOf(ext(1, 0).Volume); f.Epoch != 9 {
				t.Errorf("%s: fence %v", what, f)
			}
			bad := im.check(t, s, what)
			if told > 0 || len(bad) > 0 {
				detected[kind]++
			}
			if len(bad) > 0 && kind == "data" {
				im.mend(t, s, what)
				if left := im.check(t, s, what); len(left) > 0 {
					t.Errorf("%s: still bad after repair: %v", what, left)
				}
			}
			s.abandon()
			if t.Failed() {
				return detected
			}
		}
	}
	return detected
}

// mend repairs every bad block as the owner would, from what another replica has.
func (im *sweepImage) mend(t *testing.T, s *Store, what string) {
	for e, views := range im.want {
		for v := range block.SnapSeq(2) {
			for b, stamp := range views[v] {
				buf, info := vdisk.Aligned(block.Size), make([]BlockInfo, 1)
				if err := s.Read(e, v, block.Range{Start: b, Count: 1}, buf, info); err != nil {
					t.Fatal(err)
				}
				if info[0].State != Bad {
					continue
				}
				w := dataWrite(e, v, block.Range{Start: b, Count: 1}, stamp)
				w.Kind, w.Stamps = Repair, []block.Stamp{block.Stamp(stamp)}
				if err := run(s, w); err != nil {
					t.Errorf("%s: repair: %v", what, err)
				}
			}
		}
	}
}

func TestEveryFlippedBitIsNoticedAndNeverRead(t *testing.T) {
	detected := sweep(t, bugNone, max(2/thin, 1))
	t.Log(detected)
	for _, kind := range []string{"journal", "map page", "table node", "reference counts", "directory", "data"} {
		if detected[kind] == 0 {
			t.Errorf("no fault in %s was noticed", kind)
		}
	}
}

// Of two copies of the directory one is enough; what is damaged is written anew by the next checkpoint. With neither the disk is refused, not
// taken for empty.
func TestTheDirectoryIsKeptTwice(t *testing.T) {
	im := buildImage(t)
	rt, err := readRoot(im.disk, &im.s.sb)
	if err != nil || rt.dirSlot == 0 || rt.dirCopy == 0 || rt.dirSlot == rt.dirCopy {
		t.Fatalf("root %+v, %v", rt, err)
	}
	flip := func(d *vdisk.Sim, slot uint32) { d.FlipBit(im.s.geo.slotOff(slot)+100, 3) }
	for _, slot := range []uint32{rt.dirSlot, rt.dirCopy} {
		d := im.disk.Clone()
		flip(d, slot)
		s := mustOpen(t, d, quiet())
		if s.Stats().MetaErrors == 0 {
			t.Error("a damaged copy is not counted")
		}
		if bad := im.check(t, s, "one copy damaged"); len(bad) > 0 {
			t.Errorf("bad blocks: %v", bad)
		}
		mustClose(t, s) // with a checkpoint
		s = mustOpen(t, d, quiet())
		if n := s.Stats().MetaErrors; n != 0 {
			t.Errorf("after a checkpoint: %d errors", n)
		}
		mustClose(t, s)
	}
	d := im.disk.Clone()
	flip(d, rt.dirSlot)
	flip(d, rt.dirCopy)
	_, err = Open(context.Background(), d, quiet())
	isErr(t, err, ErrCorrupt)
}

func TestChecksumsAreThoseOfTheLineageExtentAndBlock(t *testing.T) {
	checksumsSeeded(t, bugNone)
}

func checksumsSeeded(t testing.TB, bug plantedBug) {
	o := quiet()
	o.planted = bug
	s := mustOpen(t, newSim(t, 32<<20, 1<<20), o)
	defer s.abandon()
	e := ext(7, 5)
	mustReplica(t, s, e)
	rg := rng(30, 40)
	if err := run(s, dataWrite(e, 0, rg, 1)); err != nil {
		t.Fatal(err)
	}
	buf, info := vdisk.Aligned(rg.SizeBytes()), make([]BlockInfo, rg.Count)
	if err := s.Read(e, 0, rg, buf, info); err != nil {
		t.Fatal(err)
	}
	seeder := block.NewSeeder(e.Volume, e.Index)
	for i := range info {
		b := rg.Start + block.No(i)
		if want := seeder.Sum(b, buf[i*block.Size:]); info[i].Sum != want {
			t.Errorf("block %d has checksum %#x, want %#x", b, info[i].Sum, want)
		}
	}
}

func TestMisdirectedWritesAreNotReadBack(t *testing.T) {
	f := vdisk.NewFaulty(newSim(t, 64<<20, 1<<20))
	s := mustOpen(t, f, quiet())
	defer s.abandon()
	e := ext(1, 0)
	mustReplica(t, s, e)
	a, b := rng(0, 64), rng(64, 64)
	if err := run(s, dataWrite(e, 0, a, 1)); err != nil {
		t.Fatal(err)
	}
	f.SetRule(func(op vdisk.Op, off, n int64) vdisk.Fault {
		if op == vdisk.OpWrite && off >= s.geo.dataOff {
			return vdisk.Fault{MoveBytes: -64 * block.Size}
		}
		return vdisk.Fault{}
	})
	if err := run(s, dataWrite(e, 0, b, 2)); err != nil {
		t.Fatal(err)
	}
	buf, info := vdisk.Aligned(128*block.Size), make([]BlockInfo, 128)
	if err := s.Read(e, 0, rng(0, 128), buf, info); err != nil {
		t.Fatal(err)
	}
	for i, x := range info {
		if x.State != Bad {
			t.Errorf("block %d is not bad but %d", i, x.State)
		}
	}
	if s.Stats().ChecksumErrors == 0 {
		t.Error("not counted")
	}
}

func TestAFailedWriteOrFlushFencesTheDiskForGood(t *testing.T) {
	for name, op := range map[string]vdisk.Op{"write": vdisk.OpWrite, "flush": vdisk.OpFlush} {
		t.Run(name, func(t *testing.T) {
			f := vdisk.NewFaulty(newSim(t, 64<<20, 1<<20))
			told := make(chan error, 1)
			o := quiet()
			o.OnFenced = func(err error) { told <- err }
			s := mustOpen(t, f, o)
			e := ext(1, 0)
			mustReplica(t, s, e)
			if err := run(s, dataWrite(e, 0, rng(0, 3), 1)); err != nil {
				t.Fatal(err)
			}
			f.SetRule(vdisk.FailWith(op, unix.EIO))
			isErr(t, run(s, dataWrite(e, 0, rng(0, 3), 2)), ErrFenced)
			isErr(t, <-told, unix.EIO)
			f.SetRule(nil)
			isErr(t, run(s, dataWrite(e, 0, rng(8, 1), 3)), ErrFenced)
			isErr(t, s.Fence(context.Background(), VolumeFence{e.Volume, 1, 1}), ErrFenced)
			isErr(t, s.Sync(context.Background()), ErrFenced)
			buf, info := vdisk.Aligned(3*block.Size), make([]BlockInfo, 3)
			if err := s.Read(e, 0, rng(0, 3), buf, info); err != nil || info[0].State != Written {
				t.Errorf("a fenced disk is not read: %v, %v", err, info)
			}
			isErr(t, s.Close(), ErrFenced)
		})
	}
}

func TestAStalledRequestIsReportedWhileItLasts(t *testing.T) {
	f := vdisk.NewFaulty(newSim(t, 64<<20, 1<<20))
	told := make(chan Stall, 1)
	// Well above the time between two looks, or each look would take what came before for a pause of the process.
	o := Options{DestageIdle: -1, StallAfter: 20 * time.Millisecond, OnStall: func(x Stall) {
		select {
		case told <- x:
		default:
		}
	}}
	s := mustOpen(t, f, o)
	e := ext(1, 0)
	mustReplica(t, s, e)
	wait := make(chan struct{})
	f.SetRule(func(vdisk.Op, int64, int64) vdisk.Fault { return vdisk.Fault{Wait: wait} })
	c := waiter{}
	c.wg.Add(1)
	w := dataWrite(e, 0, rng(0, 1), 1)
	w.Completer = &c
	s.Submit(w)
	for x := range told {
		if x.Op == "journal" {
			break
		}
	}
	close(wait)
	within(t, "stalled write", c.wg.Wait)
	mustClose(t, s)
}
