package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/faults/cluster"
)

// idleCPUMax is the share of one core that all daemons may take together.
const idleCPUMax = 0.05

// idle makes volumes with a session each and nothing to do, and measures what the daemons use.
func idle(ctx context.Context, r *run) error {
	volumes, watch := 200, 60*time.Second
	if r.quick {
		volumes, watch = 50, 15*time.Second
	}
	b, err := up(ctx, r, 2<<30)
	if err != nil {
		return err
	}
	defer b.close()
	settle := 20 * time.Second
	if err := pause(ctx, settle); err != nil {
		return err
	}
	empty, err := b.measure(ctx, watch/2)
	if err != nil {
		return err
	}
	r.say("without volumes:\n%s", empty)
	start := time.Now()
	for i := range volumes {
		if _, err := b.create(ctx, fmt.Sprintf("idle-%d", i), 8<<20, uint32(2+i%2)); err != nil {
			return err
		}
	}
	r.say("%d volumes created, published and logged in to, in %.1f s", volumes, time.Since(start).Seconds())
	if err := pause(ctx, settle); err != nil {
		return err
	}
	u, err := b.measure(ctx, watch)
	if err != nil {
		return err
	}
	r.say("with %d idle volumes, each with a session:\n%s", volumes, u)
	if u.cpu > idleCPUMax && !r.quick {
		return fmt.Errorf("%d idle volumes cost %.1f %% of a core, the bar is %.0f %%", volumes, 100*u.cpu, 100*idleCPUMax)
	}
	return nil
}

// usage of all daemons together.
type usage struct {
	cpu   float64 // share of a core
	bytes int64   // resident
	rows  []string
}

func (u usage) String() string {
	return fmt.Sprintf("%s\n    %-10s %5.2f %% of a core %6d MiB resident", strings.Join(u.rows, "\n"), "together", 100*u.cpu, u.bytes>>20)
}

func (b *bench) measure(ctx context.Context, d time.Duration) (usage, error) {
	all := b.Processes()
	before := make([]time.Duration, len(all))
	for i, p := range all {
		var err error
		if before[i], _, err = cost(p); err != nil {
			return usage{}, err
		}
	}
	start := time.Now()
	if err := pause(ctx, d); err != nil {
		return usage{}, err
	}
	elapsed := time.Since(start)
	var u usage
	for i, p := range all {
		cpu, rss, err := cost(p)
		if err != nil {
			return u, err
		}
		share := (cpu - before[i]).Seconds() / elapsed.Seconds()
		u.cpu += share
		u.bytes += rss
		u.rows = append(u.rows, fmt.Sprintf("    %-10s %5.2f %% of a core %6d MiB resident", p.Name, 100*share, rss>>20))
	}
	return u, nil
}

// cost is the processor time a process has had, and its resident memory (proc(5)).
func cost(p *cluster.Process) (time.Duration, int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, 0, err
	}
	// The name is in parentheses and may hold spaces.
	_, rest, ok := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 22 {
		return 0, 0, errors.New("/proc/PID/stat is not as expected")
	}
	utime, err1 := strconv.ParseInt(f[11], 10, 64)
	stime, err2 := strconv.ParseInt(f[12], 10, 64)
	pages, err3 := strconv.ParseInt(f[21], 10, 64)
	// USER_HZ is 100 on every architecture Go runs on.
	return time.Duration(utime+stime) * 10 * time.Millisecond, pages * int64(os.Getpagesize()), errors.Join(err1, err2, err3)
}
