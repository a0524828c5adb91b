package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/iomesh/iomesh/tests/bench/load"
)

// Metric is what a comparison compares.
type Metric string

// Metrics.
const (
	IOPS    Metric = "IOPS"
	Latency Metric = "median latency"
	MBps    Metric = "MB/s"
)

func (m Metric) of(r load.Result) float64 {
	switch m {
	case Latency:
		return float64(r.P50.Nanoseconds()) / 1e3
	case MBps:
		return r.MBps()
	}
	return r.IOPS()
}

// Comparison runs one workload on our cluster and on a peer. The median of the ratios ours/peer must not be below Least, or not above
// Most; 0: no bar.
type Comparison struct {
	Workload    Workload
	Peer        string
	Metric      Metric
	Least, Most float64
}

var (
	write1     = Workload{Name: "write d1", BlockBytes: 4096, Depth: 1, Volumes: 1, Replicas: 3}
	write32    = Workload{Name: "write d32", BlockBytes: 4096, Depth: 32, Volumes: 1, Replicas: 3}
	read1      = Workload{Name: "read d1", ReadPercent: 100, BlockBytes: 4096, Depth: 1, Volumes: 1, Replicas: 3}
	read32     = Workload{Name: "read d32", ReadPercent: 100, BlockBytes: 4096, Depth: 32, Volumes: 1, Replicas: 3}
	mix32      = Workload{Name: "70/30 mix d32", ReadPercent: 70, BlockBytes: 4096, Depth: 32, Volumes: 1, Replicas: 3}
	largeWrite = Workload{Name: "1 MiB write d8", BlockBytes: 1 << 20, Depth: 8, Sequential: true, Volumes: 1, Replicas: 3}
	largeRead  = Workload{Name: "1 MiB read d8", ReadPercent: 100, BlockBytes: 1 << 20, Depth: 8, Sequential: true, Volumes: 1, Replicas: 3}
)

// Comparisons are those with a bar, and some for orientation.
func Comparisons() []Comparison {
	return []Comparison{
		{Workload: write32, Peer: CacheOff, Metric: IOPS, Least: 1},
		{Workload: write1, Peer: "floor", Metric: Latency, Most: 1.4},
		{Workload: read32, Peer: AIO, Metric: IOPS, Least: 0.9},
		{Workload: read1, Peer: AIO, Metric: Latency, Most: 1.3},
		{Workload: largeWrite, Peer: CacheOff, Metric: MBps, Least: 0.7},
		{Workload: largeRead, Peer: AIO, Metric: MBps, Least: 0.9},
		{Workload: largeWrite, Peer: Bare, Metric: MBps},
		{Workload: write32, Peer: "floor", Metric: IOPS},
		{Workload: mix32, Peer: CacheOff, Metric: IOPS},
	}
}

// Single are workloads of our cluster alone.
func Single() []Workload {
	four := func(w Workload) Workload { w.Name, w.Volumes = w.Name+", 4 volumes", 4; return w }
	two := func(w Workload) Workload { w.Name, w.Replicas = w.Name+", 2 replicas", 2; return w }
	return []Workload{two(write1), two(write32), two(largeWrite), four(write32), four(read32), four(mix32)}
}

// Sample is one run of a subject.
type Sample struct {
	Subject string      `json:"subject"`
	Result  load.Result `json:"result"`
	Usage   usage       `json:"usage"`
}

// CPUPerRequest of all processes of the subject.
func (s Sample) CPUPerRequest() time.Duration {
	if s.Result.Requests == 0 {
		return 0
	}
	return s.Usage.total() / time.Duration(s.Result.Requests)
}

// Pair is a run of ours and one of a peer's.
type Pair struct {
	Ours  Sample  `json:"ours"`
	Peer  Sample  `json:"peer"`
	Ratio float64 `json:"ratio"`
}

// Runner runs comparisons.
type Runner struct {
	Subjects map[string]Subject
	Pairs    int
	Duration time.Duration
	// MaxForeign is the share of a core that others may use in a run that counts.
	MaxForeign float64
	// MaxStolen is the share of a core that the host of a virtual machine may withhold in a run that counts.
	MaxStolen float64
	Progress  io.Writer
	// ProfileDir, if not empty, is where CPU profiles of our chunks go, one of each run.
	ProfileDir string
	runs       int
}

