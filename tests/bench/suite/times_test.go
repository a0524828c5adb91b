package suite

import (
	"slices"
	"testing"
	"time"
)

func TestPausesAreTheFirstAndThirdClockTimes(t *testing.T) {
	for line, want := range map[string][]time.Duration{
		"gc 12 @3.210s 1%: 0.018+1.4+0.003 ms clock, 0.036+0.2/1.1/0.5+0.007 ms cpu, 8->9->4 MB, 9 MB goal, 0 MB stacks, 0 MB globals, 2 P": {18 * time.Microsecond, 3 * time.Microsecond},
		"gc 1 @0.1s 0%: 6.5+2+0.25 ms clock, rest":              {6500 * time.Microsecond, 250 * time.Microsecond},
		`{"time":"2026","msg":"gc 1 @0.1s 0%: 1+2+3 ms clock"}`: nil,
		"gc 1 @0.1s 0%: 1+2 ms clock":                           nil,
		"gc 1 @0.1s 0%: a+b+c ms clock":                         nil,
	} {
		if got := pausesOf(line); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
}
