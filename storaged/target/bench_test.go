package target_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/storaged/target"
)

// BenchmarkLoopback is end to end: our initiator and the target in this process, over loopback, on a volume in memory. cpu-us/op is
// user and system time of both sides together.
func BenchmarkLoopback(b *testing.B) {
	for _, op := range []initiator.Op{initiator.Read, initiator.Write} {
		for _, depth := range []int{1, 32} {
			name := map[initiator.Op]string{initiator.Read: "read", initiator.Write: "write"}[op]
			b.Run(fmt.Sprintf("%s 4K depth %d", name, depth), func(b *testing.B) {
				loopback(b, op, depth, 4096)
			})
		}
		b.Run(fmt.Sprintf("op %d 1M depth 4", op), func(b *testing.B) { loopback(b, op, 4, 1<<20) })
	}
}

func cpuSeconds() float64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func loopback(b *testing.B, op initiator.Op, depth, size int) {
	r := newRig(b, target.Options{})
	s := r.dial(someone)
	if err := s.WriteAt(r.ctx(), make([]byte, 64<<20), 0); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(size))
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	wg.Add(depth)
	requests := make([]initiator.Request, depth)
	cpu := cpuSeconds()
	b.ResetTimer()
	for i := range requests {
		q := &requests[i]
		q.Op, q.Data = op, make([]byte, size)
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		q.Done = func(q *initiator.Request) {
			if q.Err != nil {
				b.Error(q.Err)
			}
			if left.Add(-1) < 0 {
				wg.Done()
				return
			}
			q.Offset = rng.Uint64N(uint64((64<<20)/size)) * uint64(size)
			s.Submit(q)
		}
		q.Done(q)
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric((cpuSeconds()-cpu)*1e6/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "iops")
}
