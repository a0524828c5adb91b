package stacksim

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

var (
	seeds   = flag.Uint64("seeds", 10, "seeds to play")
	start   = flag.Uint64("start", 1, "the first of them")
	one     = flag.Uint64("seed", 0, "play this seed only, and print what happens")
	limit   = flag.Duration("limit", 10*time.Minute, "real time after which a seed is taken to hang")
	verbose = flag.Bool("logs", false, "with -seed: also what the parts log")
)

// tlsDir holds credentials for all runs: the time of every bubble begins at the same instant.
var tlsDir string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "stacksim")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	tlsDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// play runs one configuration in a bubble. Its trace is returned with a violation.
func play(t *testing.T, c Config) (stats Stats, trace string, bad error) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, c.Seed)
	c.Dir, c.TLSDir = t.TempDir(), tlsDir
	var buf bytes.Buffer
	if c.Trace == nil {
		c.Trace = &buf
	}
	watchdog := time.AfterFunc(*limit, func() {
		fmt.Fprintf(os.Stderr, "seed %d does not end within %s: a bubble in which somebody waits for a mutex stands still\n", c.Seed, *limit)
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		os.Exit(3)
	})
	defer watchdog.Stop()
	synctest.Test(t, func(t *testing.T) {
		if _, err := os.Stat(filepath.Join(tlsDir, "admin")); err != nil {
			if err := Credentials(tlsDir); err != nil {
				t.Fatal(err)
			}
		}
		stats, bad = Run(c)
	})
	return stats, buf.String(), bad
}

func tail(s string, lines int) string {
	i := len(s)
	for ; lines > 0 && i > 0; lines-- {
		i = max(0, bytes.LastIndexByte([]byte(s[:i-1]), '\n')+1)
		if i == 0 {
			break
		}
	}
	return s[i:]
}

func TestSeeds(t *testing.T) {
	if *one != 0 {
		c := Random(*one)
		c.Trace, c.Verbose = os.Stdout, *verbose
		stats, _, bad := play(t, c)
		t.Logf("seed %d: %+v", *one, stats)
		if bad != nil {
			t.Error(bad)
		}
		return
	}
	var total Stats
	for seed := *start; seed < *start+*seeds; seed++ {
		var stats Stats
		var bad error
		var trace string
		t.Run(fmt.Sprint(seed), func(t *testing.T) { stats, trace, bad = play(t, Random(seed)) })
		if bad != nil {
			var v *Violation
			t.Errorf("seed %d (violation %v): %v\n%s", seed, errors.As(bad, &v), bad, tail(trace, 60))
			continue
		}
		total.Reads += stats.Reads
		total.Writes += stats.Writes
		total.Faults += stats.Faults
		total.Virtual += stats.Virtual
	}
	t.Logf("%d seeds: %+v", *seeds, total)
}
