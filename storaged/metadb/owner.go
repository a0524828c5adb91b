package metadb

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/iomesh/iomesh/storaged/block"
)

// OwnerResult is the outcome of one change of SetOwners.
type OwnerResult struct {
	Outcome Outcome
	Current Owner // the record after the call, if Committed or Conflict; Revision 0 = none
}

// SetOwners gives volumes to chunks, for the leader: each change is written if its volume's record is still at
// change.Revision (0 = none yet). Epochs must rise; the caller computes them. Batched, any number; owners succeed and fail
// one by one, in order. The error is nil if every result is Committed or Conflict, else ErrDeposed or ErrOutcomeUnknown.
func (d *DB) SetOwners(ctx context.Context, g LeaderGuard, changes []Owner) ([]OwnerResult, error) {
	results := make([]OwnerResult, len(changes))
	for lo := 0; lo < len(changes); lo += txnExtents {
		hi := min(lo+txnExtents, len(changes))
		if err := d.setOwners(ctx, g, changes[lo:hi], results[lo:hi]); err != nil {
			return results, fmt.Errorf("set owners: %w", err)
		}
	}
	return results, nil
}

func (d *DB) setOwners(ctx context.Context, g LeaderGuard, changes []Owner, results []OwnerResult) error {
	then := make([]clientv3.Op, len(changes))
	for i := range changes {
		key := keyOwner(changes[i].Volume)
		then[i] = clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", changes[i].Revision)},
			[]clientv3.Op{clientv3.OpPut(key, string(encodeOwner(&changes[i])))},
			[]clientv3.Op{clientv3.OpGet(key)},
		)
	}
	resp, err := d.settle(ctx, []clientv3.Cmp{g.cmp()}, then, nil)
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		for i := range results {
			results[i].Outcome = GuardFailed
		}
		return ErrDeposed
	}
	for i := range changes {
		sub := resp.Responses[i].GetResponseTxn()
		if sub.Succeeded {
			results[i] = OwnerResult{Outcome: Committed, Current: changes[i]}
			results[i].Current.Revision = resp.Header.Revision
			continue
		}
		results[i].Outcome = Conflict
		if kvs := sub.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			if results[i].Current, err = decodeOwner(string(kvs[0].Key), kvs[0].Value, kvs[0].ModRevision); err != nil {
				return err
			}
			if cur := results[i].Current; cur.Chunk == changes[i].Chunk && cur.Epoch == changes[i].Epoch {
				results[i].Outcome = Committed // by an attempt whose answer was lost
			}
		}
	}
	return nil
}

// PassOwner hands a volume from its owner to chunk to, in the next epoch: the last act of a planned move, after the owner
// has drained its writes. It returns the new record. ErrNotOwner if the guard failed, ErrOutcomeUnknown as everywhere;
// repeating it after an unknown outcome is safe.
func (d *DB) PassOwner(ctx context.Context, g OwnerGuard, to block.ChunkID) (Owner, error) {
	if g.Epoch >= block.EpochMax {
		return Owner{}, fmt.Errorf("pass volume %s: epoch %d is the last one", g.Volume, g.Epoch)
	}
	next := Owner{Volume: g.Volume, Chunk: to, Epoch: g.Epoch + 1}
	key := keyOwner(g.Volume)
	resp, err := d.settle(ctx, []clientv3.Cmp{g.cmp()},
		[]clientv3.Op{clientv3.OpPut(key, string(encodeOwner(&next)))}, []clientv3.Op{clientv3.OpGet(key)})
	if err != nil {
		return Owner{}, fmt.Errorf("pass volume %s to chunk %d: %w", g.Volume, to, err)
	}
	if resp.Succeeded {
		next.Revision = resp.Header.Revision
		return next, nil
	}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		cur, err := decodeOwner(key, kvs[0].Value, kvs[0].ModRevision)
		if err == nil && cur.Chunk == next.Chunk && cur.Epoch == next.Epoch {
			return cur, nil
		}
	}
	return Owner{}, fmt.Errorf("pass volume %s to chunk %d in epoch %d: %w", g.Volume, to, g.Epoch, ErrNotOwner)
}

// GetOwner reads one owner, linearizably. ErrNotFound if there is none.
func (d *DB) GetOwner(ctx context.Context, id block.VolumeID) (Owner, error) {
	return getOne(ctx, d, keyOwner(id), decodeOwner)
}

