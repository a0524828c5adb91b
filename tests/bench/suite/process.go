package suite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/procstat"
)

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// busy is the CPU time that the machine has used for all but kernel threads, whose work is made by what is measured, and what a virtual machine's host
// did not give it although it had work.
func busy() (used, stolen time.Duration, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("CPU time of the machine: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 {
		return 0, 0, fmt.Errorf("/proc/stat: %q", line)
	}
	ticks := func(fields ...int) time.Duration {
		var sum int64
		for _, i := range fields {
			n, _ := strconv.ParseInt(f[i], 10, 64)
			sum += n
		}
		return time.Duration(sum) * (time.Second / ticksPerSecond)
	}
	sum := ticks(1, 2, 3, 6, 7) // user, nice, system, irq, softirq
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("list processes: %w", err)
	}
	for _, p := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		if u, err := procstat.Of(pid); err == nil && (u.Parent == 2 || pid == 2) {
			sum -= u.CPU
		}
	}
	return sum, ticks(8), nil
}

// usage is what a run cost.
type usage struct {
	// CPU by process of the subject, and its resident memory at the end.
	CPU map[string]time.Duration `json:"cpuNs"`
	RSS map[string]uint64        `json:"rssBytes"`
	// Foreign is the share of one core that other programs used.
	Foreign float64 `json:"foreignCores"`
	// Stolen is the share of one core that the host of this virtual machine withheld.
	Stolen float64 `json:"stolenCores"`
}

func (u usage) total() time.Duration {
	var sum time.Duration
	for _, d := range u.CPU {
		sum += d
	}
	return sum
}

// settle waits until a subject's processes have no work left from what came before: they together use less than a tenth of a core, for longer than a
// disk waits with moving what is in its journal to its place.
func settle(ctx context.Context, s Subject) error {
	const look, calm, looks = 500 * time.Millisecond, 0.1, 6
	quiet := 0
	return until(ctx, 2*time.Minute, s.Name()+" has done what was left to do", func() error {
		m, err := startMeter(s.Processes())
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
		u, err := m.stop()
		if err != nil {
			return err
		}
		quiet++
		share := u.total().Seconds() / time.Since(m.start).Seconds()
		if share > calm {
			quiet = 0
		}
		if quiet < looks {
			return fmt.Errorf("%.2f of a core, calm for %d looks of %d", share, quiet, looks)
		}
		return nil
	})
}

// meter measures a run of a subject's processes.
type meter struct {
	pids   map[string]int
	before map[string]time.Duration
	self   time.Duration
	all    time.Duration
	stolen time.Duration
	start  time.Time
}

func startMeter(pids map[string]int) (*meter, error) {
	m := &meter{pids: pids, before: map[string]time.Duration{}, start: time.Now()}
	for name, pid := range pids {
		u, err := procstat.Of(pid)
		if err != nil {
			return nil, fmt.Errorf("CPU time of %s: %w", name, err)
		}
		m.before[name] = u.CPU
	}
	self, err := procstat.Of(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("CPU time of this process: %w", err)
	}
	m.self = self.CPU
	m.all, m.stolen, err = busy()
	return m, err
}

func (m *meter) stop() (usage, error) {
	u := usage{CPU: map[string]time.Duration{}, RSS: map[string]uint64{}}
	all, stolen, err := busy()
	if err != nil {
		return u, err
	}
	self, err := procstat.Of(os.Getpid())
	if err != nil {
		return u, fmt.Errorf("CPU time of this process: %w", err)
	}
	foreign := all - m.all - (self.CPU - m.self)
	for name, pid := range m.pids {
		now, err := procstat.Of(pid)
		if err != nil {
			return u, fmt.Errorf("CPU time of %s: %w", name, err)
		}
		u.CPU[name], u.RSS[name] = now.CPU-m.before[name], uint64(now.RSS)
		foreign -= u.CPU[name]
	}
	took := time.Since(m.start).Seconds()
	u.Foreign, u.Stolen = max(0, foreign.Seconds()/took), (stolen-m.stolen).Seconds()/took
	return u, nil
}
