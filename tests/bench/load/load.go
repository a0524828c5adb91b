// Package load generates block I/O through the Go initiator and measures it: a fixed number of requests in flight, latencies in a
// histogram, every completion submitting the next request. It allocates nothing per request, so that what is measured is the store and not
// the generator. What was written is remembered, and Verify compares it with what the unit holds.
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
	// BlockBytes is the size of a request, a multiple of 4096; Depth how many are in flight.
	BlockBytes, Depth int
	// SpanBytes bounds the offsets; Sequential goes through it in order.
	SpanBytes  uint64
	Sequential bool
	// StrideBytes, if not 0, is the distance of the places of requests: they are spread over SpanBytes instead of filling it.
	StrideBytes uint64
	// Duration bounds the run; Requests, if not 0, ends it earlier.
	Duration time.Duration
	Requests uint64
	Seed     uint64
}

// Result of one run.
type Result struct {
	Requests uint64        `json:"requests"`
	Bytes    uint64        `json:"bytes"`
	Elapsed  time.Duration `json:"elapsedNs"`
	P50      time.Duration `json:"p50Ns"`
	P99      time.Duration `json:"p99Ns"`
	P999     time.Duration `json:"p999Ns"`
	Max      time.Duration `json:"maxNs"`
}

// IOPS is requests per second.
func (r Result) IOPS() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// MBps is 10^6 bytes per second.
func (r Result) MBps() float64 { return float64(r.Bytes) / r.Elapsed.Seconds() / 1e6 }

func (r Result) String() string {
	return fmt.Sprintf("%8.0f IOPS %7.1f MB/s  p50 %-9s p99 %-9s p99.9 %-9s max %s", r.IOPS(), r.MBps(),
		r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond), r.P999.Round(time.Microsecond), r.Max.Round(time.Microsecond))
}

// Summary is the result of a run whose latencies are in h.
func Summary(h *Histogram, requestBytes int, elapsed time.Duration) Result {
	return Result{Requests: h.Count(), Bytes: h.Count() * uint64(requestBytes), Elapsed: elapsed,
		P50: h.Quantile(0.5), P99: h.Quantile(0.99), P999: h.Quantile(0.999), Max: h.Max()}
}

// slot is one request in flight. Requests of different slots never touch the same place, so that the last write of a place is known.
type slot struct {
	req    initiator.Request
	rnd    *rand.Rand
	number uint64
	turn   uint64
	start  time.Time
}

// Run measures one load on a session. It returns the first error of a request. With ledger not nil, what is written is entered there.
func Run(ctx context.Context, s *initiator.Session, o Options, ledger *Ledger) (Result, error) {
	var (
		h        Histogram
		issued   atomic.Uint64
		failed   atomic.Pointer[error]
		wg       sync.WaitGroup
		stride   = max(o.StrideBytes, uint64(o.BlockBytes))
		places   = o.SpanBytes / stride / uint64(o.Depth) // of each slot
		deadline = time.Now().Add(o.Duration)
	)
	if places == 0 {
		return Result{}, fmt.Errorf("%d requests of %d bytes do not fit into %d bytes", o.Depth, o.BlockBytes, o.SpanBytes)
	}
	begin := time.Now()
	submit := func(x *slot) {
		n := x.turn
		if x.turn++; !o.Sequential {
			n = x.rnd.Uint64()
		}
		x.req.Offset = (n%places*uint64(o.Depth) + x.number) * stride
		x.req.Op = initiator.Write
		if x.rnd.IntN(100) < o.ReadPercent {
			x.req.Op = initiator.Read
		} else if ledger != nil {
			ledger.stamp(x.req.Data, x.req.Offset)
		}
		x.start = time.Now()
		s.Submit(&x.req)
	}
	for i := range o.Depth {
		x := &slot{rnd: rand.New(rand.NewPCG(o.Seed, uint64(i))), number: uint64(i)}
		x.req.Data = make([]byte, o.BlockBytes)
		for j := range x.req.Data {
			x.req.Data[j] = byte(x.rnd.Uint32())
		}
		wg.Add(1)
		x.req.Done = func(r *initiator.Request) {
			now := time.Now()
			h.Add(now.Sub(x.start))
			if r.Err == nil && r.Op == initiator.Read && ledger != nil {
				r.Err = ledger.check(r.Data, r.Offset)
			}
			if r.Err != nil {
				err := fmt.Errorf("%d bytes at %d: %w", len(r.Data), r.Offset, r.Err)
				failed.CompareAndSwap(nil, &err)
			}
			if failed.Load() != nil || now.After(deadline) || ctx.Err() != nil || o.Requests > 0 && issued.Load() >= o.Requests {
				wg.Done()
				return
			}
			issued.Add(1)
			submit(x)
		}
		issued.Add(1)
		submit(x)
	}
	wg.Wait()
	r := Summary(&h, o.BlockBytes, time.Since(begin))
	if err := failed.Load(); err != nil {
		return r, *err
	}
	return r, ctx.Err()
}
