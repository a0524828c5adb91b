package sim

import (
	"flag"
	"os"
	"testing"
	"time"
)

var (
	seeds = flag.Uint64("seeds", 0, "number of seeds TestSeeds runs; 0: the fixed set")
	start = flag.Uint64("start", 1, "first seed of TestSeeds")
	one   = flag.Uint64("seed", 0, "run this seed only, with a trace")
)

// fixedSeeds is the size of the set every test run plays.
const fixedSeeds = 3000

func TestSeeds(t *testing.T) {
	if *one != 0 {
		c := Random(*one)
		c.Trace = os.Stdout
		t.Logf("%+v", c)
		v, s := Run(c)
		t.Logf("%+v", s)
		if v != nil {
			t.Fatal(v)
		}
		return
	}
	n := *seeds
	if n == 0 {
		n = fixedSeeds
	}
	begin := time.Now()
	var sum Stats
	bad := 0
	for i := range n {
		v, s := Run(Random(*start + i))
		sum.add(s)
		if v != nil {
			t.Errorf("%v (repeat: go test ./storaged/sim -run TestSeeds -seed %d)", v, v.Seed)
			if bad++; bad >= 10 {
				break
			}
		}
	}
	t.Logf("%d seeds, %.0f per second: %+v", n, float64(n)/time.Since(begin).Seconds(), sum)
}
