package store

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// benchStores opens n stores on written files. IOMESH_BENCH_DIR chooses where; the files are kept there for the next run.
func benchStores(b *testing.B, n int, size int64) []*Store {
	b.Helper()
	dir := os.Getenv("IOMESH_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	var out []*Store
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("disk%d-%d", i, size>>20))
		if err := vdisk.Prewrite(context.Background(), path, size, nil); err != nil {
			b.Fatal(err)
		}
		d, err := vdisk.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := Format(context.Background(), d, FormatOptions{Cluster: testCluster, DiskID: block.NewDiskID(), Overwrite: true}); err != nil {
			b.Fatal(err)
		}
		o := Options{}
		if os.Getenv("IOMESH_BENCH_LOG") != "" {
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		s, err := Open(context.Background(), d, o)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close(); d.Close() })
		out = append(out, s)
	}
	return out
}

// fan completes a client's write when all stores have.
type fan struct {
	left atomic.Int32
	ws   []*Write
	done chan *fan
}

func (f *fan) Complete(ws []*Write) {
	for _, w := range ws {
		g := w.Completer.(*fan)
		if w.Err != nil {
			panic(w.Err)
		}
		if g.left.Add(-1) == 0 {
			g.done <- g
		}
	}
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// timeCPU measures n writes as write makes them, with all destaging, after what was written before has been destaged.
func timeCPU(b *testing.B, s *Store, write func(n int)) {
	sync := func() {
		if err := s.Sync(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	sync()
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime()
	write(b.N)
	sync()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N)/1e3, "cpu-µs/write")
}

// benchWrites keeps depth writes of blocks in flight over all stores.
func benchWrites(b *testing.B, stores []*Store, depth int, blocks uint32, sequential bool, extents uint32) {
	id := func(i uint32) block.ExtentID { return ext(1, i) }
	for _, s := range stores {
		for i := range extents {
			mustReplica(b, s, id(i))
		}
	}
	done := make(chan *fan, depth)
	data := vdisk.Aligned(int(blocks) * block.Size)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	sums := make([]uint32, blocks)
	var stamp uint64
	var seq uint32
	submit := func(f *fan) {
		stamp++
		var e, start uint32
		if sequential {
			pos := seq
			seq += blocks
			e, start = pos/block.PerExtent%extents, pos%block.PerExtent
		} else {
			e, start = rnd.Uint32N(extents), rnd.Uint32N(block.PerExtent/blocks)*blocks
		}
		r := rng(start, blocks)
		block.NewSeeder(id(e).Volume, id(e).Index).SumRange(r, data, nil, f.ws[0].Sums)
		f.left.Store(int32(len(stores)))
		for k, s := range stores {
			w := f.ws[k]
			w.Extent, w.Range, w.Stamp = id(e), r, block.Stamp(stamp)
			s.Submit(w)
		}
	}
	fans := make([]*fan, depth)
	for i := range fans {
		f := &fan{done: done}
		my := append([]uint32(nil), sums...)
		for range stores {
			f.ws = append(f.ws, &Write{Kind: Data, Data: data, Sums: my, Completer: f})
		}
		fans[i] = f
	}
	lat := make([]time.Duration, 0, b.N)
	started := make(map[*fan]time.Time, depth)
	b.SetBytes(int64(blocks) * block.Size)
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime()
	t := time.Now()
	n := 0
	for _, f := range fans {
		if n < b.N {
			started[f] = time.Now()
			submit(f)
			n++
		}
	}
	for got := 0; got < b.N; got++ {
		f := <-done
		lat = append(lat, time.Since(started[f]))
		if n < b.N {
			started[f] = time.Now()
			submit(f)
			n++
		}
	}
	d := time.Since(t)
	b.StopTimer()
	c := cpuTime() - cpu
	b.ReportMetric(float64(b.N)/d.Seconds(), "writes/s")
	b.ReportMetric(float64(c.Microseconds())/float64(b.N)/float64(len(stores)), "cpu-µs/write/store")
	report(b, lat)
}

func report(b *testing.B, lat []time.Duration) {
	sortDurations(lat)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50-µs", 0.5}, {"p99-µs", 0.99}, {"p99.9-µs", 0.999}} {
		b.ReportMetric(float64(lat[int(float64(len(lat)-1)*q.at)].Microseconds()), q.name)
	}
}

