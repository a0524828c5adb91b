package replication

import (
	"testing"
	"time"
)

func TestQuantilesOfLatencies(t *testing.T) {
	var l, m Latency
	if got := l.Quantile(0.99); got != 0 {
		t.Errorf("without requests %s", got)
	}
	for us := range 1000 {
		l.Add(time.Duration(us) * time.Microsecond)
	}
	m.Add(time.Hour)
	m.Add(-time.Second)
	l.Merge(&m)
	if l.Requests != 1002 {
		t.Errorf("%d requests", l.Requests)
	}
	for _, c := range []struct{ q, atLeast, atMost float64 }{{0, 0, 0}, {0.5, 500. / 1.5, 500}, {0.99, 990 / 1.5, 990}, {0.9995, 60e6, 3600e6}} {
		if got := l.Quantile(c.q).Seconds() * 1e6; got < c.atLeast || got > c.atMost {
			t.Errorf("quantile %g: %.0f µs, want %.0f to %.0f", c.q, got, c.atLeast, c.atMost)
		}
	}
	// Each bucket begins where the one below it ends.
	for us := range uint64(1 << 16) {
		var one Latency
		one.Add(time.Duration(us) * time.Microsecond)
		if got := uint64(one.Quantile(0) / time.Microsecond); got > us || us > 1 && us*2 >= got*3+2 {
			t.Fatalf("%d µs lies in the bucket from %d µs", us, got)
		}
	}
}
