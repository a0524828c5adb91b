package store

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// BenchmarkStartAfterKill opens a disk whose journal of 1 GiB holds 600 MiB of small writes, as many as the destager lets come together, as after kill -9: the bar is 5 s. IOMESH_BENCH_DIR
// chooses where.
func BenchmarkStartAfterKill(b *testing.B) {
	// Beyond that the destager begins, whatever the options say.
	const journal, fill, extents, blocks = 1 << 30, 58, 3, 64 << 10
	dir := os.Getenv("IOMESH_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	path := filepath.Join(dir, "recovery")
	if err := vdisk.Prewrite(context.Background(), path, 3<<30, nil); err != nil {
		b.Fatal(err)
	}
	d, err := vdisk.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	if err := Format(context.Background(), d, FormatOptions{Cluster: testCluster, DiskID: block.NewDiskID(), JournalBytes: journal, Overwrite: true}); err != nil {
		b.Fatal(err)
	}
	s, err := Open(context.Background(), d, Options{DestageFill: 60, DestageIdle: -1})
	if err != nil {
		b.Fatal(err)
	}
	for i := range uint32(extents) {
		mustReplica(b, s, ext(1, i))
	}
	var stamp uint64
	var c waiter
	for s.ring.used()*100 < s.ring.blocks*fill && s.n.checkpoints.Load() == 0 {
		s.qmu.Lock()
		s.progress = progressMax // as if the destager was about to end
		s.qmu.Unlock()
		ws := make([]*Write, 256)
		for i := range ws {
			stamp++
			w := dataWrite(ext(1, uint32(stamp%extents)), 0, rng(uint32(stamp*2654435761)%blocks, 1), stamp)
			w.Completer = &c
			ws[i] = w
		}
		c.wg.Add(len(ws))
		s.SubmitBatch(ws)
		c.wg.Wait()
	}
	s.abandon()
	var used uint64
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b.ResetTimer()
	cpu := cpuTime()
	t := time.Now()
	var r *Store
	for range b.N {
		r = newStore(s.disk, s.sb, s.opts)
		if err := r.recover(); err != nil {
			b.Fatal(err)
		}
		used = r.ring.used()
	}
	b.StopTimer()
	b.ReportMetric(time.Since(t).Seconds()/float64(b.N), "s/start")
	b.ReportMetric((cpuTime()-cpu).Seconds()/float64(b.N), "cpu-s/start")
	b.ReportMetric(float64(used*slotBytes)/(1<<20), "journal-MiB")
	b.ReportMetric(float64(stamp), "writes")
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/(1<<20), "MiB-held")
	runtime.KeepAlive(r)
}
