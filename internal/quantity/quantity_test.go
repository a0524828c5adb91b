package quantity

import (
	"strings"
	"testing"
)

func TestQuantitiesAreStrict(t *testing.T) {
	for s, want := range map[string]uint64{"1": 1, "4096": 4096, "1Ki": 1024, "512Mi": 512 << 20, "1Gi": 1 << 30, "2Ti": 2 << 40, "1k": 1000, "3G": 3e9, "18446744073709551615": 1<<64 - 1} {
		if got, err := Parse(s); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "Gi", "1.5Gi", "-1", "+1", "1 Gi", " 1", "1gi", "1GiB", "1e3", "0x10", "1K", "16777216Ti", "99999999999999999999", "١"} {
		if n, err := Parse(s); err == nil {
			t.Errorf("%q is taken for %d", s, n)
		}
	}
}

func TestTextIsShort(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 1023: "1023", 1024: "1Ki", 1536 << 20: "1.5Gi", 8 << 30: "8Gi", 1 << 50: "1Pi"} {
		if got := Text(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("10Gi")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := Parse(s); err == nil && n == 0 && strings.Trim(s, "0KMGTPik") != "" {
			t.Errorf("%q is 0", s)
		}
	})
}
