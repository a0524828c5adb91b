package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// FioResult is one run of fio through libiscsi.
type FioResult struct {
	Subject  string        `json:"subject"`
	Workload string        `json:"workload"`
	IOPS     float64       `json:"iops"`
	P50      time.Duration `json:"p50Ns"`
	P99      time.Duration `json:"p99Ns"`
}

// WriteText writes the result for people.
func (f FioResult) WriteText(w io.Writer) {
	fmt.Fprintf(w, "fio, %-24s %-15s %9.0f IOPS  p50 %-10s p99 %s\n", f.Workload, f.Subject, f.IOPS, f.P50.Round(time.Microsecond), f.P99.Round(time.Microsecond))
}

// reached is a subject with a unit that other initiators can use.
type reached interface{ firstUnit() *unit }

func (c *cluster) firstUnit() *unit { return c.units[3][0] }
func (t *tgtd) firstUnit() *unit    { return t.unit }

// fioURL is a unit in the words of fio's libiscsi engine, which wants colons escaped.
func (u *unit) fioURL() string {
	return "iscsi\\://" + strings.ReplaceAll(u.portal+"/"+u.iqn+"/1", ":", "\\:")
}

// Fio runs random writes and reads with a fio that has the libiscsi engine. It overwrites what the ledgers know: Verify comes before it.
func (r *Runner) Fio(ctx context.Context, program string, subjects []string) ([]FioResult, error) {
	var out []FioResult
	for _, w := range []Workload{write1, write32, read1, read32} {
		for _, name := range subjects {
			s, ok := r.Subjects[name].(reached)
			if !ok {
				return out, fmt.Errorf("fio: %s has no unit that it can use", name)
			}
			rw := "randwrite"
			if w.ReadPercent == 100 {
				rw = "randread"
			}
			u := s.firstUnit()
			cmd := exec.CommandContext(ctx, program, "--name=bench", "--ioengine=libiscsi", "--filename="+u.fioURL(), "--rw="+rw, "--bs=4096", "--direct=1",
				"--iodepth="+strconv.Itoa(w.Depth), "--size="+strconv.FormatUint(u.span, 10), "--time_based", "--runtime="+strconv.Itoa(max(1, int(r.Duration.Seconds()))),
				"--output-format=json")
			b, err := cmd.Output()
			if err != nil {
				return out, fmt.Errorf("%s with the libiscsi engine on %s: %w: %s", program, name, err, b)
			}
			f, err := parseFio(b)
			if err != nil {
				return out, fmt.Errorf("%s on %s: %w", program, name, err)
			}
			f.Subject, f.Workload = name, w.Name
			f.WriteText(r.Progress)
			out = append(out, f)
		}
	}
	return out, nil
}

// parseFio reads the result of a job from fio's JSON.
func parseFio(b []byte) (FioResult, error) {
	type side struct {
		IOPS float64 `json:"iops"`
		Clat struct {
			Percentile map[string]uint64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var doc struct {
		Jobs []struct{ Read, Write side }
	}
	if i := strings.IndexByte(string(b), '{'); i > 0 {
		b = b[i:] // notes before it
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return FioResult{}, fmt.Errorf("output of fio: %w", err)
	}
	if len(doc.Jobs) != 1 {
		return FioResult{}, fmt.Errorf("output of fio: %d jobs, expected one", len(doc.Jobs))
	}
	s := doc.Jobs[0].Read
	if s.IOPS == 0 {
		s = doc.Jobs[0].Write
	}
	return FioResult{IOPS: s.IOPS, P50: time.Duration(s.Clat.Percentile["50.000000"]), P99: time.Duration(s.Clat.Percentile["99.000000"])}, nil
}
