package store

import (
	"bytes"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// A batch that lacks the data of a large write is left out, and stays so when the units later hold that data: a client that repeats the write
// may bring exactly it to exactly there, and crash before its own batch.
func TestATornBatchDoesNotComeBack(t *testing.T) {
	disk := newSim(t, 32<<20, 1<<20)
	s := mustOpen(t, disk, quiet())
	e := ext(1, 0)
	mustReplica(t, s, e)
	r := rng(32, 32)
	if err := run(s, dataWrite(e, 0, r, 5)); err != nil {
		t.Fatal(err)
	}
	s.abandon()
	d := disk.Clone()
	written := patterns(r, 5)
	at := int64(-1)
	buf := vdisk.Aligned(block.Size)
	for _, page := range d.WrittenPages() {
		if off := page * slotBytes; off >= s.geo.dataOff {
			if err := d.ReadAt(buf, off); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(buf, written[:block.Size]) {
				at = off
			}
		}
	}
	if at < 0 {
		t.Fatal("the data of the large write is not in its units")
	}
	stamp := func(what string, want block.Stamp) {
		t.Helper()
		s := mustOpen(t, d, quiet())
		defer s.abandon()
		buf, out := vdisk.Aligned(r.SizeBytes()), make([]BlockInfo, r.Count)
		if err := s.Read(e, 0, r, buf, out); err != nil {
			t.Fatal(err)
		}
		for i, o := range out {
			if o.Stamp != want {
				t.Fatalf("%s, block %d has stamp %s, want %s", what, i, o.Stamp, want)
			}
		}
		if info, err := s.Replica(e); err != nil || info.Suspect || info.Highest != want {
			t.Fatalf("%s: %v, %+v", what, err, info)
		}
	}
	stamp("with its data", 5)
	last := d.Clone()
	if err := d.WriteDurable(vdisk.Aligned(block.Size), at+7*block.Size); err != nil {
		t.Fatal(err)
	}
	stamp("without all of its data", 0)
	if err := d.WriteDurable(written, at); err != nil {
		t.Fatal(err)
	}
	stamp("with its data again", 0)

	// Had another batch followed, it would have been durable, and the missing data damage.
	d = last
	s = mustOpen(t, d, quiet())
	if err := run(s, dataWrite(e, 0, rng(5, 1), 6)); err != nil {
		t.Fatal(err)
	}
	s.abandon()
	if err := d.WriteDurable(vdisk.Aligned(block.Size), at+7*block.Size); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, d, quiet())
	defer s.abandon()
	out := make([]BlockInfo, r.Count)
	if err := s.Read(e, 0, r, vdisk.Aligned(r.SizeBytes()), out); err != nil {
		t.Fatal(err)
	}
	for i, o := range out {
		if want := (BlockInfo{Stamp: 5, Sum: o.Sum, State: Written}); i != 7 && o != want || i == 7 && o.State != Bad {
			t.Errorf("followed by a batch, block %d: %+v", i, o)
		}
	}
}

// A small write into the middle of a large one, in the same batch, is destaged into the large one's unit. A crash before the checkpoint counts must not
// take the unit for torn.
func TestAUnitThatWasWrittenAgainIsNotTorn(t *testing.T) {
	sums := func(r block.Range, stamp uint64) []byte {
		var p []byte
		seeder := block.NewSeeder(ext(1, 0).Volume, 0)
		data := patterns(r, stamp)
		for i := range int(r.Count) {
			p = append(p, 0, 0, 0, 0)
			putU32(p[4*i:], seeder.Sum(r.Start+block.No(i), data[i*block.Size:(i+1)*block.Size]))
		}
		return p
	}
	disk := newSim(t, 32<<20, 1<<20)
	s := mustOpen(t, disk, quiet())
	defer s.abandon()
	mustReplica(t, s, ext(1, 0))
	large, small := rng(32, 16), rng(40, 1)
	put := func(r block.Range, stamp uint64, flags uint8) entry {
		return entry{typ: ePut, flags: fWritten | flags, handle: 7, extent: ext(1, 0), start: uint32(r.Start), count: r.Count, stamp: stamp, extra: sums(r, stamp)}
	}
	unit := patterns(large, 5)
	copy(unit[8*block.Size:], patterns(small, 6))
	if err := s.disk.WriteAt(unit, s.geo.blockOff(0)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		entries []entry
		torn    bool
	}{
		{"the small write follows in the batch", []entry{put(large, 5, fUnits), put(small, 6, 0)}, false},
		{"it comes before", []entry{put(small, 6, 0), put(large, 5, fUnits)}, true},
		{"it is not in the batch", []entry{put(large, 5, fUnits)}, true},
		{"it is one of another block", []entry{put(large, 5, fUnits), put(rng(41, 1), 6, 0)}, true},
	} {
		if torn, err := s.tornUnits(c.entries); err != nil || torn != c.torn {
			t.Errorf("%s: torn %v, %v", c.name, torn, err)
		}
	}
}
