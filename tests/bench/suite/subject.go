package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/tests/bench/load"
)

// Workload is one kind of load.
type Workload struct {
	Name        string `json:"name"`
	ReadPercent int    `json:"readPercent"`
	BlockBytes  int    `json:"blockBytes"`
	Depth       int    `json:"depth"`
	Sequential  bool   `json:"sequential"`
	// Volumes are loaded at the same time, each with Depth requests in flight (1). Replicas of each (3); our cluster only.
	Volumes  int `json:"volumes"`
	Replicas int `json:"replicas"`
}

// Subject is something that takes a load.
type Subject interface {
	Name() string
	// Run puts a load on the subject and measures it.
	Run(ctx context.Context, w Workload, d time.Duration) (load.Result, error)
	// Processes are those whose CPU time counts, by name.
	Processes() map[string]int
	// Verify compares what is stored with what was written.
	Verify(ctx context.Context) error
	// Close stops what was started.
	Close() error
}

// unit is one logical unit with a session and an account of what was written.
type unit struct {
	session *initiator.Session
	ledger  *load.Ledger
	span    uint64
	portal  string
	iqn     string
}

func dialSession(ctx context.Context, portals []string, iqn string) (*initiator.Session, error) {
	s, err := initiator.Dial(ctx, initiator.Options{Portals: portals, Target: iqn, Initiator: "iqn.2016-02.com.iomesh:bench", LUN: 1, QueueDepth: 256})
	if err != nil {
		return nil, fmt.Errorf("log in to %s at %v: %w", iqn, portals, err)
	}
	return s, nil
}

func dialUnit(ctx context.Context, portals []string, iqn string, span uint64) (*unit, error) {
	s, err := dialSession(ctx, portals, iqn)
	if err != nil {
		return nil, err
	}
	u := &unit{session: s, ledger: load.NewLedger(span), span: span, portal: portals[0], iqn: iqn}
	// Written in full: reads then read data, and writes overwrite, as in a store that has been in use.
	if err := u.fill(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return u, nil
}

// fill writes the unit in full.
func (u *unit) fill(ctx context.Context) error {
	_, err := load.Run(ctx, u.session, load.Options{BlockBytes: 1 << 20, Depth: 8, SpanBytes: u.span, Sequential: true, Duration: time.Hour, Requests: u.span >> 20}, u.ledger)
	if err != nil {
		return fmt.Errorf("fill %s: %w", u.iqn, err)
	}
	return nil
}

// runUnits loads all units at the same time. Rates add up; of latencies the worst unit's are told.
func runUnits(ctx context.Context, units []*unit, w Workload, d time.Duration) (load.Result, error) {
	results, errs := make([]load.Result, len(units)), make([]error, len(units))
	var wg sync.WaitGroup
	for i, u := range units {
		wg.Go(func() {
			results[i], errs[i] = load.Run(ctx, u.session, load.Options{ReadPercent: w.ReadPercent, BlockBytes: w.BlockBytes, Depth: w.Depth,
				SpanBytes: u.span, Sequential: w.Sequential, Duration: d, Seed: uint64(time.Now().UnixNano())}, u.ledger)
		})
	}
	wg.Wait()
	sum := results[0]
	for _, r := range results[1:] {
		sum.Requests += r.Requests
		sum.Bytes += r.Bytes
		sum.Elapsed = max(sum.Elapsed, r.Elapsed)
		sum.P50, sum.P99, sum.P999, sum.Max = max(sum.P50, r.P50), max(sum.P99, r.P99), max(sum.P999, r.P999), max(sum.Max, r.Max)
	}
	return sum, errors.Join(errs...)
}

func verifyUnits(ctx context.Context, units []*unit) error {
	for _, u := range units {
		if err := u.ledger.Verify(ctx, u.session); err != nil {
			return fmt.Errorf("%s: %w", u.iqn, err)
		}
	}
	return nil
}

// start runs a program whose output goes to a file, and which dies with this one.
func start(logFile string, argv ...string) (*exec.Cmd, error) { return startEnv(logFile, nil, argv...) }

// startEnv is start with more in the environment.
func startEnv(logFile string, env []string, argv ...string) (*exec.Cmd, error) {
	f, err := os.Create(logFile)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	defer f.Close()
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdout, c.Stderr = f, f
	c.Env = append(os.Environ(), env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	return c, nil
}

// stop asks a program to end and waits for it.
func stop(c *exec.Cmd) {
	_ = c.Process.Signal(syscall.SIGTERM)
	t := time.AfterFunc(10*time.Second, func() { _ = c.Process.Kill() })
	defer t.Stop()
	_ = c.Wait()
}

// until calls f every 100 ms until it returns nil.
func until(ctx context.Context, limit time.Duration, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not after %s: %w", what, limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
