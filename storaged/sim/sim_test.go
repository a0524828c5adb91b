package sim

import (
	"cmp"
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Uint64("seeds", 0, "number of seeds TestSeeds runs; 0: the fixed set")
	start = flag.Uint64("start", 1, "first seed of TestSeeds")
	one   = flag.Uint64("seed", 0, "run this seed only, with a trace")
)

// fixedSeeds is the size of the set every test run plays.
const fixedSeeds = 2000

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
	sum, bad := runSeeds(*start, n, func(done uint64, v *Violation) {
		switch {
		case v != nil:
			t.Logf("VIOLATION of seed %d: %v", v.Seed, v)
		case done%10000 == 0:
			t.Logf("%d seeds, %.0f per second", done, float64(done)/time.Since(begin).Seconds())
		}
	})
	for _, v := range bad {
		t.Errorf("%v (repeat: go test ./storaged/sim -run TestSeeds -seed %d)", v, v.Seed)
	}
	t.Logf("%d seeds, %.0f per second: %+v", n, float64(n)/time.Since(begin).Seconds(), sum)
}

// badMax is the number of violations after which no further seed is begun.
const badMax = 10

// runSeeds plays n seeds from first on, on all processors. Violations come in the order of their seeds. say, if not nil, is told after each seed.
func runSeeds(first, n uint64, say func(done uint64, v *Violation)) (sum Stats, bad []*Violation) {
	var done uint64
	var next atomic.Uint64
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= n {
					return
				}
				v, s := Run(Random(first + i))
				mu.Lock()
				sum.add(s)
				done++
				if say != nil {
					say(done, v)
				}
				if v != nil {
					bad = append(bad, v)
				}
				stop := len(bad) >= badMax
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	workers.Wait()
	slices.SortFunc(bad, func(a, b *Violation) int { return cmp.Compare(a.Seed, b.Seed) })
	return sum, bad
}

// TestMain lets garbage wait: a world is small, and is thrown away whole.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

func TestASeedGivesTheSameRunAgain(t *testing.T) {
	for seed := uint64(1); seed <= 30; seed++ {
		_, a := Run(Random(seed))
		if _, b := Run(Random(seed)); a != b {
			t.Errorf("seed %d: %+v, then %+v", seed, a, b)
		}
	}
}
