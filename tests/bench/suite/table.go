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
}

// flatMost is how far the cost of a point may be from that of the first one, as a ratio.
const flatMost = 1.15

// Spread is the cost per write and per read of the dearest point over that of the cheapest, as CPU of all processes.
func (t *Table) Spread() (write, read float64) {
	ratio := func(of func(Row) Sample) float64 {
		var costs []float64
		for _, r := range t.Rows {
			costs = append(costs, float64(of(r).CPUPerRequest()))
		}
		if len(costs) == 0 || slices.Min(costs) == 0 {
			return 0
		}
		return slices.Max(costs) / slices.Min(costs)
	}
	return ratio(func(r Row) Sample { return r.Write }), ratio(func(r Row) Sample { return r.Read })
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
		fmt.Fprintf(w, "CPU per request, dearest over cheapest: write %.2f, read %.2f (want ≤ %.2f)\n", x, y, flatMost)
	}
}

// point measures random writes and reads of 4 KiB.
func (r *Runner) point(ctx context.Context, s Subject, name string, run func(readPercent int, d time.Duration) (load.Result, error)) (Row, error) {
	row := Row{Point: name}
	if err := settle(ctx, s); err != nil {
		return row, fmt.Errorf("%s: %w", name, err)
	}
	for _, reads := range []int{0, 100} {
		if _, err := run(reads, r.Duration/8); err != nil {
			return row, fmt.Errorf("%s: %w", name, err)
		}
		var all []Sample
		for range r.Pairs {
			m, err := startMeter(s.Processes())
			if err != nil {
				return row, err
			}
			taken := r.profile(ctx, s, Workload{Name: fmt.Sprintf("%s-reads%d", name, reads)})
			res, err := run(reads, r.Duration)
			if err := errors.Join(err, taken()); err != nil {
				return row, fmt.Errorf("%s: %w", name, err)
			}
			u, err := m.stop()
			if err != nil {
				return row, err
			}
			x := Sample{Subject: s.Name(), Result: res, Usage: u}
			fmt.Fprintf(r.Progress, "  %-24s reads %3d %%  %s  CPU %s/req, foreign %.2f\n", name, reads, res, x.CPUPerRequest().Round(time.Microsecond/10), u.Foreign)
			all = append(all, x)
		}
		slices.SortFunc(all, func(a, b Sample) int { return int(a.CPUPerRequest() - b.CPUPerRequest()) })
		if reads == 0 {
			row.Write = all[len(all)/2]
		} else {
			row.Read = all[len(all)/2]
		}
	}
	return row, nil
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
		return fmt.Sprintf("%s: the dearest point costs %.2f times the cheapest per write, %.2f times per read, want at most %.2f", t.Name, x, y, flatMost)
	}
	return ""
}
