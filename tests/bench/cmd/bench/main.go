// Command bench measures the block service against its peers in one run and says which bars hold.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/iomesh/iomesh/internal/version"
	"github.com/iomesh/iomesh/tests/bench/suite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) >= 3 && args[0] == "floor" {
		return suite.ServeFloor(args[1], args[2], strings.Join(args[3:], ","))
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	what := "compare"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		what, args = args[0], args[1:]
	}
	storaged := f.String("storaged", "bin/storaged", "the block service")
	dir := f.String("dir", "", "an empty directory on the disk to be measured; a temporary one by default, removed at the end")
	pairs := f.Int("pairs", 5, "pairs of each comparison")
	d := f.Duration("time", 4*time.Second, "duration of each run")
	span := f.Uint64("span", 1024, "MiB of each volume")
	foreign := f.Float64("foreign", 0.05, "share of a core that other programs may use in a run that counts")
	stolen := f.Float64("stolen", 0.2, "share of a core that the host of a virtual machine may withhold in a run that counts")
	only := f.String("only", "", "comparisons whose workload begins with this")
	fio := f.String("fio", os.Getenv("FIO"), "a fio with the libiscsi engine, to measure with it as well; FIO in the environment by default")
	out := f.String("json", "", "write the report here as JSON")
	profiles := f.String("profile", "", "a directory for profiles of the chunks (CPU, allocations, blocking, locks), of each run; what they cost is in the figures")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		t, err := os.MkdirTemp("", "iomesh-bench-")
		if err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
		defer os.RemoveAll(t)
		*dir = t
	}
	r := &suite.Runner{Subjects: map[string]suite.Subject{}, Pairs: *pairs, Duration: *d, MaxForeign: *foreign, MaxStolen: *stolen, Progress: os.Stderr, ProfileDir: *profiles}
	defer func() {
		for _, s := range r.Subjects {
			_ = s.Close()
		}
	}()
	if what != "compare" {
		return runOther(ctx, r, what, f.Args(), options{*storaged, *dir, *only, *out, *span << 20})
	}
	if err := startAll(ctx, r, *storaged, *dir, *span<<20); err != nil {
		return err
	}
	rep, err := measure(ctx, r, *only)
	if err == nil && *fio != "" {
		rep.Fio, err = r.Fio(ctx, *fio, []string{"iomesh", suite.CacheOff, suite.AIO})
	}
	rep.WriteText(os.Stdout)
	err = errors.Join(err, writeJSON(*out, rep))
	if missed := rep.Missed(); err == nil && len(missed) > 0 {
		err = fmt.Errorf("%d bars missed:\n  %s", len(missed), strings.Join(missed, "\n  "))
	}
	return err
}

// writeJSON writes v to a file, if one is named.
func writeJSON(path string, v any) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func startAll(ctx context.Context, r *suite.Runner, storaged, dir string, span uint64) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	for _, s := range []struct {
		name  string
		start func() (suite.Subject, error)
	}{
		{"iomesh", func() (suite.Subject, error) { return suite.StartCluster(ctx, storaged, dir, span) }},
		{suite.CacheOff, func() (suite.Subject, error) { return suite.StartTgtd(ctx, suite.CacheOff, dir, 661, span) }},
		{suite.AIO, func() (suite.Subject, error) { return suite.StartTgtd(ctx, suite.AIO, dir, 662, span) }},
		{suite.Bare, func() (suite.Subject, error) { return suite.StartBare(ctx, dir, span) }},
		{"floor", func() (suite.Subject, error) { return suite.StartFloor(ctx, self, dir) }},
	} {
		fmt.Fprintf(r.Progress, "starting %s and filling it\n", s.name)
		x, err := s.start()
		if err != nil {
			return fmt.Errorf("start %s: %w", s.name, err)
		}
		r.Subjects[s.name] = x
	}
	return nil
}

func measure(ctx context.Context, r *suite.Runner, only string) (*suite.Report, error) {
	rep := &suite.Report{Version: version.String(), Taken: time.Now(), Machine: machine(), Alone: map[string][]suite.Sample{}}
	defer rep.Conclude()
	for _, c := range suite.Comparisons() {
		if !strings.HasPrefix(c.Workload.Name, only) {
			continue
		}
		o, err := r.Compare(ctx, c)
		if err != nil {
			return rep, err
		}
		rep.Outcomes = append(rep.Outcomes, o)
	}
	for _, w := range suite.Single() {
		if !strings.HasPrefix(w.Name, only) {
			continue
		}
		s, err := r.Alone(ctx, w)
		if err != nil {
			return rep, err
		}
		rep.Alone[w.Name] = s
	}
	for name, s := range r.Subjects {
		if err := s.Verify(ctx); err != nil {
			return rep, fmt.Errorf("%s: %w", name, err)
		}
	}
	rep.Verified = true
	return rep, nil
}

func machine() string {
	var u syscall.Utsname
	release := ""
	if syscall.Uname(&u) == nil {
		for _, c := range u.Release {
			if c == 0 {
				break
			}
			release += string(rune(c))
		}
	}
	return fmt.Sprintf("%d CPUs, Linux %s, %s", runtime.NumCPU(), release, runtime.Version())
}
