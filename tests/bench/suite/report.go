package suite

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Report is all that was measured.
type Report struct {
	Version   string              `json:"version"`
	Taken     time.Time           `json:"taken"`
	Machine   string              `json:"machine"`
	Outcomes  []Outcome           `json:"outcomes"`
	Alone     map[string][]Sample `json:"alone"`
	Fio       []FioResult         `json:"fio,omitempty"`
	Verified  bool                `json:"verified"`
	CPUWrite  time.Duration       `json:"cpuPerWriteNs"`    // at depth 32, all processes; median of the pairs
	TailWrite float64             `json:"tailOverMedianD1"` // p99.9 over the median of writes at depth 1; median of the pairs
}

// Bars besides the ratios.
const (
	maxCPUPerWrite = 80 * time.Microsecond
	maxTail        = 10.0
)

// Conclude computes what is derived from the pairs.
func (r *Report) Conclude() {
	for _, o := range r.Outcomes {
		var cpu, tail []float64
		for _, p := range o.Pairs {
			cpu = append(cpu, float64(p.Ours.CPUPerRequest()))
			tail = append(tail, float64(p.Ours.Result.P999)/float64(max(1, p.Ours.Result.P50)))
		}
		slices.Sort(cpu)
		slices.Sort(tail)
		switch {
		case o.Comparison.Workload == write32 && o.Comparison.Peer == CacheOff:
			r.CPUWrite = time.Duration(median(cpu))
		case o.Comparison.Workload == write1:
			r.TailWrite = median(tail)
		}
	}
}

// Missed are the bars that do not hold.
func (r *Report) Missed() []string {
	var out []string
	for _, o := range r.Outcomes {
		if !o.Met {
			out = append(out, fmt.Sprintf("%s, %s against %s: %.2f, %s", o.Comparison.Workload.Name, o.Comparison.Metric, o.Comparison.Peer, o.Median, bar(o.Comparison)))
		}
	}
	if r.CPUWrite > maxCPUPerWrite {
		out = append(out, fmt.Sprintf("CPU per write at depth 32: %s, want at most %s", r.CPUWrite.Round(time.Microsecond/10), maxCPUPerWrite))
	}
	if r.TailWrite > maxTail {
		out = append(out, fmt.Sprintf("p99.9 of write d1 is %.1f times its median, want at most %.0f", r.TailWrite, maxTail))
	}
	if !r.Verified {
		out = append(out, "what was written was not compared")
	}
	return out
}

func bar(c Comparison) string {
	switch {
	case c.Least > 0:
		return fmt.Sprintf("want ≥ %.2f", c.Least)
	case c.Most > 0:
		return fmt.Sprintf("want ≤ %.2f", c.Most)
	}
	return "no bar"
}

// WriteText writes the report as tables.
func (r *Report) WriteText(w io.Writer) {
	fmt.Fprintf(w, "IOMesh %s, %s, %s\n\n", r.Version, r.Taken.UTC().Format(time.RFC3339), r.Machine)
	fmt.Fprintf(w, "%-16s %-15s %-15s %10s %10s %7s %13s %-12s %s\n", "WORKLOAD", "AGAINST", "METRIC", "OURS", "PEER", "RATIO", "SPREAD", "BAR", "PAIRS (DISCARDED)")
	for _, o := range r.Outcomes {
		var a, b []float64
		for _, p := range o.Pairs {
			a, b = append(a, o.Comparison.Metric.of(p.Ours.Result)), append(b, o.Comparison.Metric.of(p.Peer.Result))
		}
		slices.Sort(a)
		slices.Sort(b)
		mark := ""
		if !o.Met {
			mark = "  MISSED"
		}
		fmt.Fprintf(w, "%-16s %-15s %-15s %10.0f %10.0f %7.2f %6.2f–%-6.2f %-12s %d (%d)%s\n", o.Comparison.Workload.Name, o.Comparison.Peer, o.Comparison.Metric,
			median(a), median(b), o.Median, o.Lowest, o.Highest, bar(o.Comparison), len(o.Pairs), o.Discarded, mark)
	}
	fmt.Fprintf(w, "\n%-28s %-15s %9s %8s %10s %10s %10s %9s %8s\n", "WORKLOAD", "SUBJECT", "IOPS", "MB/s", "p50", "p99", "p99.9", "CPU/req", "RSS MiB")
	row := func(name string, samples []Sample) {
		s := samples[len(samples)/2]
		var rss uint64
		for _, n := range s.Usage.RSS {
			rss += n
		}
		fmt.Fprintf(w, "%-28s %-15s %9.0f %8.1f %10s %10s %10s %9s %8d\n", name, s.Subject, s.Result.IOPS(), s.Result.MBps(), s.Result.P50.Round(time.Microsecond),
			s.Result.P99.Round(time.Microsecond), s.Result.P999.Round(time.Microsecond), s.CPUPerRequest().Round(time.Microsecond/10), rss>>20)
	}
	byIOPS := func(a, b Sample) int { return int(a.Result.IOPS() - b.Result.IOPS()) }
	for _, o := range r.Outcomes {
		var ours, peer []Sample
		for _, p := range o.Pairs {
			ours, peer = append(ours, p.Ours), append(peer, p.Peer)
		}
		slices.SortFunc(ours, byIOPS)
		slices.SortFunc(peer, byIOPS)
		row(o.Comparison.Workload.Name, ours)
		row(o.Comparison.Workload.Name, peer)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Alone)) {
		row(name, r.Alone[name])
	}
	for _, f := range r.Fio {
		f.WriteText(w)
	}
	fmt.Fprintf(w, "\nCPU of all processes per 4 KiB write at depth 32: %s (want ≤ %s)\n", r.CPUWrite.Round(time.Microsecond/10), maxCPUPerWrite)
	fmt.Fprintf(w, "p99.9 of write d1 over its median: %.1f (want ≤ %.0f)\n", r.TailWrite, maxTail)
	fmt.Fprintf(w, "data written compared with what is stored: %v\n", r.Verified)
}
