package suite

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Builds compares builds of the block service with each other: every workload on each in turn, in a changing order.
func (r *Runner) Builds(ctx context.Context, names []string, only string, w io.Writer) error {
	fmt.Fprintf(w, "%-18s %-14s %10s %9s %10s %10s %10s\n", "WORKLOAD", "BUILD", "IOPS", "MB/s", "p50", "p99", "CPU/req")
	for _, load := range []Workload{write1, write32, read1, read32, mix32, largeWrite, largeRead} {
		if !strings.HasPrefix(load.Name, only) {
			continue
		}
		all := map[string][]Sample{}
		for i := range r.Pairs {
			order := slices.Clone(names)
			if i%2 == 1 {
				slices.Reverse(order)
			}
			for _, name := range order {
				s, err := r.sample(ctx, name, load)
				if err != nil {
					return err
				}
				all[name] = append(all[name], s)
			}
		}
		for _, name := range names {
			mid := func(f func(Sample) float64) float64 {
				var v []float64
				for _, s := range all[name] {
					v = append(v, f(s))
				}
				slices.Sort(v)
				return median(v)
			}
			us := func(f func(Sample) time.Duration) time.Duration {
				return time.Duration(mid(func(s Sample) float64 { return float64(f(s)) })).Round(time.Microsecond / 10)
			}
			fmt.Fprintf(w, "%-18s %-14s %10.0f %9.1f %10s %10s %10s\n", load.Name, name, mid(func(s Sample) float64 { return s.Result.IOPS() }),
				mid(func(s Sample) float64 { return s.Result.MBps() }), us(func(s Sample) time.Duration { return s.Result.P50 }),
				us(func(s Sample) time.Duration { return s.Result.P99 }), us(Sample.CPUPerRequest))
		}
	}
	return nil
}
