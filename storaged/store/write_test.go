package store

import (
	"slices"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// TestDataThatDoesNotMatchItsSumsIsRefused writes small and large, with sums verified by a look at the data and by CRCs taken before, right and wrong ones.
func TestDataThatDoesNotMatchItsSumsIsRefused(t *testing.T) {
	o := quiet()
	o.CheckSums = true
	s := mustOpen(t, newSim(t, 64<<20, 4<<20), o)
	defer mustClose(t, s)
	e := ext(1, 0)
	mustReplica(t, s, e)
	seeder := block.NewSeeder(e.Volume, e.Index)
	stamp := uint64(1)
	for _, r := range []block.Range{rng(3, 1), rng(16, 32), rng(70, 40)} {
		good := func() *Write {
			stamp++
			w := dataWrite(e, 0, r, stamp)
			w.Sums = make([]uint32, r.Count)
			seeder.SumRange(r, w.Data, nil, w.Sums)
			return w
		}
		withPlain := func(w *Write) *Write {
			for i := range r.Count {
				w.Plain = append(w.Plain, block.CRC32C(w.Data[i*block.Size:(i+1)*block.Size]))
			}
			return w
		}
		last := r.Count - 1
		flippedData, flippedSum := good(), withPlain(good())
		flippedData.Data[len(flippedData.Data)-1] ^= 1
		flippedSum.Sums[last] ^= 1
		flippedPlain := withPlain(good())
		flippedPlain.Plain[last] ^= 1
		short := withPlain(good())
		short.Plain = short.Plain[:last]
		for what, w := range map[string]*Write{
			"data with a flipped bit": flippedData, "a flipped bit in a sum": flippedSum, "a flipped bit in a CRC": flippedPlain, "a missing CRC": short,
		} {
			if err := run(s, w); err == nil {
				t.Errorf("%s: a write of blocks [%d,%d) is taken", what, r.Start, r.End())
			} else {
				isErr(t, err, ErrInvalid)
			}
		}
		for what, w := range map[string]*Write{"sums": good(), "sums and CRCs": withPlain(good())} {
			if err := run(s, w); err != nil {
				t.Errorf("a good write with %s: %v", what, err)
			}
		}
		unsummed := withPlain(good())
		sums := unsummed.Sums
		unsummed.Sums = nil
		if err := run(s, unsummed); err != nil {
			t.Errorf("a good write with CRCs alone: %v", err)
		}
		buf, info := vdisk.Aligned(r.SizeBytes()), make([]BlockInfo, r.Count)
		if err := s.Read(e, 0, r, buf, info); err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(info, sums, func(i BlockInfo, x uint32) bool { return i.Sum == x && i.State == Written && i.Stamp == unsummed.Stamp }) {
			t.Error("sums made of CRCs are not the data's")
		}
	}
}
