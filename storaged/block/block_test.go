package block

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestStampOrderIsEpochThenCounter(t *testing.T) {
	last := NewStamp(3, CounterMax)
	first := NewStamp(4, 1)
	if first <= last {
		t.Fatalf("%s is not above %s", first, last)
	}
	if first.Epoch() != 4 || first.Counter() != 1 {
		t.Fatalf("round trip gave %s", first)
	}
}

func TestChecksumTellsMisplacedBlocksApart(t *testing.T) {
	data := bytes.Repeat([]byte{7}, Size)
	a, b := NewVolumeID(), NewVolumeID()
	s := NewSeeder(a, 0)
	sum := s.Sum(5, data)
	if s.Sum(6, data) == sum {
		t.Error("same checksum at another block")
	}
	if NewSeeder(a, 1).Sum(5, data) == sum {
		t.Error("same checksum in another extent")
	}
	if NewSeeder(b, 0).Sum(5, data) == sum {
		t.Error("same checksum in another volume")
	}
	data[100] ^= 1
	if s.Sum(5, data) == sum {
		t.Error("a flipped bit is not seen")
	}
}

func TestChecksumFromAPlainCRCIsTheSame(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 3*Size)
	for round := range 200 {
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		s := NewSeeder(VolumeID{byte(round)}, ExtentIndex(rnd.Uint32()))
		r := Range{Start: No(rnd.Uint32N(PerExtent - 3)), Count: 3}
		var plain, want, got [3]uint32
		for i := range plain {
			plain[i] = CRC32C(data[i*Size : (i+1)*Size])
		}
		s.SumRange(r, data, nil, want[:])
		s.SumRange(r, nil, plain[:], got[:])
		if got != want {
			t.Fatalf("blocks from %d: %08x from plain CRCs, %08x from the data", r.Start, got, want)
		}
	}
}

func TestChecksumGolden(t *testing.T) {
	// Part of the disk and wire formats: must never change.
	got := NewSeeder(VolumeID{1, 2, 3}, 9).Sum(77, bytes.Repeat([]byte{0xa5}, Size))
	if got != 0x24b8041d {
		t.Fatalf("checksum %#08x", got)
	}
}

func TestIQNRoundTripsAndRefusesOthers(t *testing.T) {
	v := NewVolumeID()
	got, err := ParseIQN(v.IQN())
	if err != nil || got != v {
		t.Fatalf("ParseIQN(%q) = %v, %v", v.IQN(), got, err)
	}
	for _, bad := range []string{"", "iqn.2016-02.com.iomesh:", "iqn.2016-02.com.iomesh:x", "iqn.2001-04.com.example:" + v.String()} {
		if _, err := ParseIQN(bad); err == nil {
			t.Errorf("ParseIQN(%q) accepted", bad)
		}
	}
	if v.NAA()[0]>>4 != 6 {
		t.Error("NAA designator is not of type 6")
	}
}

func TestRange(t *testing.T) {
	a := Range{Start: 10, Count: 5}
	for _, c := range []struct {
		b    Range
		want bool
	}{{Range{15, 1}, false}, {Range{9, 1}, false}, {Range{14, 1}, true}, {Range{0, 100}, true}} {
		if a.Overlaps(c.b) != c.want || c.b.Overlaps(a) != c.want {
			t.Errorf("%v overlaps %v is not %v", a, c.b, c.want)
		}
	}
	if (Range{Start: PerExtent - 1, Count: 2}).Valid() || (Range{}).Valid() {
		t.Error("range beyond the extent or empty is valid")
	}
}
