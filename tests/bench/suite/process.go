package suite

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// cpuOf is the CPU time, user and system, that a process has used with all its threads.
func cpuOf(pid int) (time.Duration, error) {
	st, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return st.cpu, nil
}

type stat struct {
	parent int
	cpu    time.Duration
}

func readStat(path string) (stat, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return stat{}, err
	}
	// The name in parentheses may hold anything; what follows the last one is fixed (proc(5)): state, ppid, …, utime (14), stime (15).
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return stat{}, fmt.Errorf("%s: %d fields", path, len(f))
	}
	parent, _ := strconv.Atoi(f[1])
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return stat{parent, time.Duration(user+system) * (time.Second / ticksPerSecond)}, nil
}

// rssOf is the resident memory of a process in bytes; 0 if it is gone.
func rssOf(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if f := strings.Fields(string(b)); err == nil && len(f) > 1 {
		pages, _ := strconv.ParseUint(f[1], 10, 64)
		return pages * uint64(os.Getpagesize())
	}
	return 0
}

// busy is the CPU time that the machine has used for all but kernel threads, whose work is made by what is measured.
func busy() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("CPU time of the machine: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 8 {
		return 0, fmt.Errorf("/proc/stat: %q", line)
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, _ := strconv.ParseInt(f[i], 10, 64)
		ticks += n
	}
	sum := time.Duration(ticks) * (time.Second / ticksPerSecond)
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, p := range stats {
		if st, err := readStat(p); err == nil && (st.parent == 2 || p == "/proc/2/stat") {
			sum -= st.cpu
		}
	}
	return sum, nil
}

// usage is what a run cost.
type usage struct {
	// CPU by process of the subject, and its resident memory at the end.
	CPU map[string]time.Duration `json:"cpuNs"`
	RSS map[string]uint64        `json:"rssBytes"`
	// Foreign is the share of one core that other programs used.
	Foreign float64 `json:"foreignCores"`
}

func (u usage) total() time.Duration {
	var sum time.Duration
	for _, d := range u.CPU {
		sum += d
	}
	return sum
}

// meter measures a run of a subject's processes.
type meter struct {
	pids   map[string]int
	before map[string]time.Duration
	self   time.Duration
	all    time.Duration
	start  time.Time
}

func startMeter(pids map[string]int) (*meter, error) {
	m := &meter{pids: pids, before: map[string]time.Duration{}, start: time.Now()}
	var err error
	for name, pid := range pids {
		if m.before[name], err = cpuOf(pid); err != nil {
			return nil, err
		}
	}
	if m.self, err = cpuOf(os.Getpid()); err != nil {
		return nil, err
	}
	m.all, err = busy()
	return m, err
}

func (m *meter) stop() (usage, error) {
	u := usage{CPU: map[string]time.Duration{}, RSS: map[string]uint64{}}
	all, err := busy()
	if err != nil {
		return u, err
	}
	self, err := cpuOf(os.Getpid())
	if err != nil {
		return u, err
	}
	foreign := all - m.all - (self - m.self)
	for name, pid := range m.pids {
		c, err := cpuOf(pid)
		if err != nil {
			return u, err
		}
		u.CPU[name], u.RSS[name] = c-m.before[name], rssOf(pid)
		foreign -= u.CPU[name]
	}
	u.Foreign = max(0, foreign.Seconds()/time.Since(m.start).Seconds())
	return u, nil
}
