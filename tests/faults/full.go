package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/tests/faults/verify"
)

// noSpace reports whether a write was refused because the pool is full.
func noSpace(err error) bool {
	var s *initiator.StatusError
	return errors.As(err, &s) && s.Sense.Code == scsi.SpaceAllocationFailed
}

// full fills a pool of three small disks with thin volumes under load, looks at what still works, frees space, and expects everything to go on.
func full(ctx context.Context, r *run) error {
	const diskBytes = 768 << 20
	b, err := up(ctx, r, diskBytes)
	if err != nil {
		return err
	}
	defer b.close()
	// Together more than the disks have; the last one is there to be deleted.
	for i, name := range []string{"a-3way", "b-3way", "ballast"} {
		v, err := b.create(ctx, name, 384<<20, 3)
		if err != nil {
			return err
		}
		v.Expected = noSpace
		v.Writers, v.Readers, v.Pause = 2, 1, time.Millisecond
		if i == 2 {
			v.Readers = 0
		}
	}
	ballast := b.volumes[2]
	if err := fillVolume(ctx, ballast); err != nil {
		return fmt.Errorf("fill the first volume: %w", err)
	}
	a := b.volumes[0]
	if err := fillUntilFull(ctx, a); err != nil {
		return err
	}
	b.start(b.volumes[:2]...)
	r.say("a third of the pool written by one volume, then the others until it is full")
	refused := func() (n uint64) {
		for _, v := range b.volumes[:2] {
			_, _, x, _ := v.Counts()
			n += x
		}
		return n
	}
	if err := await(ctx, 120*time.Second, func() bool { return refused() > 50 }); err != nil {
		return fmt.Errorf("writers are not told SPACE ALLOCATION FAILED: %w", err)
	}
	st, err := b.Client.Cluster.GetStatus(ctx, &storagedv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	r.say("full: %d writes refused with SPACE ALLOCATION FAILED; %d of %d MiB used; longest wait of a request %s", refused(), st.UsedBytes>>20, st.TotalBytes>>20,
		b.volumes[0].Window().Max().Round(time.Millisecond))
	// Reads of everything, while it is full.
	for _, v := range b.volumes {
		if err := v.Sweep(ctx); err != nil {
			return fmt.Errorf("read while the pool is full: %w", err)
		}
	}
	r.say("every block of every volume reads as it should")
	if err := b.verdict(r); err != nil {
		return err
	}
	// UNMAP gives space back, and the writers go on by themselves.
	before := b.writes()
	for lba := 0; lba < a.History.Blocks()/4; lba += 16 {
		if err := unmap(ctx, ballast, uint64(lba), 16); err != nil {
			return fmt.Errorf("UNMAP while the pool is full: %w", err)
		}
	}
	if err := await(ctx, 60*time.Second, func() bool { return b.writes()[0] > before[0]+50 && b.writes()[1] > before[1]+50 }); err != nil {
		return fmt.Errorf("writers do not go on after UNMAP: %w: %s", err, b.progress(ctx, before))
	}
	r.say("96 MiB given back by UNMAP: the writers went on by themselves")
	if err := await(ctx, 180*time.Second, func() bool {
		x := refused()
		_ = pause(ctx, time.Second)
		return refused() > x+20
	}); err != nil {
		return fmt.Errorf("the pool does not fill again: %w", err)
	}
	before = b.writes()
	_ = ballast.session.Close()
	ballast.session = nil
	b.volumes = b.volumes[:2]
	if _, err := b.Client.Volumes.UnpublishVolume(ctx, &storagedv1.UnpublishVolumeRequest{VolumeId: ballast.id, Initiator: "iqn.2016-02.com.iomesh:faults"}); err != nil {
		return fmt.Errorf("unpublish while the pool is full: %w", err)
	}
	if _, err := b.Client.Volumes.DeleteVolume(ctx, &storagedv1.DeleteVolumeRequest{Id: ballast.id}); err != nil {
		return fmt.Errorf("delete while the pool is full: %w", err)
	}
	if err := await(ctx, 60*time.Second, func() bool { return b.writes()[0] > before[0]+200 && b.writes()[1] > before[1]+200 }); err != nil {
		return fmt.Errorf("writers do not go on after a volume was deleted: %w: %s", err, b.progress(ctx, before))
	}
	r.say("a volume deleted while full: the writers went on by themselves")
	return b.finish(ctx, r)
}

// fillUntilFull writes every block in turn until the first is refused for lack of space, or all are written.
func fillUntilFull(ctx context.Context, v *volume) error {
	const n = 16
	p := make([]byte, n*verify.BlockBytes)
	var seqs [n]verify.Seq
	for lba := 0; lba < v.History.Blocks(); lba += n {
		for i := range n {
			seqs[i] = v.History.BeginWrite(uint64(lba+i), p[i*verify.BlockBytes:][:verify.BlockBytes])
		}
		if err := v.session.WriteAt(ctx, p, uint64(lba)*verify.BlockBytes); noSpace(err) {
			return nil
		} else if err != nil {
			return err
		}
		for i := range n {
			v.History.Acked(uint64(lba+i), seqs[i])
		}
	}
	return nil
}

func unmap(ctx context.Context, v *volume, lba, n uint64) error {
	var seqs [64]verify.Seq
	for i := range n {
		seqs[i] = v.History.BeginZero(lba + i)
	}
	if err := v.session.Unmap(ctx, lba*verify.BlockBytes, n*verify.BlockBytes); err != nil {
		return err
	}
	for i := range n {
		v.History.Acked(lba+i, seqs[i])
	}
	return nil
}

func await(ctx context.Context, within time.Duration, f func() bool) error {
	deadline := time.Now().Add(within)
	for !f() {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s", within)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// progress says what each volume has done since, and how full the disks are.
func (b *bench) progress(ctx context.Context, before []uint64) string {
	out := ""
	for i, v := range b.volumes {
		_, w, refused, _ := v.Counts()
		out += fmt.Sprintf("%s: %d writes since, %d refused in all; ", v.Name, w-before[i], refused)
	}
	if st, err := b.Client.Cluster.GetStatus(ctx, &storagedv1.GetStatusRequest{}); err == nil {
		for _, d := range st.Disks {
			out += fmt.Sprintf("disk of %s: %d of %d MiB used; ", d.Node, d.UsedBytes>>20, d.SizeBytes>>20)
		}
	}
	return out
}
