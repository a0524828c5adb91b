package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// memDisk is memory, without any check: what is left is the store's own cost.
type memDisk struct{ p []byte }

func newMemDisk(b *testing.B, size int) *memDisk {
	p, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Munmap(p) })
	return &memDisk{p}
}

func (d *memDisk) String() string                         { return "memory" }
func (d *memDisk) SizeBytes() int64                       { return int64(len(d.p)) }
func (d *memDisk) ReadAt(p []byte, off int64) error       { copy(p, d.p[off:]); return nil }
func (d *memDisk) WriteAt(p []byte, off int64) error      { copy(d.p[off:], p); return nil }
func (d *memDisk) WriteDurable(p []byte, off int64) error { copy(d.p[off:], p); return nil }
func (d *memDisk) Flush() error                           { return nil }
func (d *memDisk) Discard(off, n int64) error             { return nil }
func (d *memDisk) Direct() bool                           { return true }
func (d *memDisk) Close() error                           { return nil }

// BenchmarkSpread writes the same 8,192 blocks again and again, spread over few or many extents, watermarks and destaging included: what a write costs
// must not depend on how large the volume is.
func BenchmarkSpread(b *testing.B) {
	const places, batch = 8192, 32
	for _, extents := range []uint32{4, 256, 4096, 8192} {
		b.Run(fmt.Sprintf("%d extents", extents), func(b *testing.B) {
			d := newMemDisk(b, 512<<30)
			if err := Format(context.Background(), d, FormatOptions{Cluster: testCluster, DiskID: block.DiskID{1}, JournalBytes: 1 << 30}); err != nil {
				b.Fatal(err)
			}
			s := mustOpen(b, d, Options{StallAfter: -1})
			defer mustClose(b, s)
			for e := range extents {
				mustReplica(b, s, ext(1, e))
			}
			data := vdisk.Aligned(block.Size)
			ws := make([]*Write, batch)
			var c waiter
			for i := range ws {
				ws[i] = &Write{Kind: Data, Data: data, Sums: []uint32{1}, SumsVerified: true, Epoch: 1, Completer: &c}
			}
			marks := map[uint32]block.Stamp{}
			rnd := rand.New(rand.NewPCG(1, 2))
			stamp := uint64(0)
			write := func(n int) {
				for range n / batch {
					for _, w := range ws {
						stamp++
						p := rnd.Uint32N(places)
						w.Extent, w.Range, w.Stamp = ext(1, p%extents), rng(p/extents*(block.PerExtent/(places/extents)), 1), block.Stamp(stamp)
						marks[p%extents] = w.Stamp
					}
					c.wg.Add(batch)
					s.SubmitBatch(ws)
					c.wg.Wait()
					if len(marks) >= 1024 || stamp%2048 == 0 {
						for e, m := range marks {
							s.SetWatermark(ext(1, e), m)
						}
						clear(marks)
					}
				}
			}
			write(4 * places)
			timeCPU(b, s, write)
		})
	}
}
