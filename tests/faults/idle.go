package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/iomesh/iomesh/tests/procstat"
)

// idleCPUMax is the share of one core that all daemons may take together.
const idleCPUMax = 0.05

// idle makes volumes with a session each and nothing to do, and measures what the daemons use.
func idle(ctx context.Context, r *run) error {
	volumes, watch := 200, 60*time.Second
	if r.quick {
		volumes, watch = 50, 15*time.Second
	}
	if r.volumes > 0 {
		volumes = r.volumes
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
	empty, err := b.profiled(ctx, r, "empty", watch/2)
	if err != nil {
		return err
	}
	r.say("without volumes:\n%s", empty)
	start := time.Now()
	for i := range volumes {
		if _, err := b.create(ctx, fmt.Sprintf("idle-%d", i), 4<<20, uint32(2+i%2)); err != nil {
			return err
		}
	}
	r.say("%d volumes created, published and logged in to, in %.1f s", volumes, time.Since(start).Seconds())
	if err := pause(ctx, settle); err != nil {
		return err
	}
	u, err := b.profiled(ctx, r, "idle", watch)
	if err != nil {
		return err
	}
	r.say("with %d idle volumes, each with a session:\n%s", volumes, u)
	n := float64(volumes)
	r.say("for each volume with its session: %.0f KiB resident, %.4f %% of a core, over all daemons", float64(u.bytes-empty.bytes)/1024/n, 100*(u.cpu-empty.cpu)/n)
	if u.cpu > idleCPUMax && !r.quick && r.volumes == 0 {
		return fmt.Errorf("%d idle volumes cost %.1f %% of a core, the bar is %.0f %%", volumes, 100*u.cpu, 100*idleCPUMax)
	}
	return nil
}

// usage of all daemons together.
type usage struct {
	cpu   float64 // share of a core
	wakes float64 // of threads, per second
	bytes int64   // resident
	rows  []string
}

func row(name string, cpu, wakes float64, bytes int64) string {
	return fmt.Sprintf("    %-10s %5.2f %% of a core %6.0f wake-ups/s %6d MiB resident", name, 100*cpu, wakes, bytes>>20)
}

func (u usage) String() string {
	return strings.Join(u.rows, "\n") + "\n" + row("together", u.cpu, u.wakes, u.bytes)
}

// profiled measures, and takes CPU profiles of the daemons meanwhile if they are wanted.
func (b *bench) profiled(ctx context.Context, r *run, what string, d time.Duration) (usage, error) {
	if r.profiles == "" {
		return b.measure(ctx, d)
	}
	var wg sync.WaitGroup
	all := b.Processes()
	errs := make([]error, len(all))
	for i, p := range all {
		wg.Go(func() {
			errs[i] = fetchProfile(ctx, b.ProfileSocket(p.Name), d, filepath.Join(r.profiles, what+"-"+p.Name+".pprof"))
		})
	}
	u, err := b.measure(ctx, d)
	wg.Wait()
	return u, errors.Join(err, errors.Join(errs...))
}

func fetchProfile(ctx context.Context, socket string, d time.Duration, file string) error {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://daemon/debug/pprof/profile?seconds=%.0f", d.Seconds()), nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, p, 0o644)
}

func (b *bench) measure(ctx context.Context, d time.Duration) (usage, error) {
	all := b.Processes()
	before, woken := make([]procstat.Usage, len(all)), make([]uint64, len(all))
	for i, p := range all {
		var err error
		if before[i], err = procstat.Of(p.PID()); err != nil {
			return usage{}, err
		}
		woken[i] = procstat.WakeUps(p.PID())
	}
	start := time.Now()
	if err := pause(ctx, d); err != nil {
		return usage{}, err
	}
	elapsed := time.Since(start)
	var u usage
	for i, p := range all {
		now, err := procstat.Of(p.PID())
		if err != nil {
			return u, err
		}
		share := (now.CPU - before[i].CPU).Seconds() / elapsed.Seconds()
		woke := float64(int64(procstat.WakeUps(p.PID())-woken[i])) / elapsed.Seconds()
		u.cpu += share
		u.wakes += woke
		u.bytes += now.RSS
		u.rows = append(u.rows, row(p.Name, share, woke, now.RSS))
	}
	return u, nil
}