func BenchmarkThreeStores(b *testing.B) {
	for _, c := range []struct {
		name   string
		depth  int
		blocks uint32
		seq    bool
	}{
		{"write 4KiB depth 1", 1, 1, false},
		{"write 4KiB depth 32", 32, 1, false},
		{"write 4KiB depth 128", 128, 1, false},
		{"write 1MiB depth 4 sequential", 4, 256, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			benchWrites(b, benchStores(b, 3, 4<<30), c.depth, c.blocks, c.seq, 2)
		})
	}
}

// nullDisk forgets what is written: what is left is the store's own cost.
type nullDisk struct{ vdisk.Disk }

func (d nullDisk) WriteDurable(p []byte, off int64) error { return nil }

// BenchmarkSubmit is the committer's cost of 4 KiB writes in batches, without a disk: index, checksums, entries, hand-off.
func BenchmarkSubmit(b *testing.B) {
	for _, sums := range []string{"given", "computed"} {
		b.Run("sums "+sums, func(b *testing.B) {
			d := newSim(b, 4<<30, 2<<30)
			o := quiet()
			o.DestageFill = 60
			s := mustOpen(b, nullDisk{d}, o)
			defer s.abandon()
			e := ext(1, 0)
			mustReplica(b, s, e)
			const batch = 32
			data := vdisk.Aligned(block.Size)
			given := []uint32{1}
			ws := make([]*Write, batch)
			var c waiter
			for i := range ws {
				ws[i] = &Write{Extent: e, Kind: Data, Data: data, Completer: &c}
				if sums == "given" {
					ws[i].Sums = given
				}
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			stamp := uint64(0)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += batch {
				for _, w := range ws {
					stamp++
					w.Range, w.Stamp = rng(rnd.Uint32N(16384), 1), block.Stamp(stamp)
				}
				c.wg.Add(batch)
				s.SubmitBatch(ws)
				c.wg.Wait()
				if s.ring.used()*2 > s.ring.blocks {
					b.StopTimer()
					s.mu.Lock()
					s.ring.tail.Store(s.ring.headAtomic.Load()) // nothing is ever destaged here
					s.mu.Unlock()
					b.StartTimer()
				}
			}
		})
	}
}

// BenchmarkRead reads from one store on a file, written before and destaged.
func BenchmarkRead(b *testing.B) {
	for _, c := range []struct {
		name  string
		depth int
		count uint32
	}{{"4KiB depth 1", 1, 1}, {"4KiB depth 32", 32, 1}, {"1MiB depth 4", 4, 256}} {
		b.Run(c.name, func(b *testing.B) {
			s := benchStores(b, 1, 4<<30)[0]
			e := ext(1, 0)
			mustReplica(b, s, e)
			for i := range uint32(1024) {
				w := &Write{Extent: e, Kind: Data, Range: rng(i*256, 256), Stamp: 1, Data: vdisk.Aligned(1 << 20)}
				if err := run(s, w); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Sync(context.Background()); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(c.count) * block.Size)
			b.ReportAllocs()
			b.ResetTimer()
			cpu := cpuTime()
			t := time.Now()
			var next atomic.Int64
			var wg sync.WaitGroup
			for k := range c.depth {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(k), 3))
					buf, info := vdisk.Aligned(int(c.count)*block.Size), make([]BlockInfo, c.count)
					for next.Add(1) <= int64(b.N) {
						if err := s.Read(e, block.LiveView, rng(rnd.Uint32N(block.PerExtent/c.count)*c.count, c.count), buf, info); err != nil || info[0].State != Written {
							b.Error(err, info[0])
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/time.Since(t).Seconds(), "reads/s")
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N)/1e3, "cpu-µs/read")
		})
	}
}

// BenchmarkRecovery opens a disk whose journal is full.
func BenchmarkRecovery(b *testing.B) {
	s := benchStores(b, 1, 4<<30)[0]
	e := ext(1, 0)
	mustReplica(b, s, e)
	var stamp uint64
	var c waiter
	for s.ring.used()*100 < s.ring.blocks*95 {
		s.qmu.Lock()
		s.progress = progressMax // as if the destager was about to end
		s.qmu.Unlock()
		var ws []*Write
		for range 256 {
			stamp++
			w := dataWrite(e, 0, rng(uint32(stamp*2654435761)%block.PerExtent, 1), stamp)
			w.Completer = &c
			ws = append(ws, w)
		}
		c.wg.Add(len(ws))
		s.SubmitBatch(ws)
		c.wg.Wait()
		if s.n.checkpoints.Load() > 0 {
			break
		}
	}
	used := s.ring.used()
	s.abandon()
	b.ResetTimer()
	for range b.N {
		r := newStore(s.disk, s.sb, s.opts)
		if err := r.recover(); err != nil {
			b.Fatal(err)
		}
		used = r.ring.used()
	}
	b.ReportMetric(float64(used*slotBytes)/1e6, "journal-MB")
}

