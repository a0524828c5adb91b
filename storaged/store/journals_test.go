package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// window is a part of a simulated disk as a disk of its own: what two of them hold is lost at the same moment when the power goes.
type window struct {
	*vdisk.Sim
	off, size int64
	name      string
}

func (w *window) ReadAt(p []byte, off int64) error       { return w.Sim.ReadAt(p, w.off+off) }
func (w *window) WriteAt(p []byte, off int64) error      { return w.Sim.WriteAt(p, w.off+off) }
func (w *window) WriteDurable(p []byte, off int64) error { return w.Sim.WriteDurable(p, w.off+off) }
func (w *window) Discard(off, n int64) error             { return w.Sim.Discard(w.off+off, n) }
func (w *window) SizeBytes() int64                       { return w.size }
func (w *window) String() string                         { return w.name }

const (
	testJournalDisk = 16 << 20
	testDataDisk    = 32 << 20
)

// hybrid is a machine with a fast disk and data disks.
func hybrid(sim *vdisk.Sim, data int) (journal *window, disks []*window) {
	journal = &window{sim, 0, testJournalDisk, "ssd"}
	for i := range data {
		disks = append(disks, &window{sim, testJournalDisk + int64(i)*testDataDisk, testDataDisk, fmt.Sprintf("hdd%d", i)})
	}
	return journal, disks
}

