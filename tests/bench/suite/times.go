package suite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/iomesh/iomesh/tests/bench/load"
)

// Times are how long single actions take, and the collector's pauses under load.
type Times struct {
	Snapshot  []time.Duration `json:"snapshotNs"` // under a load at depth 32, sorted
	Clone     []time.Duration `json:"cloneNs"`    // of the volume, without a load, sorted
	Failover  time.Duration   `json:"failoverNs"` // longest write at depth 1 over kill -9 of the owner
	ColdStart time.Duration   `json:"coldStartNs"`
	Pauses    int             `json:"pauses"` // of the garbage collectors of all chunks, under load
	PauseMax  time.Duration   `json:"pauseMaxNs"`
}

// maxPause is how long a collector may stop a chunk.
const maxPause = 5 * time.Millisecond

// WriteText writes the outcome for people.
func (t Times) WriteText(w io.Writer) {
	ms := func(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
	if n := len(t.Snapshot); n > 0 {
		fmt.Fprintf(w, "\nsnapshot of a volume under load: median %s, longest %s of %d\n", ms(t.Snapshot[n/2]), ms(t.Snapshot[n-1]), n)
	}
	if n := len(t.Clone); n > 0 {
		fmt.Fprintf(w, "clone of a volume: median %s, longest %s of %d\n", ms(t.Clone[n/2]), ms(t.Clone[n-1]), n)
	}
	fmt.Fprintf(w, "owner killed: longest write %s; cold start of the cluster until the first read: %s\n", ms(t.Failover), ms(t.ColdStart))
	fmt.Fprintf(w, "garbage collection: %d cycles under load, longest pause %s (want ≤ %s)\n", t.Pauses, ms(t.PauseMax), maxPause)
}

// Missed says what bar does not hold, or "".
func (t Times) Missed() string {
	if t.PauseMax > maxPause {
		return fmt.Sprintf("garbage collection: a pause of %s, want at most %s", t.PauseMax, maxPause)
	}
	return ""
}

// timesSpan is the size of the volume.
const timesSpan = 128 << 20

// Times measures them on one cluster.
func (r *Runner) Times(ctx context.Context, storaged, dir string) (Times, error) {
	var out Times
	o := ClusterOptions{Storaged: storaged, Dir: dir, DiskBytes: timesSpan + 2<<30, Env: []string{"GODEBUG=gctrace=1"}}
	err := within(ctx, o, func(c *cluster) error {
		u, err := c.unit(ctx, "t", timesSpan, 3)
		if err != nil {
			return err
		}
		c.units[3] = []*unit{u}
		for _, w := range []Workload{write32, read32, largeWrite, largeRead} {
			if _, err := runUnits(ctx, c.units[3], w, r.Duration); err != nil {
				return err
			}
		}
		if err := out.collect(c.dir); err != nil {
			return err
		}
		if err := out.snapshots(ctx, c); err != nil {
			return err
		}
		return out.failover(ctx, c)
	})
	if err != nil {
		return out, err
	}
	begin := time.Now()
	return out, within(ctx, o, func(c *cluster) error {
		v, err := c.show(ctx, "t")
		if err != nil {
			return err
		}
		x, err := dialSession(ctx, v.Portals, v.IQN)
		if err != nil {
			return err
		}
		err = x.ReadAt(ctx, make([]byte, 4096), 0)
		out.ColdStart = time.Since(begin)
		return errors.Join(err, x.Close())
	})
}

// snapshots takes some under a load.
func (t *Times) snapshots(ctx context.Context, c *cluster) error {
	stop, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = runUnits(stop, c.units[3], write32, time.Hour)
	}()
	var err error
	for i := 0; i < 20 && err == nil; i++ {
		begin := time.Now()
		var ignored map[string]any
		err = c.ctl(ctx, &ignored, "volume", "snapshot", "t", "s"+strconv.Itoa(i))
		t.Snapshot = append(t.Snapshot, time.Since(begin))
	}
	slices.Sort(t.Snapshot)
	cancel()
	<-done
	for i := 0; i < 5 && err == nil; i++ {
		begin := time.Now()
		var ignored map[string]any
		err = c.ctl(ctx, &ignored, "volume", "create", "clone"+strconv.Itoa(i), "--size", strconv.Itoa(timesSpan>>20)+"Mi", "--from-volume", "t", "--replicas", "3")
		t.Clone = append(t.Clone, time.Since(begin))
	}
	slices.Sort(t.Clone)
	return err
}

// failover kills the owner while writes go on one at a time, until another one serves.
func (t *Times) failover(ctx context.Context, c *cluster) error {
	v, err := c.show(ctx, "t")
	if err != nil {
		return err
	}
	owner := v.OwnerNode
	if _, err := runUnits(ctx, c.units[3], write1, time.Second); err != nil {
		return fmt.Errorf("writes before the death of the owner: %w", err)
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var wrote load.Result
	done := make(chan error, 1)
	go func() {
		var err error
		wrote, err = runUnits(writing, c.units[3], write1, time.Hour)
		done <- err
	}()
	name := "chunk-" + owner
	if err := kill(c.pids[name]); err != nil {
		return err
	}
	delete(c.pids, name)
	moved := until(ctx, time.Minute, "another chunk owns the volume", func() error {
		v, err := c.show(ctx, "t")
		if err == nil && (v.OwnerNode == "" || v.OwnerNode == owner) {
			err = fmt.Errorf("the owner is %q", v.OwnerNode)
		}
		return err
	})
	// The write that was under way ends first: it is the one that waited for the new owner.
	stop()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("writes over the death of the owner: %w", err)
	}
	if moved != nil {
		return moved
	}
	t.Failover = wrote.Max
	return c.Verify(ctx)
}

func kill(pid int) error {
	if pid <= 0 {
		return errors.New("the process to be killed is not known")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// collect reads the trace of the garbage collectors from the chunks' logs: the first and the third part of the clock times are pauses.
func (t *Times) collect(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "logs", "chunk-*.log"))
	if err != nil || len(logs) == 0 {
		return fmt.Errorf("no logs of chunks below %s: %w", dir, err)
	}
	for _, name := range logs {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("trace of the garbage collector: %w", err)
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			pauses := pausesOf(s.Text())
			for _, d := range pauses {
				t.PauseMax = max(t.PauseMax, d)
			}
			if len(pauses) > 0 {
				t.Pauses++
			}
		}
		f.Close()
	}
	if t.Pauses == 0 {
		return fmt.Errorf("no trace of a garbage collector in %d logs", len(logs))
	}
	return nil
}

// pausesOf finds the pauses in a line of GODEBUG=gctrace=1: "gc 3 @0.1s 2%: 0.018+1.4+0.003 ms clock, …".
func pausesOf(line string) []time.Duration {
	if !strings.HasPrefix(line, "gc ") {
		return nil
	}
	_, rest, ok := strings.Cut(line, "%: ")
	if !ok {
		return nil
	}
	clock, _, ok := strings.Cut(rest, " ms clock")
	if !ok {
		return nil
	}
	parts := strings.Split(clock, "+")
	if len(parts) != 3 {
		return nil
	}
	var out []time.Duration
	for _, p := range []string{parts[0], parts[2]} {
		ms, err := strconv.ParseFloat(p, 64)
		if err != nil {
			return nil
		}
		out = append(out, time.Duration(ms*float64(time.Millisecond)))
	}
	return out
}