func (r *Runner) sample(ctx context.Context, subject string, w Workload) (Sample, error) {
	s, ok := r.Subjects[subject]
	if !ok {
		return Sample{}, fmt.Errorf("workload %s: no subject %s was started", w.Name, subject)
	}
	// A moment to get going: caches, windows and the processor's clock.
	if _, err := s.Run(ctx, w, r.Duration/8); err != nil {
		return Sample{}, fmt.Errorf("%s on %s: %w", w.Name, subject, err)
	}
	return r.metered(ctx, s, w.Name, func() (load.Result, error) { return s.Run(ctx, w, r.Duration) })
}

// metered measures one run of a load on a subject: what came of it, what it cost, and its profiles if they are wanted.
func (r *Runner) metered(ctx context.Context, s Subject, name string, run func() (load.Result, error)) (Sample, error) {
	m, err := startMeter(s.Processes())
	if err != nil {
		return Sample{}, err
	}
	profiled := r.profile(ctx, s, name)
	res, err := run()
	if err := errors.Join(err, profiled()); err != nil {
		return Sample{}, fmt.Errorf("%s on %s: %w", name, s.Name(), err)
	}
	u, err := m.stop()
	out := Sample{Subject: s.Name(), Result: res, Usage: u}
	fmt.Fprintf(r.Progress, "  %-15s %-24s %s  CPU %s/req, foreign %.2f, stolen %.2f\n", s.Name(), name, res, out.CPUPerRequest().Round(time.Microsecond/10), u.Foreign, u.Stolen)
	return out, err
}

// Outcome of a comparison.
type Outcome struct {
	Comparison Comparison `json:"comparison"`
	Pairs      []Pair     `json:"pairs"`
	Discarded  int        `json:"discarded"`
	Median     float64    `json:"medianRatio"`
	Lowest     float64    `json:"lowestRatio"`
	Highest    float64    `json:"highestRatio"`
	Met        bool       `json:"met"`
}

// Compare runs the pairs of a comparison.
func (r *Runner) Compare(ctx context.Context, c Comparison) (Outcome, error) {
	out := Outcome{Comparison: c}
	if c.Workload.ReadPercent > 0 {
		for _, name := range []string{"iomesh", c.Peer} {
			if err := r.warm(ctx, name); err != nil {
				return out, err
			}
		}
	}
	for i := 0; len(out.Pairs) < r.Pairs; i++ {
		if out.Discarded > 3*r.Pairs {
			return out, fmt.Errorf("%s against %s: %d pairs discarded, other programs used more than %.2f of a core, or the host withheld more than %.2f: run it on a quiet machine, or with -foreign or -stolen",
				c.Workload.Name, c.Peer, out.Discarded, r.MaxForeign, r.MaxStolen)
		}
		var p Pair
		order := []string{"iomesh", c.Peer}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, name := range order {
			s, err := r.sample(ctx, name, c.Workload)
			if err != nil {
				return out, err
			}
			if name == "iomesh" {
				p.Ours = s
			} else {
				p.Peer = s
			}
		}
		if r.disturbed(p.Ours) || r.disturbed(p.Peer) {
			out.Discarded++
			continue
		}
		p.Ratio = c.Metric.of(p.Ours.Result) / c.Metric.of(p.Peer.Result)
		out.Pairs = append(out.Pairs, p)
	}
	ratios := make([]float64, len(out.Pairs))
	for i, p := range out.Pairs {
		ratios[i] = p.Ratio
	}
	slices.Sort(ratios)
	out.Median, out.Lowest, out.Highest = median(ratios), ratios[0], ratios[len(ratios)-1]
	out.Met = out.Median >= c.Least && (c.Most == 0 || out.Median <= c.Most)
	return out, nil
}

// warm reads what is read in a comparison once: below a virtual disk there is a cache, which would serve best whatever was written last.
func (r *Runner) warm(ctx context.Context, subject string) error {
	s, ok := r.Subjects[subject]
	if !ok {
		return fmt.Errorf("no subject %q", subject)
	}
	if _, err := s.Run(ctx, largeRead, 2*r.Duration); err != nil {
		return fmt.Errorf("read %s once: %w", subject, err)
	}
	return nil
}

// disturbed says that a run does not count.
func (r *Runner) disturbed(s Sample) bool {
	return s.Usage.Foreign > r.MaxForeign || s.Usage.Stolen > r.MaxStolen
}

// median of sorted values.
func median(v []float64) float64 {
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// Alone runs a workload of our cluster Pairs times.
func (r *Runner) Alone(ctx context.Context, w Workload) ([]Sample, error) {
	var out []Sample
	for range r.Pairs {
		s, err := r.sample(ctx, "iomesh", w)
		if err != nil {
			return out, err
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Sample) int { return int(a.Result.IOPS() - b.Result.IOPS()) })
	return out, nil
}
