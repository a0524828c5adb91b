package suite

import (
	"testing"
	"time"
)

func TestFioTellsOfTheSideThatRan(t *testing.T) {
	const doc = `fio: a note
{"jobs": [{"read": {"iops": 0.0, "clat_ns": {}}, "write": {"iops": 1234.5, "clat_ns": {"percentile": {"50.000000": 700000, "99.000000": 2500000}}}}]}`
	f, err := parseFio([]byte(doc))
	if err != nil || f.IOPS != 1234.5 || f.P50 != 700*time.Microsecond || f.P99 != 2500*time.Microsecond {
		t.Errorf("%+v, %v", f, err)
	}
	for _, bad := range []string{"", "{}", `{"jobs": []}`, "no json"} {
		if _, err := parseFio([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestFioURLsHaveTheirColonsEscaped(t *testing.T) {
	u := &unit{portal: "127.0.0.1:3260", iqn: "iqn.2016-02.com.iomesh:abc"}
	if got, want := u.fioURL(), `iscsi\://127.0.0.1\:3260/iqn.2016-02.com.iomesh\:abc/1`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
