package store

import (
	"context"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// blindDisk is a memDisk that leaves out the data of large writes: what is left is the store's own cost without the copy.
type blindDisk struct{ *memDisk }

func (d blindDisk) WriteAt(p []byte, off int64) error {
	if len(p) >= pageBlocks*block.Size {
		return nil
	}
	return d.memDisk.WriteAt(p, off)
}

// BenchmarkLarge writes 1 MiB at a time, one page after the other, over four extents again and again, with a destage cycle for each GiB: with the copy
// of the data to the disk, and without.
func BenchmarkLarge(b *testing.B) {
	const extents, pages, batch = 4, 256, 8
	for _, blind := range []bool{false, true} {
		b.Run(map[bool]string{false: "copied", true: "blind"}[blind], func(b *testing.B) {
			m := newMemDisk(b, 4<<30)
			d := vdisk.Disk(m)
			if blind {
				d = blindDisk{m}
			}
			if err := Format(context.Background(), d, FormatOptions{Cluster: testCluster, DiskID: block.DiskID{1}, JournalBytes: 256 << 20}); err != nil {
				b.Fatal(err)
			}
			s := mustOpen(b, d, Options{StallAfter: -1})
			defer mustClose(b, s)
			for e := range uint32(extents) {
				mustReplica(b, s, ext(1, e))
			}
			data, sums := vdisk.Aligned(pageBlocks*block.Size), make([]uint32, pageBlocks)
			var c waiter
			ws := make([]*Write, batch)
			for i := range ws {
				ws[i] = &Write{Kind: Data, Data: data, Sums: sums, SumsVerified: true, Epoch: 1, Completer: &c}
			}
			n := uint32(0)
			write := func(count int) {
				for at := 0; at < count; at += batch {
					part := ws[:min(batch, count-at)]
					for _, w := range part {
						w.Extent, w.Range = ext(1, n%extents), rng(n/extents%pages*pageBlocks, pageBlocks)
						n++
						w.Stamp = block.Stamp(n)
					}
					c.wg.Add(len(part))
					s.SubmitBatch(part)
					c.wg.Wait()
					if ws[0].Err != nil {
						b.Fatal(ws[0].Err)
					}
					if n%(extents*pages) == 0 {
						if err := s.Sync(context.Background()); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			write(8 * extents * pages) // all units of the disk have been used
			timeCPU(b, s, write)
		})
	}
}