// BenchmarkChecksum sums blocks as they enter, are verified and are read.
func BenchmarkChecksum(b *testing.B) {
	for _, n := range []uint32{1, 256} {
		b.Run(fmt.Sprintf("%d blocks", n), func(b *testing.B) {
			data, sums := vdisk.Aligned(int(n)*block.Size), make([]uint32, n)
			s := block.NewSeeder(block.VolumeID{1}, 2)
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				s.SumRange(rng(0, n), data, nil, sums)
			}
		})
	}
}

// BenchmarkLookup finds blocks: in the overlay of what is in the journal, and in map pages.
func BenchmarkLookup(b *testing.B) {
	for _, destaged := range []bool{false, true} {
		b.Run(map[bool]string{false: "overlay", true: "page"}[destaged], func(b *testing.B) {
			s := mustOpen(b, newSim(b, 256<<20, 32<<20), quiet())
			defer s.Close()
			e := ext(1, 0)
			mustReplica(b, s, e)
			for i := range uint32(4096) {
				if err := run(s, dataWrite(e, 0, rng(i, 1), 1)); err != nil {
					b.Fatal(err)
				}
			}
			if destaged {
				if err := s.Sync(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			var out [1]ovEntry
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.find(e, block.LiveView, block.No(rnd.Uint32N(4096)), out[:], nil); err != nil || out[0].state() != Written {
					b.Fatal(err, out[0])
				}
			}
		})
	}
}

// benchReads keeps reads without a goroutine under way.
type benchReads struct {
	s    *Store
	rnd  *rand.Rand
	left atomic.Int64
	open atomic.Int64
	done chan struct{}
}

func (r *benchReads) ReadsComplete(done []*Reading) {
	for _, x := range done {
		if x.Err != nil || r.left.Add(-1) < 0 {
			if r.open.Add(-1) == 0 {
				close(r.done)
			}
			continue
		}
		x.Range = rng(r.rnd.Uint32N(block.PerExtent), 1)
		if !r.s.StartRead(x) {
			panic("read not begun")
		}
	}
	r.s.Wake()
}

// BenchmarkStartRead is BenchmarkRead of 4 KiB without goroutines.
func BenchmarkStartRead(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("depth %d", depth), func(b *testing.B) {
			s := benchStores(b, 1, 4<<30)[0]
			if s.async == nil {
				b.Skip("no asynchronous reads of files here")
			}
			e := ext(1, 0)
			mustReplica(b, s, e)
			for i := range uint32(1024) {
				if err := run(s, &Write{Extent: e, Kind: Data, Range: rng(i*256, 256), Stamp: 1, Data: vdisk.Aligned(1 << 20)}); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Sync(context.Background()); err != nil {
				b.Fatal(err)
			}
			// Every map page is looked at once, so that all are in memory.
			buf, info := vdisk.Aligned(block.Size), make([]BlockInfo, 1)
			for p := range uint32(1024) {
				if err := s.Read(e, block.LiveView, rng(p*256, 1), buf, info); err != nil {
					b.Fatal(err)
				}
			}
			r := &benchReads{s: s, rnd: rand.New(rand.NewPCG(1, 2)), done: make(chan struct{})}
			all := make([]*Reading, depth)
			for i := range all {
				all[i] = &Reading{Extent: e, View: block.LiveView, Buf: vdisk.Aligned(block.Size), Info: make([]BlockInfo, 1), Completer: r}
			}
			r.left.Store(int64(b.N))
			r.open.Store(int64(depth))
			b.ReportAllocs()
			b.ResetTimer()
			cpu := cpuTime()
			r.ReadsComplete(all)
			<-r.done
			b.StopTimer()
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N)/1e3, "cpu-µs/read")
		})
	}
}
