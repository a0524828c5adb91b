package preflight

import (
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/agent/host"
)

// flushRounds per measurement: enough for a percentile that means something, over within a second on a good disk.
const flushRounds = 20

func judgeFlush(id, what string, took []time.Duration, err error) Finding {
	if err != nil || len(took) == 0 {
		return Finding{ID: id, Status: Unknown, Evidence: fmt.Sprintf("%s: %v", what, err)}
	}
	slices.Sort(took)
	median, worst := took[len(took)/2], took[len(took)-1]
	f := Finding{ID: id, Status: OK, Evidence: fmt.Sprintf("%s: flush takes %s (worst of %d: %s)", what, round(median), len(took), round(worst))}
	switch {
	case median > 100*time.Millisecond:
		f.Status, f.Fix = Failed, "use an SSD: every acknowledged write waits for a flush"
	case median > 20*time.Millisecond:
		f.Status, f.Fix = Warning, "use an SSD with power-loss protection: every acknowledged write waits for a flush"
	}
	return f
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// stateFlush times the disk under the metadata.
func stateFlush(o Options) []Finding {
	took, err := o.System.FlushFile(o.StateDir, flushRounds)
	return []Finding{judgeFlush("state-flush", o.StateDir, took, err)}
}

func deviceFlush(o Options) []Finding {
	names := make([]string, 0, len(o.FlushDevices))
	for n := range o.FlushDevices {
		names = append(names, n)
	}
	slices.Sort(names)
	var out []Finding
	for _, n := range names {
		took, err := o.System.FlushDevice(o.FlushDevices[n], flushRounds)
		out = append(out, judgeFlush("disk-flush", n, took, err))
	}
	return out
}

func realSystem() *System {
	return &System{
		Interfaces: host.Interfaces,
		FreeBytes: func(dir string) (uint64, error) {
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				return 0, fmt.Errorf("free space of %s: %w", dir, err)
			}
			return st.Bavail * uint64(st.Bsize), nil
		},
		ClockSynchronised: func() (bool, time.Duration, error) {
			var tx unix.Timex
			state, err := unix.Adjtimex(&tx)
			if err != nil {
				return false, 0, fmt.Errorf("ask the kernel's clock: %w", err)
			}
			return state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0, time.Duration(tx.Esterror) * time.Microsecond, nil
		},
		FlushFile:   flushFile,
		FlushDevice: flushDevice,
	}
}

func flushFile(dir string, n int) (took []time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".flush-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 4096)
	for i := range n {
		if _, err := f.WriteAt(block, int64(i)*int64(len(block))); err != nil {
			return took, err
		}
		start := time.Now()
		if err := f.Sync(); err != nil {
			return took, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

// flushDevice times fsync of a device without dirty pages: the kernel sends the device a flush of its cache, and nothing else.
func flushDevice(path string, n int) (took []time.Duration, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for range n {
		start := time.Now()
		if err := f.Sync(); err != nil {
			return took, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}
