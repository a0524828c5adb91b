package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/tests/faults/cluster"
)

// metadata loses the directories of all meta members under load and restores a backup that a chunk has kept: one from before a replica
// left its sets, so that the backup names members that are stale by now.
func metadata(ctx context.Context, r *run) error {
	b, err := up(ctx, r, 2<<30, "--meta-backup-every", "8s")
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.standard(ctx, r); err != nil {
		return err
	}
	if err := b.own(ctx, owner); err != nil {
		return err
	}
	if err := b.healthy(ctx, 60*time.Second); err != nil {
		return err
	}
	backup, err := b.backupAfter(ctx, time.Now())
	if err != nil {
		return err
	}
	r.say("backup with all replicas in their sets: %s", filepath.Base(backup))

	// From here on the replicas on one node fall behind what the backup says of them.
	if err := b.Node(other).Chunk.Kill(); err != nil {
		return err
	}
	if err := pause(ctx, 10*time.Second); err != nil {
		return err
	}
	for _, n := range b.Nodes {
		if err := n.Meta.Kill(); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(r.dir, n.Name, "meta")); err != nil {
			return err
		}
	}
	r.say("node %s fell behind for 10 s; then all meta members were killed and their directories removed", other)
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	if err := b.restore(ctx, r, backup); err != nil {
		return err
	}
	if err := b.StartMeta(); err != nil {
		return err
	}

	// While a disk is missing that the backup names, nothing may be served: it could hold the newest writes.
	v := b.volumes[0]
	err = cluster.Await(ctx, 90*time.Second, func() string {
		got, err := b.Client.Volumes.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: v.id})
		switch {
		case err != nil:
			return err.Error()
		case !strings.Contains(got.Status.GetReason(), "disks that may hold newer replicas are missing") || strings.Contains(got.Status.GetReason(), ","):
			// Not yet, or chunks that live have not all registered anew.
			return fmt.Sprintf("volume %s: %s: %s", v.Name, got.Status.GetHealth(), got.Status.GetReason())
		}
		r.say("volume %s is refused: %s", v.Name, got.Status.GetReason())
		return ""
	})
	if err != nil {
		return fmt.Errorf("a volume with a missing disk after the restore: %w", err)
	}
	// One volume is accepted as it is, by its name; the others wait for the disk.
	accepted := b.volumes[3]
	if _, err := b.Client.Volumes.AcceptLoss(ctx, &storagedv1.AcceptLossRequest{Id: accepted.id, Confirm: accepted.Name}); err != nil {
		return fmt.Errorf("accept the loss of volume %s: %w", accepted.Name, err)
	}
	if err := b.goesOn(ctx, accepted); err != nil {
		return fmt.Errorf("after its loss was accepted: %w", err)
	}
	r.say("volume %s serves since its loss was accepted (nothing was lost: its newest replicas were there)", accepted.Name)

	if err := b.StartAll(); err != nil {
		return err
	}
	for _, v := range b.volumes {
		if err := b.goesOn(ctx, v); err != nil {
			return errors.Join(fmt.Errorf("after the missing disk is back: %w", err), b.verdict(r))
		}
	}
	r.say("the missing node is back: all volumes serve")
	return b.finish(ctx, r)
}

// backupAfter waits for a backup on any node that was begun after t.
func (b *bench) backupAfter(ctx context.Context, t time.Time) (string, error) {
	var found string
	err := cluster.Await(ctx, 60*time.Second, func() string {
		for _, n := range b.Nodes {
			files, _ := filepath.Glob(filepath.Join(b.Dir, n.Name, "meta-backups", "meta-*.db"))
			slices.Sort(files)
			for _, f := range files {
				name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "meta-"), ".db")
				if at, err := time.Parse("20060102T150405Z", name); err == nil && at.After(t) {
					found = f
					return ""
				}
			}
		}
		return "no node has a backup"
	})
	return found, err
}

// restore runs `storaged meta restore` for the first member.
func (b *bench) restore(ctx context.Context, r *run, backup string) error {
	// The chunk goes on making backups and removes old ones.
	keep := filepath.Join(r.dir, "backup.db")
	raw, err := os.ReadFile(backup)
	if err == nil {
		err = os.WriteFile(keep, raw, 0o600)
	}
	if err != nil {
		return err
	}
	args := append([]string{"meta", "restore", keep}, b.RestoreArgs()...)
	out, err := exec.CommandContext(ctx, r.storaged, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("storaged %s: %w: %s", strings.Join(args, " "), err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	r.say("$ storaged meta restore …: %s", lines[len(lines)-1])
	return nil
}

// goesOn waits until writes of a volume are acknowledged.
func (b *bench) goesOn(ctx context.Context, v *volume) error {
	_, before, _, _ := v.Counts()
	if err := await(ctx, 60*time.Second, func() bool {
		_, w, _, _ := v.Counts()
		return w > before+20
	}); err != nil {
		return fmt.Errorf("no I/O on volume %s: %w", v.Name, err)
	}
	return nil
}
