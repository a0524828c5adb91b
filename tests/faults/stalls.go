package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// fault is one row of the table.
type fault struct {
	name string
	// inject makes it, heal undoes it. owner is the node that owns all volumes, other one with a copy of all.
	inject, heal func(ctx context.Context, b *bench) error
	hold         time.Duration
	// max is the bar of the longest stall.
	max time.Duration
	// network is set if network namespaces are needed.
	network bool
}

const owner, other = "n1", "n2"

func kill(node string) func(context.Context, *bench) error {
	return func(_ context.Context, b *bench) error { return b.Node(node).Chunk.Kill() }
}

func restart(_ context.Context, b *bench) error { return b.StartAll() }

func send(node string, s syscall.Signal) func(context.Context, *bench) error {
	return func(_ context.Context, b *bench) error { return b.Node(node).Chunk.Signal(s) }
}

func cut(node string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error { return b.Node(node).Cut(ctx) }
}

func mend(node string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error { return b.Node(node).Heal(ctx) }
}

func killLeader(ctx context.Context, b *bench) error {
	st, err := b.Client.Cluster.GetStatus(ctx, &storagedv1.GetStatusRequest{})
	if err != nil {
		return fmt.Errorf("find the meta leader: %w", err)
	}
	n := b.Node(st.Leader)
	if n == nil {
		return fmt.Errorf("the meta leader %q is no node", st.Leader)
	}
	return n.Meta.Kill()
}

func killMeta(_ context.Context, b *bench) error {
	var errs []error
	for _, n := range b.Nodes {
		errs = append(errs, n.Meta.Kill())
	}
	return errors.Join(errs...)
}

func faults(quick bool) []fault {
	long, short := 60*time.Second, 30*time.Second
	if quick {
		long, short = 10*time.Second, 8*time.Second
	}
	const bar = 5 * time.Second
	return []fault{
		{name: "none (for comparison)", hold: short, max: time.Second},
		{name: "kill -9 of the owner", inject: kill(owner), heal: restart, hold: short, max: bar},
		{name: "kill -9 of a replica", inject: kill(other), heal: restart, hold: short, max: 500 * time.Millisecond},
		{name: "SIGSTOP of the owner", inject: send(owner, syscall.SIGSTOP), heal: send(owner, syscall.SIGCONT), hold: long, max: bar},
		{name: "SIGSTOP of a replica", inject: send(other, syscall.SIGSTOP), heal: send(other, syscall.SIGCONT), hold: long, max: bar},
		{name: "network cut of the owner's node", inject: cut(owner), heal: mend(owner), hold: long, max: bar, network: true},
		{name: "network cut of a replica's node", inject: cut(other), heal: mend(other), hold: long, max: bar, network: true},
		{name: "meta leader killed", inject: killLeader, heal: restart, hold: short, max: bar},
		{name: "all of etcd down", inject: killMeta, heal: restart, hold: long, max: 2 * time.Second},
	}
}

// loadMin is how long the load of a full run lasts at least.
const loadMin = 10 * time.Minute

func stalls(ctx context.Context, r *run) error {
	b, err := up(ctx, r, 2<<30)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.standard(ctx, r); err != nil {
		return err
	}
	begun := time.Now()
	var table strings.Builder
	fmt.Fprintf(&table, "| fault | held | p99 2-way | p99 3-way | longest stall 2-way | longest stall 3-way | bar | all copies in sync again after |\n|---|---|---|---|---|---|---|---|\n")
	var errs []error
	for _, f := range faults(r.quick) {
		if !strings.Contains(f.name, r.only) {
			continue
		}
		if f.network && r.flat {
			fmt.Fprintf(&table, "| %s | – | needs network namespaces |||||\n", f.name)
			continue
		}
		row, err := f.play(ctx, r, b)
		table.WriteString(row)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
			if ctx.Err() != nil {
				break
			}
		}
	}
	if left := loadMin - time.Since(begun); !r.quick && r.only == "" && left > 0 && ctx.Err() == nil {
		r.say("load goes on for %.0f s without faults", left.Seconds())
		_ = pause(ctx, left)
	}
	r.say("load ends after %.0f s", time.Since(begun).Seconds())
	errs = append(errs, b.finish(ctx, r))
	fmt.Printf("\n%s\n", table.String())
	return errors.Join(errs...)
}

// play plays a fault from a healthy cluster and returns its row.
func (f fault) play(ctx context.Context, r *run, b *bench) (string, error) {
	if err := b.healthy(ctx, 120*time.Second); err != nil {
		return "", err
	}
	if err := b.own(ctx, owner); err != nil {
		return "", err
	}
	if err := pause(ctx, 3*time.Second); err != nil {
		return "", err
	}
	for _, v := range b.volumes {
		v.Window()
	}
	r.say("%s, for %s", f.name, f.hold)
	if f.inject != nil {
		if err := f.inject(ctx, b); err != nil {
			return "", err
		}
	}
	if err := pause(ctx, f.hold); err != nil {
		return "", err
	}
	healed := time.Now()
	if f.heal != nil {
		if err := f.heal(ctx, b); err != nil {
			return "", err
		}
	}
	err := b.Client.AwaitHealthy(ctx, b.ids(), 180*time.Second)
	insync := time.Since(healed)
	if err == nil {
		err = b.healthy(ctx, 180*time.Second)
	}
	whole := time.Since(healed)
	// A request that still hangs counts too.
	if perr := pause(ctx, time.Second); err == nil {
		err = perr
	}
	var p99, longest [2]time.Duration
	for _, v := range b.volumes {
		h := v.Window()
		i := int(v.replicas) - 2
		p99[i], longest[i] = max(p99[i], h.Quantile(0.99)), max(longest[i], h.Max())
	}
	worst := max(longest[0], longest[1])
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
	s := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
	r.say("  longest stall %s; all copies in sync %s after the end, all parts back after %s", s(worst), s(insync), s(whole))
	row := fmt.Sprintf("| %s | %.0f s | %s | %s | %s | %s | %s | %s |\n", f.name, f.hold.Seconds(), ms(p99[0]), ms(p99[1]), s(longest[0]), s(longest[1]), s(f.max), s(insync))
	if worst > f.max {
		err = errors.Join(err, fmt.Errorf("I/O stood still for %s, the bar is %s", s(worst), s(f.max)))
	}
	for _, v := range b.volumes {
		if problems, n := v.Problems(); n > 0 {
			r.say("  PROBLEM (%d in all): %v", n, problems[0])
		}
	}
	return row, err
}
