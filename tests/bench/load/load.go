// Package load generates block I/O through the Go initiator and measures it: a fixed number of requests in flight from one goroutine
// set, latencies in a histogram, every completion submitting the next request. It allocates nothing per request, so that what is measured is
// the store and not the generator.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
)

// Options of one run.
type Options struct {
	// ReadPercent of the requests are reads, the others writes.
	ReadPercent int
	// BlockBytes is the size of a request, a multiple of 512; Depth how many are in flight.
	BlockBytes, Depth int
	// SpanBytes bounds the offsets; Sequential goes through it in order.
	SpanBytes  uint64
	Sequential bool
	Duration   time.Duration
	Seed       uint64
}

// Result of one run.
type Result struct {
	Requests uint64
	Bytes    uint64
	Elapsed  time.Duration
	P50, P99 time.Duration
	P999     time.Duration
	Max      time.Duration
}

// IOPS is requests per second.
func (r Result) IOPS() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// MBps is 10^6 bytes per second.
func (r Result) MBps() float64 { return float64(r.Bytes) / r.Elapsed.Seconds() / 1e6 }

func (r Result) String() string {
	return fmt.Sprintf("%8.0f IOPS %7.1f MB/s  p50 %-9s p99 %-9s p99.9 %-9s max %s", r.IOPS(), r.MBps(),
		r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond), r.P999.Round(time.Microsecond), r.Max.Round(time.Microsecond))
}

type slot struct {
	req   initiator.Request
	rnd   *rand.Rand
	start time.Time
}

// Run measures one load on a session. It returns the first error of a request.
func Run(ctx context.Context, s *initiator.Session, o Options) (Result, error) {
	var (
		h        Histogram
		next     atomic.Uint64
		failed   atomic.Pointer[error]
		wg       sync.WaitGroup
		requests = o.SpanBytes / uint64(o.BlockBytes)
		deadline = time.Now().Add(o.Duration)
	)
	begin := time.Now()
	var submit func(*slot)
	submit = func(x *slot) {
		n := next.Add(1) - 1
		if !o.Sequential {
			n = x.rnd.Uint64()
		}
		x.req.Offset = n % requests * uint64(o.BlockBytes)
		x.req.Op = initiator.Write
		if x.rnd.IntN(100) < o.ReadPercent {
			x.req.Op = initiator.Read
		}
		x.start = time.Now()
		s.Submit(&x.req)
	}
	for i := range o.Depth {
		x := &slot{rnd: rand.New(rand.NewPCG(o.Seed, uint64(i)))}
		x.req.Data = make([]byte, o.BlockBytes)
		for j := range x.req.Data {
			x.req.Data[j] = byte(x.rnd.Uint32())
		}
		wg.Add(1)
		x.req.Done = func(r *initiator.Request) {
			now := time.Now()
			h.Add(now.Sub(x.start))
			if r.Err != nil {
				err := r.Err
				failed.CompareAndSwap(nil, &err)
			}
			if failed.Load() != nil || now.After(deadline) || ctx.Err() != nil {
				wg.Done()
				return
			}
			submit(x)
		}
		submit(x)
	}
	wg.Wait()
	r := Result{Requests: h.Count(), Elapsed: time.Since(begin), P50: h.Quantile(0.5), P99: h.Quantile(0.99), P999: h.Quantile(0.999), Max: h.Max()}
	r.Bytes = r.Requests * uint64(o.BlockBytes)
	if err := failed.Load(); err != nil {
		return r, *err
	}
	return r, ctx.Err()
}
