// Package procstat reads what a process has used (proc(5)). For tests and measurements, on Linux.
package procstat

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used so far.
type Usage struct {
	Parent int           // process number of the parent
	CPU    time.Duration // user and system time of all threads, also of those that have ended, to 10 ms
	RSS    int64         // resident memory in bytes
}

// Of reads the usage of a process.
func Of(pid int) (Usage, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	u, err := parse(string(raw))
	if err != nil {
		return Usage{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return u, nil
}

func parse(stat string) (Usage, error) {
	// The name is in parentheses and may hold spaces and parentheses.
	i := strings.LastIndex(stat, ") ")
	if i < 0 {
		return Usage{}, errors.New("no name in parentheses")
	}
	f := strings.Fields(stat[i+2:])
	if len(f) < 22 {
		return Usage{}, fmt.Errorf("%d fields after the name, want at least 22", len(f))
	}
	parent, err0 := strconv.Atoi(f[1])
	utime, err1 := strconv.ParseInt(f[11], 10, 64)
	stime, err2 := strconv.ParseInt(f[12], 10, 64)
	pages, err3 := strconv.ParseInt(f[21], 10, 64)
	if err := errors.Join(err0, err1, err2, err3); err != nil {
		return Usage{}, err
	}
	// USER_HZ is 100 on every architecture Go runs on.
	return Usage{Parent: parent, CPU: time.Duration(utime+stime) * 10 * time.Millisecond, RSS: pages * int64(os.Getpagesize())}, nil
}

// WakeUps counts how often the threads of a process that live have gone to sleep by themselves, for each of which they were woken.
func WakeUps(pid int) (n uint64) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		for line := range strings.Lines(string(raw)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				x, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
				n += x
			}
		}
	}
	return n
}
