package store

import (
	"bytes"
	"context"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

func TestADamagedJournalBatchIsNotTakenForTheTail(t *testing.T) { damagedBatch(t, bugNone) }

// damagedBatch writes to three extents, one batch each, damages the header of the middle one and opens the disk again.
func damagedBatch(t testing.TB, bug plantedBug) {
	disk := newSim(t, 32<<20, 1<<20)
	s := mustOpen(t, disk, quiet())
	for i := range byte(3) {
		mustReplica(t, s, ext(i+1, 0))
	}
	var at [3]uint64
	for i := range byte(3) {
		at[i] = s.ring.headAtomic.Load()
		if err := run(s, dataWrite(ext(i+1, 0), 0, rng(10, 1), 5)); err != nil {
			t.Fatal(err)
		}
	}
	s.abandon()
	d := disk.Clone()
	d.FlipBit(s.journalOff(at[1])+100, 3)
	o := quiet()
	o.planted = bug
	var told []Corruption
	o.OnCorrupt = func(c Corruption) { told = append(told, c) }
	s = mustOpen(t, d, o)
	defer s.abandon()
	if len(told) != 1 || len(told[0].Extents) != 1 || told[0].Extents[0] != ext(2, 0) {
		t.Fatalf("reported %v, want the one extent behind the damage", told)
	}
	for i := range byte(3) {
		info, err := s.Replica(ext(i+1, 0))
		if err != nil || info.Suspect != (i == 1) {
			t.Errorf("replica %d: %v, suspect %v", i, err, info.Suspect)
		}
		buf, out := vdisk.Aligned(block.Size), make([]BlockInfo, 1)
		if err := s.Read(ext(i+1, 0), 0, rng(10, 1), buf, out); err != nil {
			t.Fatal(err)
		}
		if i != 1 && (out[0].Stamp != 5 || !bytes.Equal(buf, patterns(rng(10, 1), 5))) {
			t.Errorf("replica %d lost its write beside the damage: %v", i, out[0])
		}
	}
	// It stays suspect until it has been joined again, also over a restart.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s2 := mustOpen(t, d, quiet())
	defer s2.abandon()
	if x, _ := s2.Replica(ext(2, 0)); !x.Suspect || x.Watermark != 0 {
		t.Errorf("after a restart: %+v", x)
	}
	for _, s0 := range []block.Stamp{9, 0} {
		if err := s2.SetJoin(context.Background(), ext(2, 0), s0); err != nil {
			t.Fatal(err)
		}
	}
	if x, _ := s2.Replica(ext(2, 0)); x.Suspect {
		t.Error("suspect after it was joined again")
	}
}

func TestDamagedDataInTheJournalIsOneBadBlock(t *testing.T) {
	disk := newSim(t, 32<<20, 1<<20)
	s := mustOpen(t, disk, quiet())
	e := ext(1, 0)
	mustReplica(t, s, e)
	at := s.ring.headAtomic.Load()
	for i := range uint32(2) {
		if err := run(s, dataWrite(e, 0, rng(10*i, 3), 5)); err != nil {
			t.Fatal(err)
		}
	}
	s.abandon()
	d := disk.Clone()
	d.FlipBit(s.journalOff(at)+2*slotBytes, 3)
	s = mustOpen(t, d, quiet())
	defer s.abandon()
	buf, info := vdisk.Aligned(3*block.Size), make([]BlockInfo, 3)
	if err := s.Read(e, 0, rng(0, 3), buf, info); err != nil {
		t.Fatal(err)
	}
	if info[0].State != Written || info[1].State != Bad || info[1].Stamp != 5 || info[2].State != Written {
		t.Errorf("got %v, want the second block bad", info)
	}
}

func TestALateWriteLosesAgainstANewerOne(t *testing.T) { lateWrite(t, bugNone) }

func lateWrite(t testing.TB, bug plantedBug) {
	o := quiet()
	o.planted = bug
	s := mustOpen(t, newSim(t, 32<<20, 1<<20), o)
	defer s.abandon()
	e := ext(1, 0)
	mustReplica(t, s, e)
	for _, stamp := range []uint64{8, 8, 3} {
		if err := run(s, dataWrite(e, 0, rng(0, 2), stamp)); err != nil {
			t.Fatal(err)
		}
	}
	buf, info := vdisk.Aligned(2*block.Size), make([]BlockInfo, 2)
	if err := s.Read(e, 0, rng(0, 2), buf, info); err != nil {
		t.Fatal(err)
	}
	if info[1].Stamp != 8 || !bytes.Equal(buf, patterns(rng(0, 2), 8)) {
		t.Errorf("read stamp %d", info[1].Stamp)
	}
}
