package main

import (
	"context"
	"fmt"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/tests/faults/verify"
)

// resyncSlack is how much more than was dirtied a resync may copy.
const resyncSlack = 1.1

// resync takes a replica away under load and compares what is copied on its return with the blocks that were written meanwhile.
func resync(ctx context.Context, r *run) error {
	outage := 10 * time.Minute
	if r.quick {
		outage = 20 * time.Second
	}
	b, err := up(ctx, r, 3<<30)
	if err != nil {
		return err
	}
	defer b.close()
	v, err := b.create(ctx, "resynced", 1<<30, 2, owner, other)
	if err != nil {
		return err
	}
	v.Writers, v.Readers, v.Pause = 3, 1, 3*time.Millisecond
	if err := b.own(ctx, owner); err != nil {
		return err
	}
	// The whole volume is written first, so that a copy of all would show.
	if err := fillVolume(ctx, v); err != nil {
		return err
	}
	r.say("a 2-way volume of 1 GiB, written in full")
	b.start(v)
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	done0, err := b.resynced(ctx, v)
	if err != nil {
		return err
	}
	// Nothing is on its way when the replica goes and when it returns, so that what is dirty is known exactly.
	hold(v, true)
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	mark := v.History.Mark()
	if err := b.Node(other).Chunk.Kill(); err != nil {
		return err
	}
	hold(v, false)
	r.say("node %s killed; load for %s", other, outage)
	if err := pause(ctx, outage); err != nil {
		return err
	}
	hold(v, true)
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	dirty := uint64(v.History.Changed(mark)) * verify.BlockBytes
	if err := b.StartAll(); err != nil {
		return err
	}
	start := time.Now()
	if err := b.healthy(ctx, 180*time.Second); err != nil {
		return err
	}
	took := time.Since(start)
	if err := pause(ctx, 3*time.Second); err != nil { // the owner's next complete report
		return err
	}
	done, err := b.resynced(ctx, v)
	if err != nil {
		return err
	}
	copied := done - done0
	r.say("%.1f MiB were dirtied, %.1f MiB copied (%.3f ×), in sync %.1f s after the start", mib(dirty), mib(copied), float64(copied)/float64(dirty), took.Seconds())
	hold(v, false)
	if err := b.finish(ctx, r); err != nil {
		return err
	}
	if float64(copied) > resyncSlack*float64(dirty) {
		return fmt.Errorf("the resync copied %.1f MiB, more than %.1f × the %.1f MiB that were dirtied", mib(copied), resyncSlack, mib(dirty))
	}
	if copied < dirty/2 {
		return fmt.Errorf("the resync says that it copied %.1f MiB of %.1f MiB dirtied: the count cannot be right", mib(copied), mib(dirty))
	}
	return nil
}

func hold(v *volume, on bool) { v.Hold(on) }

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

func (b *bench) resynced(ctx context.Context, v *volume) (uint64, error) {
	got, err := b.Client.Volumes.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: v.id})
	if err != nil {
		return 0, err
	}
	return got.Status.GetResyncBytesDone(), nil
}

// fillVolume writes every block once.
func fillVolume(ctx context.Context, v *volume) error {
	const n = 256
	p := make([]byte, n*verify.BlockBytes)
	seqs := make([]verify.Seq, n)
	for lba := 0; lba < v.History.Blocks(); lba += n {
		for i := range n {
			seqs[i] = v.History.BeginWrite(uint64(lba+i), p[i*verify.BlockBytes:][:verify.BlockBytes])
		}
		if err := v.session.WriteAt(ctx, p, uint64(lba)*verify.BlockBytes); err != nil {
			return err
		}
		for i := range n {
			v.History.Acked(uint64(lba+i), seqs[i])
		}
	}
	return nil
}
