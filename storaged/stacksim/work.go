package stacksim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/storaged/block"
)

// WorkKind is a kind of work of the administrator.
type WorkKind uint8

// The work, beside load and faults. Each is asked of the meta members until one answers.
const (
	// WorkSnapshot takes a snapshot, restores it to a new volume, reads that, and deletes both.
	WorkSnapshot WorkKind = iota
	// WorkMove moves a volume to another owner.
	WorkMove
	// WorkGrow makes a volume larger.
	WorkGrow
	// WorkDrain drains a disk and takes it back.
	WorkDrain
	// WorkWithdraw unpublishes a volume from a client at work and publishes it to another.
	WorkWithdraw
	workKinds
)

var workNames = [workKinds]string{"snapshot", "move", "grow", "drain", "withdraw"}

func (k WorkKind) String() string { return workNames[k] }

// administrate does the work of the run, one thing after the other.
func (w *World) administrate() {
	if len(w.cfg.Work) == 0 {
		return
	}
	rng := w.fork()
	for i := 0; w.ctx.Err() == nil && !w.failed(); i++ {
		if pause(w.ctx, between(rng, 200*time.Millisecond, 4*time.Second)) != nil {
			return
		}
		k := w.cfg.Work[rng.IntN(len(w.cfg.Work))]
		v := w.volumes[rng.IntN(len(w.volumes))]
		w.tracef("WORK %s of %s", k, v.name)
		err := w.work(k, v, i, rng)
		w.tracef("END of %s: %v", k, err)
		if err != nil && !errors.Is(err, errGivenUp) {
			w.fail("%s of volume %s: %v", k, v.name, err)
		}
	}
}

func (w *World) work(k WorkKind, v *volume, i int, rng *rand.Rand) error {
	switch k {
	case WorkSnapshot:
		return w.snapshot(v, fmt.Sprintf("s%d", i), rng)
	case WorkMove:
		n := w.nodes[rng.IntN(len(w.nodes))]
		err := w.ask(8*time.Second, func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := storagedv1.NewVolumesClient(c).MoveOwner(ctx, &storagedv1.MoveOwnerRequest{VolumeId: v.id, Node: n.name})
			return err
		})
		if err == nil {
			w.count(&w.stats.Moves)
		}
		return err
	case WorkGrow:
		v.mu.Lock()
		size := v.size + 16<<20
		v.size = size
		v.mu.Unlock()
		return w.ask(8*time.Second, func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := storagedv1.NewVolumesClient(c).ExpandVolume(ctx, &storagedv1.ExpandVolumeRequest{Id: v.id, SizeBytes: size})
			return err
		})
	case WorkDrain:
		return w.drain(rng)
	case WorkWithdraw:
		return w.withdraw(v)
	}
	return nil
}

// snapshot takes one and reads it through a volume made from it. What it holds of a block is what the block held at one time between the call and
// the answer.
func (w *World) snapshot(v *volume, name string, rng *rand.Rand) error {
	called := w.since()
	var snap *storagedv1.Snapshot
	if err := w.ask(10*time.Second, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		snap, err = storagedv1.NewVolumesClient(c).CreateSnapshot(ctx, &storagedv1.CreateSnapshotRequest{VolumeId: v.id, Name: v.name + "-" + name})
		return err
	}); err != nil {
		return err
	}
	taken := w.since()
	w.count(&w.stats.Snapshots)
	if rng.IntN(3) == 0 {
		return nil // it stays
	}
	_ = pause(w.ctx, between(rng, time.Millisecond, 3*time.Second))
	var r *storagedv1.Volume
	if err := w.ask(60*time.Second, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		r, err = storagedv1.NewVolumesClient(c).CreateVolume(ctx, &storagedv1.CreateVolumeRequest{Name: v.name + "-" + name + "-restored", SourceSnapshotId: snap.Id,
			ReplicaFactor: uint32(v.vc.Replicas), SizeBytes: snap.SizeBytes})
		return err
	}); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	x := &volume{w: w, id: r.Id, iqn: r.Iqn, name: r.Name, vc: VolumeConfig{Clients: 1}, rng: rng, open: map[string]time.Time{}}
	c, err := x.newClient()
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer c.close()
	shared, fine := make([]byte, sharedBlocks*block.Size), make([]byte, fineSectors*sectorBytes)
	for _, part := range []struct {
		p  []byte
		at uint64
	}{{shared, v.offset(0)}, {fine, v.offset(fineBlock)}} {
		if err := c.session.Do(context.Background(), &initiator.Request{Op: initiator.Read, Offset: part.at, Data: part.p}); err != nil {
			return fmt.Errorf("read the restored volume: %w", err)
		}
	}
	v.note(0, shared, called, taken, "a snapshot")
	v.noteSectors(0, fine, called, taken, "a snapshot")
	if err := x.unpublish(c.iqn); err != nil {
		return err
	}
	if err := w.ask(60*time.Second, func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := storagedv1.NewVolumesClient(c).DeleteVolume(ctx, &storagedv1.DeleteVolumeRequest{Id: r.Id})
		return err
	}); err != nil {
		return fmt.Errorf("delete the restored volume: %w", err)
	}
	return w.ask(60*time.Second, func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := storagedv1.NewVolumesClient(c).DeleteSnapshot(ctx, &storagedv1.DeleteSnapshotRequest{Id: snap.Id})
		return err
	})
}

// drain drains a disk for a while and takes it back.
func (w *World) drain(rng *rand.Rand) error {
	var disks *storagedv1.ListDisksResponse
	if err := w.ask(8*time.Second, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		disks, err = storagedv1.NewClusterClient(c).ListDisks(ctx, &storagedv1.ListDisksRequest{})
		return err
	}); err != nil || len(disks.Disks) == 0 {
		return err
	}
	id := disks.Disks[rng.IntN(len(disks.Disks))].Id
	drain := func(cancel bool, patience time.Duration) error {
		return w.ask(patience, func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := storagedv1.NewClusterClient(c).DrainDisk(ctx, &storagedv1.DrainDiskRequest{Id: id, Cancel: cancel})
			return err
		})
	}
	if err := drain(false, 8*time.Second); err != nil {
		return err
	}
	_ = pause(w.ctx, between(rng, time.Second, 6*time.Second))
	return drain(true, 60*time.Second)
}

// withdraw takes a volume from a client while it writes, and gives it to a new one. Once unpublished, what the old one had begun has been done or
// never will be (I16).
func (w *World) withdraw(v *volume) error {
	v.mu.Lock()
	old := v.clients[len(v.clients)-1]
	v.mu.Unlock()
	old.mu.Lock()
	old.withdrawn = true
	old.mu.Unlock()
	if err := v.unpublish(old.iqn); err != nil {
		return err
	}
	old.settlePending()
	old.stop()
	next, err := v.newClient()
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.clients[len(v.clients)-1] = next
	v.retired = append(v.retired, old)
	v.mu.Unlock()
	next.begin()
	return nil
}