func formatHybrid(t testing.TB, sim *vdisk.Sim, data int) {
	t.Helper()
	ctx := context.Background()
	journal, disks := hybrid(sim, data)
	if err := Format(ctx, journal, FormatOptions{Cluster: testCluster, DiskID: block.DiskID{0xaa}, MountType: CacheWithJournal, JournalBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	j, err := OpenJournals(journal, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range disks {
		if err := Format(ctx, d, FormatOptions{Cluster: testCluster, DiskID: block.DiskID{byte(i + 1)}, MountType: DataStore, Journals: j}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAJournalOnAnotherDisk(t *testing.T) {
	ctx := context.Background()
	sim := vdisk.NewSim("machine", testJournalDisk+2*testDataDisk)
	formatHybrid(t, sim, 2)
	for round := range uint64(3) {
		journal, disks := hybrid(sim, 2)
		j, err := OpenJournals(journal, testCluster)
		if err != nil {
			t.Fatal(err)
		}
		if all, free := j.Areas(); all != free+2 {
			t.Fatalf("%d of %d areas are free", free, all)
		}
		for i, d := range disks {
			o := quiet()
			o.Journals = j
			s, err := Open(ctx, d, o)
			if err != nil {
				t.Fatal(err)
			}
			e := ext(byte(i+1), 0)
			mustReplica(t, s, e)
			for b := range uint32(40) {
				if round == 0 {
					break
				}
				buf, info := vdisk.Aligned(block.Size), make([]BlockInfo, 1)
				if err := s.Read(e, block.LiveView, rng(b, 1), buf, info); err != nil || uint64(info[0].Stamp) != round*100+uint64(b) || info[0].State != Written {
					t.Fatalf("disk %d block %d after round %d: %+v, %v", i, b, round, info[0], err)
				}
			}
			for b := range uint32(40) {
				if err := run(s, dataWrite(e, 0, rng(b, 1), (round+1)*100+uint64(b))); err != nil {
					t.Fatal(err)
				}
			}
			if used := s.Stats().JournalUsedBytes; used == 0 {
				t.Error("nothing is in the journal")
			}
			s.abandon() // the journal alone has it
		}
	}
}

// Without its own journal a data disk lacks acknowledged writes. It must not be opened, whatever is offered instead.
func TestADataDiskIsNotOpenedWithoutItsJournal(t *testing.T) {
	ctx := context.Background()
	sim, other := vdisk.NewSim("machine", testJournalDisk+testDataDisk), vdisk.NewSim("other", testJournalDisk+testDataDisk)
	formatHybrid(t, sim, 1)
	formatHybrid(t, other, 1)
	journal, disks := hybrid(sim, 1)
	open := func(j *Journals) error {
		o := quiet()
		o.Journals = j
		s, err := Open(ctx, disks[0], o)
		if err == nil {
			s.abandon()
		}
		return err
	}
	isErr(t, open(nil), ErrNoJournal)
	foreign, _ := hybrid(other, 1)
	jf, err := OpenJournals(foreign, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	// The same disk id and the same data disk id, but another journal: a journal disk that was made anew.
	isErr(t, open(jf), ErrNoJournal)
	j, err := OpenJournals(journal, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	if err := open(j); err != nil {
		t.Fatal(err)
	}
	if err := j.Release(block.DiskID{1}); err != nil {
		t.Fatal(err)
	}
	isErr(t, open(j), ErrNoJournal)
	if _, err := OpenJournals(disks[0], testCluster); !errors.Is(err, ErrForeign) {
		t.Errorf("a data disk as a journal disk: %v", err)
	}
	if _, err := Open(ctx, journal, quiet()); !errors.Is(err, ErrForeign) {
		t.Errorf("a journal disk as a data disk: %v", err)
	}
}

func TestTheTableOfJournalsSurvivesDamage(t *testing.T) {
	sim := vdisk.NewSim("machine", testJournalDisk+testDataDisk)
	formatHybrid(t, sim, 1)
	journal, _ := hybrid(sim, 1)
	j, err := OpenJournals(journal, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range j.tableOffs() {
		d := sim.Clone()
		d.FlipBit(off+60, 2)
		w, disks := hybrid(d, 1)
		k, err := OpenJournals(w, testCluster)
		if err != nil {
			t.Fatalf("a copy at %d damaged: %v", off, err)
		}
		o := quiet()
		o.Journals = k
		s, err := Open(context.Background(), disks[0], o)
		if err != nil {
			t.Fatal(err)
		}
		s.abandon()
	}
	for _, off := range j.tableOffs() {
		sim.FlipBit(off+60, 2)
	}
	if _, err := OpenJournals(journal, testCluster); !errors.Is(err, ErrCorrupt) {
		t.Errorf("both copies damaged: %v", err)
	}
}

// The journal may be ahead of the data disk, or the other way round, wherever the power is cut.
func TestPowerCutsOfAHybridMachine(t *testing.T) {
	ctx := context.Background()
	sim := vdisk.NewSim("machine", testJournalDisk+testDataDisk)
	formatHybrid(t, sim, 1)
	busy := Options{DestageFill: 1, DestageIdle: time.Millisecond, StallAfter: -1, CacheBytes: 1}
	open := func(d *vdisk.Sim) (*Store, error) {
		journal, disks := hybrid(d, 1)
		j, err := OpenJournals(journal, testCluster)
		if err != nil {
			return nil, err
		}
		o := busy
		o.Journals = j
		return Open(ctx, disks[0], o)
	}
	cuts := 0
	for n := 1; n < 400; n += 3 * thin {
		disk := sim.Clone()
		disk.CutAt(n, uint64(n))
		r := newCutRun(5, func(f string, a ...any) { t.Fatalf("power cut at flush %d: %s", n, fmt.Sprintf(f, a...)) })
		s, err := open(disk)
		cut := true
		if err == nil {
			r.s = s
			cut = r.load(25)
			s.abandon()
		}
		after := disk.Clone()
		if s, err = open(after); err != nil {
			r.fail("open: %v", err)
		}
		r.verify(s)
		if err := s.Close(); err != nil {
			r.fail("close: %v", err)
		}
		cuts++
		if !cut {
			break
		}
	}
	t.Logf("%d power cuts", cuts)
}

func FuzzJournalAreas(f *testing.F) {
	sb := superblock{geo: geometry{sizeBytes: testJournalDisk, journalOff: headBytes, journalBlocks: 256, slots: 8}}
	p := make([]byte, slotBytes)
	(&areaTable{number: 3, areas: make([]area, 8)}).encode(p, sb.DiskID)
	f.Add(p[:200])
	f.Fuzz(func(t *testing.T, head []byte) {
		q := make([]byte, slotBytes)
		copy(q, head)
		seal(q)
		if a, err := decodeAreas(q, &sb); err == nil && len(a.areas) != 8 {
			t.Errorf("%d areas", len(a.areas))
		}
		copy(q, superMagic[:])
		seal(q)
		if b, err := decodeSuper(q); err == nil && b.MountType == CacheWithJournal && b.geo.checkAreas() != nil {
			t.Error("a journal disk with an impossible geometry")
		}
	})
}