// CommitSnapshot makes a snapshot ready, for the owner at its barrier (I11): all writes it acknowledged carry at most the
// volume's SnapSeq, and it starts none with a higher one before this returns. In one transaction the snapshot gets the
// volume's SnapSeq as its view, and the volume's SnapSeq goes up by one. It returns the view; new writes carry view+1.
//
// Idempotent: a snapshot that is ready already returns its view, and changes nothing. ErrNotFound if the snapshot or its volume is not
// recorded, ErrNotOwner if the guard failed, ErrConflict if the leader changed the volume meanwhile (call again), ErrOutcomeUnknown (call again).
func (d *DB) CommitSnapshot(ctx context.Context, g OwnerGuard, id block.SnapshotID) (block.SnapSeq, error) {
	fail := func(err error) (block.SnapSeq, error) {
		return 0, fmt.Errorf("commit snapshot %s of volume %s: %w", id, g.Volume, err)
	}
	snap, err := d.GetSnapshot(ctx, id)
	if err != nil {
		return fail(err)
	}
	if snap.Volume != g.Volume {
		return fail(fmt.Errorf("it is of volume %s", snap.Volume))
	}
	if snap.State == StateReady {
		return snap.SnapSeq, nil
	}
	if snap.State != StateCreating {
		return fail(fmt.Errorf("it is being deleted: %w", ErrNotFound))
	}
	vol, err := d.GetVolume(ctx, g.Volume)
	if err != nil {
		return fail(err)
	}
	if vol.SnapSeq+1 >= block.LiveView {
		return fail(errors.New("the volume has had all snapshots that can be numbered"))
	}
	snap.SnapSeq, snap.SizeBytes, snap.State = vol.SnapSeq, vol.SizeBytes, StateReady
	volRev := vol.Revision
	vol.Views = append(vol.Views, vol.SnapSeq)
	vol.SnapSeq++
	resp, err := d.commit(ctx, []clientv3.Cmp{
		g.cmp(),
		clientv3.Compare(clientv3.ModRevision(keySnapshot(id)), "=", snap.Revision),
		clientv3.Compare(clientv3.ModRevision(keyVolume(g.Volume)), "=", volRev),
	}, []clientv3.Op{
		clientv3.OpPut(keySnapshot(id), string(encodeSnapshot(&snap))),
		clientv3.OpPut(keyVolume(g.Volume), string(encodeVolume(&vol))),
	}, []clientv3.Op{clientv3.OpGet(keyOwner(g.Volume))})
	if err != nil {
		return fail(err)
	}
	if !resp.Succeeded {
		kvs := resp.Responses[0].GetResponseRange().Kvs
		if len(kvs) == 0 || kvs[0].ModRevision != g.Revision {
			return fail(ErrNotOwner)
		}
		return fail(ErrConflict)
	}
	return snap.SnapSeq, nil
}

// GetReservation reads the persistent reservations of a volume; a volume without any has Revision 0 and no State.
func (d *DB) GetReservation(ctx context.Context, id block.VolumeID) (Reservation, error) {
	r, err := getOne(ctx, d, keyReservation(id), decodeReservation)
	if errors.Is(err, ErrNotFound) {
		return Reservation{Volume: id}, nil
	}
	return r, err
}

// SetReservation replaces the persistent reservations, for the owner, if they are still at r.Revision. It returns the new
// revision. ErrNotOwner, ErrConflict or ErrOutcomeUnknown otherwise.
func (d *DB) SetReservation(ctx context.Context, g OwnerGuard, r Reservation) (int64, error) {
	key := keyReservation(g.Volume)
	put := clientv3.OpPut(key, string(marshal(&ReservationRecord{State: r.State})))
	resp, err := d.commit(ctx, []clientv3.Cmp{g.cmp(), clientv3.Compare(clientv3.ModRevision(key), "=", r.Revision)},
		[]clientv3.Op{put}, []clientv3.Op{clientv3.OpGet(keyOwner(g.Volume))})
	if err != nil {
		return 0, fmt.Errorf("set reservations of volume %s: %w", g.Volume, err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	cause := ErrConflict
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 0 || kvs[0].ModRevision != g.Revision {
		cause = ErrNotOwner
	}
	return 0, fmt.Errorf("set reservations of volume %s: %w", g.Volume, cause)
}
