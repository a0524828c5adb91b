package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/tests/faultfs"
	"github.com/iomesh/iomesh/tests/faults/verify"
)

// disks plays faults of the disk of one node, under load.
func disks(ctx context.Context, r *run) error {
	if os.Geteuid() != 0 {
		return errors.New("disks with faults are mounted, which needs root")
	}
	r.faulty = true
	b, err := up(ctx, r, 1<<30)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.standard(ctx, r); err != nil {
		return err
	}
	hold := 20 * time.Second
	if r.quick {
		hold = 8 * time.Second
	}
	const bar = 5 * time.Second
	var table strings.Builder
	fmt.Fprintf(&table, "| disk | p99 2-way | p99 3-way | longest stall 2-way | longest stall 3-way | bar | all copies in sync again after |\n|---|---|---|---|---|---|---|\n")
	var errs []error
	play := func(f fault) {
		if ctx.Err() != nil {
			return
		}
		row, err := f.play(ctx, r, b)
		// The column of the time is left out.
		if cells := strings.SplitN(row, "|", 4); len(cells) == 4 {
			fmt.Fprintf(&table, "|%s|%s", cells[1], cells[3])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
		}
	}
	rule := func(node string, rule func() (faultfs.Rule, func())) (inject, heal func(context.Context, *bench) error) {
		var end func()
		inject = func(_ context.Context, b *bench) error {
			var x faultfs.Rule
			x, end = rule()
			b.Node(node).Disk.Set(x)
			return nil
		}
		heal = func(_ context.Context, b *bench) error {
			b.Node(node).Disk.Set(nil)
			end()
			return nil
		}
		return inject, heal
	}
	slow := func() (faultfs.Rule, func()) { return faultfs.Slow(100 * time.Millisecond), func() {} }
	hang := func() (faultfs.Rule, func()) {
		until := make(chan struct{})
		return faultfs.Hang(until), func() { close(until) }
	}
	for _, x := range []struct {
		name, node string
		rule       func() (faultfs.Rule, func())
	}{
		{"of a replica: 100 ms per request", other, slow},
		{"of a replica: hangs", other, hang},
		{"of the owner: hangs", owner, hang},
	} {
		inject, heal := rule(x.node, x.rule)
		play(fault{name: x.name, inject: inject, heal: heal, hold: hold, max: bar})
	}
	if err := b.rot(ctx, r); err != nil {
		errs = append(errs, fmt.Errorf("rotten blocks: %w", err))
	}
	// Last, since it is for good: the disk fails, and its replicas leave their sets.
	if err := b.own(ctx, owner); err == nil {
		for _, v := range b.volumes {
			v.Window()
		}
		r.say("disk of a replica: every write fails with EIO")
		b.Node(other).Disk.Set(faultfs.Fail(faultfs.Write, syscall.EIO))
		_ = pause(ctx, hold)
		longest := time.Duration(0)
		for _, v := range b.volumes {
			longest = max(longest, v.Window().Max())
		}
		state, err := b.diskState(ctx, other)
		r.say("  longest stall %.2f s; the disk is %s", longest.Seconds(), state)
		if err != nil || state != "Failed" {
			errs = append(errs, fmt.Errorf("a disk whose writes fail is %q, not Failed (%v)", state, err))
		}
		if longest > bar {
			errs = append(errs, fmt.Errorf("a disk whose writes fail: I/O stood still for %.2f s", longest.Seconds()))
		}
	}
	b.end()
	for _, v := range b.volumes {
		v.Wait()
		if err := v.Sweep(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, b.verdict(r))
	fmt.Printf("\n%s\n", table.String())
	return errors.Join(errs...)
}

// rot flips bits in the data of one node's disk, reads everything through that node, and expects every block to be right and repaired.
func (b *bench) rot(ctx context.Context, r *run) error {
	for _, v := range b.volumes {
		v.Hold(true)
	}
	defer func() {
		for _, v := range b.volumes {
			v.Hold(false)
		}
	}()
	// Longer than the store waits before it moves everything from the journal to its place.
	if err := pause(ctx, 6*time.Second); err != nil {
		return err
	}
	f, err := os.OpenFile(b.Node(other).Backing, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	p := make([]byte, 4096)
	flipped := 0
	for range 4000 {
		off := st.Size()/8 + rnd.Int64N(st.Size()/3)/4096*4096
		off = off / 4096 * 4096
		if _, err := f.ReadAt(p, off); err != nil {
			return err
		}
		if !verify.IsBlock(p) { // anything else is left alone
			continue
		}
		p[rnd.IntN(4096)] ^= 1 << rnd.IntN(8)
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
		flipped++
	}
	before, err := b.checksumErrors(ctx, other)
	if err != nil {
		return err
	}
	for pass := range 2 {
		for _, v := range b.volumes {
			if err := b.Client.MoveOwner(ctx, v.id, other); err != nil {
				return err
			}
			if err := v.Sweep(ctx); err != nil {
				return err
			}
		}
		if err := pause(ctx, 4*time.Second); err != nil { // repairs, and the next complete report
			return err
		}
		now, err := b.checksumErrors(ctx, other)
		if err != nil {
			return err
		}
		r.say("%d blocks with a flipped bit on the disk of %s; pass %d through it: %d checksum errors counted, none read", flipped, other, pass+1, now-before)
		if pass == 0 && flipped > 50 && now == before {
			return errors.New("no checksum error was counted")
		}
		if pass == 1 && now != before {
			return fmt.Errorf("%d checksum errors in the second pass: not all was repaired", now-before)
		}
		before = now
	}
	return nil
}

func (b *bench) onDisk(ctx context.Context, node string, f func(*storagedv1.Disk)) error {
	st, err := b.Client.Cluster.GetStatus(ctx, &storagedv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	for _, d := range st.Disks {
		if d.Node == node {
			f(d)
		}
	}
	return nil
}

func (b *bench) checksumErrors(ctx context.Context, node string) (n uint64, err error) {
	err = b.onDisk(ctx, node, func(d *storagedv1.Disk) { n += d.ChecksumErrors })
	return n, err
}

func (b *bench) diskState(ctx context.Context, node string) (state string, err error) {
	err = b.onDisk(ctx, node, func(d *storagedv1.Disk) { state = d.State })
	return state, err
}
