package chunk

import (
	"testing"
	"time"
)

func TestLightVolumesAreSeenForAPeriodAndNoLongerThanTwo(t *testing.T) {
	const p = crowdPeriod
	for _, x := range []struct {
		name  string
		added []time.Duration
		self  counted
		at    time.Duration
		want  bool
	}{
		{"nobody", nil, counted{}, 0, false},
		{"one in this period", []time.Duration{0}, counted{}, p - 1, true},
		{"one in the period before", []time.Duration{0}, counted{}, 2*p - 1, true},
		{"one long ago", []time.Duration{0}, counted{}, 2 * p, false},
		{"one in the period before, and another in this", []time.Duration{0, p}, counted{}, 2*p - 1, true},
		{"in this period only oneself", []time.Duration{0}, counted{last: 1}, 0, false},
		{"in both periods only oneself", []time.Duration{0, p}, counted{last: 2, before: 1}, p, false},
		{"in the period before also another", []time.Duration{0, 0, p}, counted{last: 2, before: 1}, p, true},
		{"in this period also another", []time.Duration{0, p, p}, counted{last: 2, before: 1}, p, true},
		{"another in the period before, oneself in this", []time.Duration{0, p}, counted{last: 2}, p, true},
		{"oneself before, another in this", []time.Duration{0, p}, counted{last: 1}, p, true},
		{"oneself in the period before, and nobody since", []time.Duration{0}, counted{last: 1}, p, false},
		{"another in the period before, and nobody since", []time.Duration{0, 0}, counted{last: 1}, p, true},
		{"with a clock read before that of another goroutine", []time.Duration{p, p - 1}, counted{last: 2}, p, false},
	} {
		var c crowd
		for _, at := range x.added {
			c.add(period(at))
		}
		if got := c.others(x.self, x.at); got != x.want {
			t.Errorf("%s: others = %v", x.name, got)
		}
	}
}

func TestReplicasOfLightVolumesCountOncePerPeriodAndThoseOfHeavyOnesDoNot(t *testing.T) {
	for _, x := range []struct {
		name  string
		depth int
		want  uint64 // in the periods from the second on
	}{{"light", turnsMax - 1, 1}, {"heavy", turnsMax, 0}} {
		var c crowd
		var l replicaLoad
		for i := range 4 {
			at := periods(i)
			for range 3 {
				for range x.depth {
					l.begin(&c, at)
				}
				for range x.depth {
					l.ended()
				}
			}
			if got := c.word.Load() & crowdMax; i > 0 && uint32(c.word.Load()>>32) == period(at) && got != x.want {
				t.Errorf("%s: counted %d times in period %d", x.name, got, i)
			}
		}
		if got := c.others(counted{}, 3*crowdPeriod); got != (x.want == 1) {
			t.Errorf("%s: seen as light: %v", x.name, got)
		}
	}
}
