package load

import (
	"testing"
	"time"
)

func TestBucketsAreOrderedAndClose(t *testing.T) {
	last := -1
	for ns := uint64(0); ns < 1<<40; ns += ns/7 + 1 {
		b := bucketOf(ns)
		if b < last {
			t.Fatalf("%d ns lies in bucket %d, below that of a shorter duration", ns, b)
		}
		last = b
		if s := bucketStart(b); s > ns || float64(ns-s) > 0.0626*float64(ns) {
			t.Fatalf("%d ns lies in the bucket of %d ns", ns, s)
		}
	}
}

func TestQuantiles(t *testing.T) {
	var h Histogram
	for i := range 1000 {
		h.Add(time.Duration(i+1) * time.Microsecond)
	}
	if p := h.Quantile(0.5); p < 460*time.Microsecond || p > 510*time.Microsecond {
		t.Errorf("median %s", p)
	}
	if h.Max() != time.Millisecond || h.Count() != 1000 {
		t.Errorf("max %s of %d", h.Max(), h.Count())
	}
}
