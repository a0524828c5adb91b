package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

const (
	gib       = int64(1) << 30
	mib       = int64(1) << 20
	ownerBar  = 8 * time.Second
	probeExt4 = "ext4"
	probeXFS  = "xfs"
)

// story is the test from the first login to the last logout.
func (w *world) story(ctx context.Context) error {
	ext4 := &claim{c: w.controller, n: w.node, nodeID: w.nodeID, name: "ext4", cap: filesystem("ext4")}
	xfs := &claim{c: w.controller, n: w.node, nodeID: w.nodeID, name: "xfs", cap: filesystem("xfs")}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"ext4 and xfs are provisioned, attached by the kernel and mounted", func() error { return errors.Join(ext4.up(ctx, gib), xfs.up(ctx, gib)) }},
		{"sessions and disks are as they should be; multipathd claims nothing", func() error { return w.attachment(ext4, xfs) }},
		{"a wrong CHAP secret is refused, the right one is not", func() error { return w.chap(ctx) }},
		{"persistent reservations of two initiator names", func() error { return w.reservations(ctx) }},
		{"fio writes and verifies on both", func() error { return w.fio(ext4, xfs) }},
		{"faults under load", func() error { return w.faults(ctx, ext4, xfs) }},
		{"fio writes and verifies again", func() error { return w.fio(ext4, xfs) }},
		{"everything is taken down", func() error { return errors.Join(ext4.down(ctx), xfs.down(ctx)) }},
		{"nothing is left", w.nothingLeft},
	} {
		say("%s", step.name)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// attachment looks at what the kernel and multipathd made of the volumes.
func (w *world) attachment(claims ...*claim) error {
	for _, k := range claims {
		source, err := w.machine.exec(20, "findmnt", "-n", "-o", "SOURCE,FSTYPE", k.target())
		if err != nil {
			return err
		}
		device, fstype, _ := strings.Cut(strings.Join(strings.Fields(source), " "), " ")
		if fstype != k.name || !strings.HasPrefix(device, "/dev/sd") {
			return fmt.Errorf("volume %s is mounted as %q", k.name, source)
		}
		sys := "/sys/block/" + strings.TrimPrefix(device, "/dev/")
		for file, want := range map[string]string{"/device/vendor": "IOMESH", "/device/model": "VOLUME", "/queue/physical_block_size": "4096", "/queue/write_cache": "write through"} {
			got, err := w.machine.exec(10, "cat", sys+file)
			if err != nil || strings.TrimSpace(got) != want {
				return fmt.Errorf("%s of volume %s is %q, want %q (%v)", file, k.name, got, want, err)
			}
		}
	}
	sessions, err := w.machine.exec(20, "iscsiadm", "-m", "session", "-P", "2")
	if err != nil {
		return err
	}
	for _, want := range []string{"Recovery Timeout: 120", "CHAP", "LOGGED_IN"} {
		if !strings.Contains(sessions, want) {
			return fmt.Errorf("iscsiadm's sessions do not say %q:\n%s", want, sessions)
		}
	}
	maps, err := w.machine.exec(20, "multipath", "-ll")
	if err != nil || strings.Contains(maps, "IOMESH") {
		return fmt.Errorf("multipathd has our disks (%v):\n%s", err, maps)
	}
	paths, err := w.machine.exec(20, "multipathd", "show", "paths")
	if err != nil {
		return fmt.Errorf("multipathd does not run, so that this would prove nothing: %w", err)
	}
	say("  multipathd runs and has %d of our paths", strings.Count(paths, "IOMESH"))
	return nil
}

func (w *world) chap(ctx context.Context) error {
	k := &claim{c: w.controller, n: w.node, nodeID: w.nodeID, name: "chap", cap: filesystem("ext4"), secrets: map[string]string{"username": "user", "password": "right-password"}}
	if err := k.create(ctx, 64*mib, map[string]string{"auth": "true"}); err != nil {
		return err
	}
	if err := k.controllerPublish(ctx); err != nil {
		return err
	}
	k.secrets = map[string]string{"username": "user", "password": "wrong-password"}
	if err := k.stage(ctx); status.Code(err) != codes.Unauthenticated || strings.Contains(err.Error(), "wrong-password") {
		return fmt.Errorf("staging with a wrong secret: %w", err)
	}
	k.secrets = map[string]string{"username": "user", "password": "right-password"}
	if err := errors.Join(k.stage(ctx), k.nodePublish(ctx)); err != nil {
		return err
	}
	return k.down(ctx)
}

// fio writes with checksums and reads them back, on both filesystems at once.
func (w *world) fio(claims ...*claim) error {
	args := []string{"fio", "--rw=randwrite", "--bs=4k", "--size=8m", "--ioengine=psync", "--direct=1", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"}
	for _, k := range claims {
		args = append(args, "--name="+k.name, "--filename="+k.target()+"/fio")
	}
	out, err := w.machine.exec(400, args...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if s := strings.TrimSpace(line); strings.HasPrefix(s, "write:") {
			say("  fio %s", s)
		}
	}
	return nil
}

// window measures one fault: everything between the last window and now.
func (w *world) window(ctx context.Context, name string, bar time.Duration, fault func() error) error {
	say("  %s", name)
	for _, p := range []string{probeExt4, probeXFS} {
		if _, err := w.machine.probe("window", p, ""); err != nil {
			return err
		}
	}
	if err := fault(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r := row{name: name, bar: bar, stall: map[string]time.Duration{}}
	// I/O flows again on both before the window ends.
	total := map[string]probeResult{}
	for _, p := range []string{probeExt4, probeXFS} {
		if err := poll(ctx, 3*time.Minute, "I/O on "+p+" goes on after: "+name, func() bool {
			x, err := w.machine.probe("window", p, "")
			if err != nil {
				return false
			}
			sum := total[p]
			sum.Ops += x.Ops
			sum.LongestMs = max(sum.LongestMs, x.LongestMs)
			sum.Error += x.Error
			total[p] = sum
			return x.Error != "" || x.Ops > 0 && x.LongestMs < 1500
		}); err != nil {
			return err
		}
		if total[p].Error != "" {
			return fmt.Errorf("%s: an I/O on %s failed: %s", name, p, total[p].Error)
		}
		r.stall[p] = time.Duration(total[p].LongestMs) * time.Millisecond
	}
	w.report.rows = append(w.report.rows, r)
	for p, stall := range r.stall {
		if bar > 0 && stall > bar {
			return fmt.Errorf("%s: I/O on %s stood still for %s, more than %s", name, p, stall, bar)
		}
	}
	return w.cluster.awaitWhole(ctx)
}

func (w *world) faults(ctx context.Context, ext4, xfs *claim) error {
	for _, k := range []*claim{ext4, xfs} {
		if _, err := w.machine.probe("start", k.name, k.target()+"/probe"); err != nil {
			return err
		}
	}
	freeze, cut := 60*time.Second, 100*time.Second
	if w.quick {
		freeze, cut = 15*time.Second, 15*time.Second
	}
	ownerOf := func(k *claim) (*daemon, error) { return w.cluster.owner(ctx, k.id) }
	steps := []struct {
		name string
		bar  time.Duration
		do   func() error
	}{
		{"nothing, 10 s", 0, func() error { return pause(ctx, 10*time.Second) }},
		{"six planned moves of each owner", 0, func() error { return w.moves(ctx, 6, ext4, xfs) }},
		{"both filesystems grow from 1 to 2 GiB", 0, func() error { return w.grow(ctx, ext4, xfs) }},
		{"owner of ext4: kill -9", ownerBar, func() error {
			d, err := ownerOf(ext4)
			if err != nil {
				return err
			}
			return errors.Join(d.signal(syscall.SIGKILL), pause(ctx, 15*time.Second))
		}},
		{"owner of xfs: kill -9", ownerBar, func() error {
			d, err := ownerOf(xfs)
			if err != nil {
				return err
			}
			return errors.Join(d.signal(syscall.SIGKILL), pause(ctx, 15*time.Second))
		}},
		{fmt.Sprintf("owner of ext4: frozen for %s", freeze), ownerBar, func() error {
			d, err := ownerOf(ext4)
			if err != nil {
				return err
			}
			return errors.Join(d.signal(syscall.SIGSTOP), pause(ctx, freeze), d.signal(syscall.SIGCONT), pause(ctx, 5*time.Second))
		}},
		{"rolling restart of all three chunks", 0, func() error {
			for i := range chunks {
				d := w.cluster.daemons[fmt.Sprintf("n%d", i+1)]
				if err := errors.Join(d.signal(syscall.SIGTERM), pause(ctx, 5*time.Second), w.cluster.awaitWhole(ctx)); err != nil {
					return err
				}
			}
			return nil
		}},
		{fmt.Sprintf("all portals cut off for %s", cut), cut + 30*time.Second, func() error {
			return errors.Join(cutPortals(), pause(ctx, cut), healPortals())
		}},
	}
	for _, s := range steps {
		if err := w.window(ctx, s.name, s.bar, s.do); err != nil {
			return err
		}
	}
	for _, k := range []*claim{ext4, xfs} {
		r, err := w.machine.probe("stop", k.name, "")
		if err != nil {
			return err
		}
		if r.Error != "" {
			return fmt.Errorf("probe of %s: %s", k.name, r.Error)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (w *world) moves(ctx context.Context, n int, claims ...*claim) error {
	for i := range n {
		for _, k := range claims {
			to := fmt.Sprintf("n%d", i%chunks+1)
			if _, err := w.cluster.volumes.MoveOwner(ctx, &storagedv1.MoveOwnerRequest{VolumeId: k.id, Node: to}); err != nil {
				return err
			}
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// grow expands both filesystems while they are in use, and looks at their size.
func (w *world) grow(ctx context.Context, claims ...*claim) error {
	for _, k := range claims {
		if err := k.expand(ctx, 2*gib); err != nil {
			return fmt.Errorf("expand volume %s: %w", k.name, err)
		}
		out, err := w.machine.exec(20, "df", "--output=size", "-B1M", k.target())
		if err != nil {
			return err
		}
		size := 0
		_, _ = fmt.Sscan(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(out), "1M-blocks")), &size)
		if size < 1800 {
			return fmt.Errorf("the filesystem of volume %s has %d MiB after the expansion to 2 GiB: %q", k.name, size, out)
		}
	}
	return nil
}

// nothingLeft asserts that neither session, disk nor node record stayed.
func (w *world) nothingLeft() error {
	if out, err := w.machine.try(20, "iscsiadm", "-m", "session"); err != nil || out.Code != 21 {
		return fmt.Errorf("sessions are left (%v): %s", err, out.Out)
	}
	if out, err := w.machine.try(20, "iscsiadm", "-m", "node"); err != nil || out.Code != 21 {
		return fmt.Errorf("node records are left (%v): %s", err, out.Out)
	}
	out, err := w.machine.exec(20, "lsblk", "-n", "-o", "NAME,VENDOR")
	if err != nil || strings.Contains(out, "IOMESH") {
		return fmt.Errorf("disks are left (%v): %s", err, out)
	}
	return nil
}
