package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/iomesh/iomesh/tests/bench/load"
)

// Fairness is what a volume at depth 1 suffers from another one at depth 128 on the same owner. Medians over the rounds.
type Fairness struct {
	Owner           string  `json:"owner"`
	Rounds          int     `json:"rounds"`
	AloneP99Micros  float64 `json:"aloneP99Micros"`
	BesideP99Micros float64 `json:"besideP99Micros"`
	// Ratio is the median of p99 beside over p99 alone; Loss the part of its own rate that the aggressor loses to the victim.
	Ratio float64 `json:"ratio"`
	Loss  float64 `json:"aggressorLoss"`
}

// maxUnfair is how much longer the victim's p99 may get.
const maxUnfair = 4.0

// WriteText writes the outcome for people.
func (f Fairness) WriteText(w io.Writer) {
	fmt.Fprintf(w, "\nfairness on %s: writes at depth 1 beside writes at depth 128 of another volume: p99 %.0f µs, alone %.0f µs, ratio %.2f (want ≤ %.0f), %d rounds; "+
		"the other volume loses %.1f %% of its rate\n", f.Owner, f.BesideP99Micros, f.AloneP99Micros, f.Ratio, maxUnfair, f.Rounds, 100*f.Loss)
}

// Fair measures fairness between two volumes with the same owner.
func (r *Runner) Fair(ctx context.Context, storaged, dir string) (Fairness, error) {
	const span = 128 << 20
	var out Fairness
	err := within(ctx, ClusterOptions{Storaged: storaged, Dir: dir, DiskBytes: 6*span + 2<<30}, func(c *cluster) error {
		// Of four volumes on three chunks two have the same owner.
		owned := map[string]*unit{}
		var victim, aggressor *unit
		for i := 0; victim == nil && i < 6; i++ {
			name := "f" + strconv.Itoa(i)
			u, err := c.unit(ctx, name, span, 3)
			if err != nil {
				return err
			}
			c.units[3] = append(c.units[3], u)
			v, err := c.show(ctx, name)
			if err != nil {
				return err
			}
			if other := owned[v.OwnerNode]; other != nil {
				victim, aggressor, out.Owner = other, u, v.OwnerNode
			}
			owned[v.OwnerNode] = u
		}
		if victim == nil {
			return errors.New("no two volumes have the same owner")
		}
		var alone, beside, ratios, losses []float64
		for range r.Pairs {
			quiet, err := runUnits(ctx, []*unit{victim}, Workload{BlockBytes: 4096, Depth: 1}, r.Duration)
			if err != nil {
				return err
			}
			free, err := runUnits(ctx, []*unit{aggressor}, Workload{BlockBytes: 4096, Depth: 128}, r.Duration)
			if err != nil {
				return err
			}
			var wg sync.WaitGroup
			var pressed, shared load.Result
			var err1, err2 error
			wg.Go(func() {
				shared, err2 = runUnits(ctx, []*unit{aggressor}, Workload{BlockBytes: 4096, Depth: 128}, r.Duration)
			})
			wg.Go(func() {
				pressed, err1 = runUnits(ctx, []*unit{victim}, Workload{BlockBytes: 4096, Depth: 1}, r.Duration)
			})
			wg.Wait()
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			fmt.Fprintf(r.Progress, "  alone %s\n  beside %s\n", quiet, pressed)
			alone = append(alone, float64(quiet.P99.Microseconds()))
			beside = append(beside, float64(pressed.P99.Microseconds()))
			ratios = append(ratios, float64(pressed.P99)/float64(quiet.P99))
			losses = append(losses, 1-shared.IOPS()/free.IOPS())
		}
		for _, v := range [][]float64{alone, beside, ratios, losses} {
			slices.Sort(v)
		}
		out.Rounds, out.AloneP99Micros, out.BesideP99Micros = r.Pairs, median(alone), median(beside)
		out.Ratio, out.Loss = median(ratios), median(losses)
		return c.Verify(ctx)
	})
	return out, err
}

// Missed says what bar does not hold, or "".
func (f Fairness) Missed() string {
	if f.Ratio > maxUnfair {
		return fmt.Sprintf("fairness: p99 beside is %.2f times alone, want at most %.0f", f.Ratio, maxUnfair)
	}
	return ""
}

// Rebuild is how fast replicas are made elsewhere, and what that costs the clients.
type Rebuild struct {
	// Idle and Loaded are without and with a foreground load.
	IdleBytesPerSecond   float64 `json:"idleBytesPerSecond"`
	LoadedBytesPerSecond float64 `json:"loadedBytesPerSecond"`
	// P99 of reads and writes at depth 4, before and during the rebuild.
	BeforeP99Micros float64 `json:"beforeP99Micros"`
	DuringP99Micros float64 `json:"duringP99Micros"`
}

// Bars of a rebuild.
const (
	leastRebuild = 300e6
	maxSlowed    = 2.0
)

