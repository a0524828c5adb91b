package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/tests/bench/load"
)

// Table is a measurement along one quantity.
type Table struct {
	Name string `json:"name"`
	// Flat says that the cost per request shall not depend on the quantity.
	Flat bool  `json:"flat"`
	Rows []Row `json:"rows"`
}

// Row is one point of a Table: random 4 KiB writes, then reads.
type Row struct {
	Point       string `json:"point"`
	Write, Read Sample
	// WriteRatio and ReadRatio are the costs over those of the first point in the same round; medians of the rounds.
	WriteRatio, ReadRatio float64
}

// flatMost is how far the cost of a point may be from that of the first one, as a ratio.
const flatMost = 1.15

// Spread is how far the cost per write and per read of a point, as CPU of all processes, is from that of the first one, as a ratio: of the point for
// which it is farthest. In each round the points are measured one after the other and compared; the median of the rounds counts, because what the
// machine gives changes from minute to minute.
func (t *Table) Spread() (write, read float64) {
	for _, r := range t.Rows {
		write, read = max(write, r.WriteRatio, 1/r.WriteRatio), max(read, r.ReadRatio, 1/r.ReadRatio)
	}
	return write, read
}

// WriteText writes the table for people.
func (t *Table) WriteText(w io.Writer) {
	fmt.Fprintf(w, "\n%-24s %10s %10s %10s %10s %10s %10s %10s %10s\n", t.Name, "WRITE IOPS", "p50", "p99", "CPU/write", "READ IOPS", "p50", "p99", "CPU/read")
	for _, r := range t.Rows {
		a, b := r.Write, r.Read
		us := func(d time.Duration) string { return d.Round(time.Microsecond).String() }
		fmt.Fprintf(w, "%-24s %10.0f %10s %10s %10s %10.0f %10s %10s %10s\n", r.Point, a.Result.IOPS(), us(a.Result.P50), us(a.Result.P99),
			a.CPUPerRequest().Round(time.Microsecond/10), b.Result.IOPS(), us(b.Result.P50), us(b.Result.P99), b.CPUPerRequest().Round(time.Microsecond/10))
	}
	if t.Flat {
		x, y := t.Spread()
		fmt.Fprintf(w, "CPU per request against that of the first point, in the same round, where it differs most: write %.2f, read %.2f (want ≤ %.2f)\n", x, y, flatMost)
	}
}

// point is something that takes a load of random reads or writes of 4 KiB.
type point struct {
	name    string
	subject Subject
	run     func(readPercent int, d time.Duration) (load.Result, error)
}

// measure measures points, Pairs times, in turn, each when nothing is left to be done from what came before.
func (r *Runner) measure(ctx context.Context, t *Table, points ...point) error {
	samples := make([][2][]Sample, len(points))
	for _, p := range points {
		_, err := p.run(0, r.Duration/8)
		if err == nil {
			// Longer than writes: see warm.
			_, err = p.run(100, 2*r.Duration)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := settle(ctx, p.subject); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	for round := range r.Pairs {
		for k, reads := range []int{0, 100} {
			for i := range points {
				// Forwards and backwards in turn, so that none is always the first.
				if round%2 == 1 {
					i = len(points) - 1 - i
				}
				p := points[i]
				name := fmt.Sprintf("%s, reads %d", p.name, reads)
				x, err := r.undisturbed(func() (Sample, error) {
					return r.metered(ctx, p.subject, name, func() (load.Result, error) {
						res, err := p.run(reads, r.Duration)
						// What writes leave to be done later is part of what they cost.
						return res, errors.Join(err, settle(ctx, p.subject))
					})
				})
				if err != nil {
					return err
				}
				samples[i][k] = append(samples[i][k], x)
			}
		}
	}
	for i, p := range points {
		row := Row{Point: p.name}
		row.Write, row.WriteRatio = middle(samples[i][0], samples[0][0])
		row.Read, row.ReadRatio = middle(samples[i][1], samples[0][1])
		t.Rows = append(t.Rows, row)
	}
	return nil
}

// undisturbed takes a sample again, a few times, until nobody disturbed it; else the one that was disturbed least.
func (r *Runner) undisturbed(take func() (Sample, error)) (Sample, error) {
	const tries = 5
	var best Sample
	for i := range tries {
		x, err := take()
		if err != nil || !r.disturbed(x) {
			return x, err
		}
		if i == 0 || x.Usage.Foreign+x.Usage.Stolen < best.Usage.Foreign+best.Usage.Stolen {
			best = x
		}
	}
	return best, nil
}

// middle is the sample with the median cost, and the median of the ratios of the costs to those of first in the same rounds.
func middle(all, first []Sample) (Sample, float64) {
	ratios := make([]float64, len(all))
	for i := range all {
		ratios[i] = float64(all[i].CPUPerRequest()) / max(1, float64(first[i].CPUPerRequest()))
	}
	slices.Sort(ratios)
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b Sample) int { return int(a.CPUPerRequest() - b.CPUPerRequest()) })
	return sorted[len(sorted)/2], median(ratios)
}

// spread is a volume of which blocks far from each other are written: places of 4 KiB each, stride bytes apart.
type spread struct {
	session *initiator.Session
	ledger  *load.Ledger
	size    uint64
	stride  uint64
}

func dialSpread(ctx context.Context, portals []string, iqn string, size uint64, places uint64) (*spread, error) {
	s, err := dialSession(ctx, portals, iqn)
	if err != nil {
		return nil, err
	}
	stride := size / places &^ 4095
	x := &spread{session: s, ledger: load.NewSparseLedger(size, stride), size: size, stride: stride}
	// Every place once, so that reads read data and writes overwrite.
	_, err = load.Run(ctx, s, load.Options{BlockBytes: 4096, Depth: 32, SpanBytes: size, StrideBytes: stride, Sequential: true, Duration: time.Hour, Requests: places}, x.ledger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write the places of %s: %w", iqn, err), s.Close())
	}
	return x, nil
}

func (x *spread) run(ctx context.Context, reads, depth int, d time.Duration) (load.Result, error) {
	return load.Run(ctx, x.session, load.Options{ReadPercent: reads, BlockBytes: 4096, Depth: depth, SpanBytes: x.size, StrideBytes: x.stride,
		Duration: d, Seed: uint64(time.Now().UnixNano())}, x.ledger)
}

// Missed says what bar does not hold, or "".
func (t *Table) Missed() string {
	if x, y := t.Spread(); t.Flat && max(x, y) > flatMost {
		return fmt.Sprintf("%s: the cost of a point is %.2f times that of the first per write, %.2f times per read, or the inverse; want at most %.2f", t.Name, x, y, flatMost)
	}
	return ""
}
