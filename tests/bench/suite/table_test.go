package suite

import (
	"math"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/bench/load"
)

// costing is a sample in which a request cost so much.
func costing(us int) Sample {
	return Sample{Result: load.Result{Requests: 10}, Usage: usage{CPU: map[string]time.Duration{"chunk": 10 * time.Duration(us) * time.Microsecond}}}
}

// A machine that gets five times slower in the middle must not look like a cost that depends on the point.
func TestPointsAreComparedWithinTheirRound(t *testing.T) {
	first := []Sample{costing(10), costing(50), costing(12)}
	x, ratio := middle([]Sample{costing(55), costing(11), costing(13)}, first)
	if got := x.CPUPerRequest(); got != 13*time.Microsecond {
		t.Errorf("median cost %s", got)
	}
	if want := 13. / 12; math.Abs(ratio-want) > 1e-9 {
		t.Errorf("ratio %.3f, want %.3f", ratio, want)
	}
	for _, c := range []struct{ write, read, wantWrite, wantRead float64 }{{1.1, 1, 1.1, 1}, {1, 0.5, 1, 2}} {
		table := Table{Flat: true, Rows: []Row{{WriteRatio: 1, ReadRatio: 1}, {WriteRatio: c.write, ReadRatio: c.read}}}
		if w, r := table.Spread(); w != c.wantWrite || r != c.wantRead {
			t.Errorf("%+v: spread %.2f, %.2f", c, w, r)
		}
		if missed := table.Missed() != ""; missed != (c.wantRead > flatMost) {
			t.Errorf("%+v: %q", c, table.Missed())
		}
	}
}