// WriteText writes the outcome for people.
func (b Rebuild) WriteText(w io.Writer) {
	fmt.Fprintf(w, "\nrebuild: %.0f MB/s without load (want ≥ %.0f), %.0f MB/s with a 50/50 load at depth 4, whose p99 is %.0f µs, %.0f µs before, ratio %.2f (want ≤ %.0f)\n",
		b.IdleBytesPerSecond/1e6, leastRebuild/1e6, b.LoadedBytesPerSecond/1e6, b.DuringP99Micros, b.BeforeP99Micros, b.DuringP99Micros/b.BeforeP99Micros, maxSlowed)
}

// Missed says what bars do not hold.
func (b Rebuild) Missed() (out []string) {
	if b.IdleBytesPerSecond < leastRebuild {
		out = append(out, fmt.Sprintf("rebuild: %.0f MB/s, want at least %.0f", b.IdleBytesPerSecond/1e6, leastRebuild/1e6))
	}
	if b.DuringP99Micros > maxSlowed*b.BeforeP99Micros {
		out = append(out, fmt.Sprintf("rebuild: p99 of the load gets %.2f times as long, want at most %.0f", b.DuringP99Micros/b.BeforeP99Micros, maxSlowed))
	}
	return out
}

// Rebuilds kills one of four chunks for good, twice: without a load and with one.
func (r *Runner) Rebuilds(ctx context.Context, storaged, dir string, span uint64) (Rebuild, error) {
	var out Rebuild
	for _, loaded := range []bool{false, true} {
		sub := dir + "-idle"
		if loaded {
			sub = dir + "-loaded"
		}
		err := within(ctx, ClusterOptions{Storaged: storaged, Dir: sub, Chunks: 4, DiskBytes: 3*span + 2<<30, RepairDelay: time.Second}, func(c *cluster) error {
			return r.rebuild(ctx, c, span, loaded, &out)
		})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

func (r *Runner) rebuild(ctx context.Context, c *cluster, span uint64, loaded bool, out *Rebuild) error {
	u, err := c.unit(ctx, "r0", span, 3)
	if err != nil {
		return err
	}
	c.units[3] = []*unit{u}
	mix := Workload{ReadPercent: 50, BlockBytes: 4096, Depth: 4}
	if loaded {
		before, err := runUnits(ctx, c.units[3], mix, 2*r.Duration)
		if err != nil {
			return err
		}
		fmt.Fprintf(r.Progress, "  before %s\n", before)
		out.BeforeP99Micros = float64(before.P99.Microseconds())
	}
	v, err := c.show(ctx, "r0")
	if err != nil {
		return err
	}
	var status struct {
		Disks []struct {
			Node      string
			UsedBytes uint64
		}
		ResyncBytesLeft, ResyncBytesPerSecond uint64
	}
	if err := until(ctx, time.Minute, "the usage of three disks is reported", func() error {
		if err := c.ctl(ctx, &status, "status"); err != nil {
			return err
		}
		n := 0
		for _, d := range status.Disks {
			if d.UsedBytes >= span/2 {
				n++
			}
		}
		if n < 3 {
			return fmt.Errorf("%d disks", n)
		}
		return nil
	}); err != nil {
		return err
	}
	victim := ""
	for _, d := range status.Disks {
		if d.Node != v.OwnerNode && d.UsedBytes >= span/2 {
			victim = d.Node
		}
	}
	if err := kill(c.pids["chunk-"+victim]); err != nil {
		return err
	}
	delete(c.pids, "chunk-"+victim)
	var wg sync.WaitGroup
	stop, cancel := context.WithCancel(ctx)
	var during load.Result
	if loaded {
		wg.Go(func() { during, _ = runUnits(stop, c.units[3], mix, time.Hour) })
	}
	// From when the copying begins until all replicas are there again.
	var begun time.Time
	err = until(ctx, 5*time.Minute, "the replicas are there again", func() error {
		v, err := c.show(ctx, "r0")
		if err != nil {
			return err
		}
		if begun.IsZero() {
			if err := c.ctl(ctx, &status, "status"); err != nil {
				return err
			}
			if status.ResyncBytesLeft > 0 || status.ResyncBytesPerSecond > 0 {
				begun = time.Now()
			}
			return errors.New("the copying has not begun")
		}
		if v.ExtentsDegraded > 0 {
			return fmt.Errorf("%d extents degraded", v.ExtentsDegraded)
		}
		return nil
	})
	took := time.Since(begun)
	cancel()
	wg.Wait()
	if err != nil {
		return err
	}
	rate := float64(span) / took.Seconds()
	fmt.Fprintf(r.Progress, "  rebuilt %d MiB in %s\n", span>>20, took.Round(time.Millisecond))
	if loaded {
		fmt.Fprintf(r.Progress, "  during %s\n", during)
		out.LoadedBytesPerSecond, out.DuringP99Micros = rate, float64(during.P99.Microseconds())
	} else {
		out.IdleBytesPerSecond = rate
	}
	return c.Verify(ctx)
}
