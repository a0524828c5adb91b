package metadb

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// txnExtents is the number of extents changed in one transaction: below etcd's default limit of 128 operations.
const txnExtents = 120

// txnParallel is the number of such transactions under way at once for one call.
const txnParallel = 4

// Outcome says what became of one change of a batch.
type Outcome uint8

// Outcomes. The zero value is OutcomeUnknown, so that a forgotten result acknowledges nothing.
const (
	// OutcomeUnknown: it may have happened or may yet happen; repeat the change.
	OutcomeUnknown Outcome = iota
	// Committed: it is recorded, at the result's revision.
	Committed
	// Conflict: the record had another revision; the current one is in the result.
	Conflict
	// GuardFailed: the writer is no longer the owner (or leader); nothing of this transaction happened.
	GuardFailed
)

func (o Outcome) String() string {
	return name(uint8(o), "unknown", "committed", "conflict", "guard failed")
}

// ExtentResult is the outcome for one extent.
type ExtentResult struct {
	Outcome  Outcome
	Revision int64  // of the record: the new one if Committed, the current one on Conflict (0 = does not exist)
	Current  Extent // on Conflict
}

// UpdateExtents changes in-sync sets (I2): each extent of changes is written if the owner guard holds and its record is
// still at Revision (0 = does not exist). All extents must be of the guard's volume; order is kept in the results; their
// number is not bounded. Extents succeed and fail one by one.
//
// A change that finds exactly its own content recorded already counts as Committed. So an attempt without an answer is
// repeated here, a few times; OutcomeUnknown is left when etcd cannot be reached, and the caller repeats the call then.
// Returns after the committed ones are durable on a majority of the meta members.
//
// The error is nil if every result is Committed or Conflict, else ErrNotOwner if any guard failed, else ErrOutcomeUnknown.
func (d *DB) UpdateExtents(ctx context.Context, g OwnerGuard, changes []Extent) ([]ExtentResult, error) {
	for i := range changes {
		if changes[i].ID.Volume != g.Volume {
			return nil, fmt.Errorf("update extents of %s: %s is of another volume", g.Volume, changes[i].ID)
		}
		if len(changes[i].Members) == 0 {
			return nil, fmt.Errorf("update extent %s: the set would be empty (I15)", changes[i].ID)
		}
	}
	results, err := d.putExtents(ctx, g.cmp(), changes)
	if errors.Is(err, errGuard) {
		err = fmt.Errorf("update extents of %s in epoch %d: %w", g.Volume, g.Epoch, ErrNotOwner)
	}
	return results, err
}

// CreateExtents records the first sets of extents, for the leader; as UpdateExtents otherwise. The error is ErrDeposed if
// the guard failed.
func (d *DB) CreateExtents(ctx context.Context, g LeaderGuard, extents []Extent) ([]ExtentResult, error) {
	results, err := d.putExtents(ctx, g.cmp(), extents)
	if errors.Is(err, errGuard) {
		err = fmt.Errorf("create extents: %w", ErrDeposed)
	}
	return results, err
}

var errGuard = errors.New("guard failed")

func (d *DB) putExtents(ctx context.Context, guard clientv3.Cmp, changes []Extent) ([]ExtentResult, error) {
	results := make([]ExtentResult, len(changes))
	var eg errgroup.Group
	eg.SetLimit(txnParallel)
	for lo := 0; lo < len(changes); lo += txnExtents {
		hi := min(lo+txnExtents, len(changes))
		eg.Go(func() error { return d.putBatch(ctx, guard, changes[lo:hi], results[lo:hi]) })
	}
	first := eg.Wait()
	for i := range results {
		if results[i].Outcome == GuardFailed {
			return results, errGuard
		}
	}
	return results, first
}

func (d *DB) putBatch(ctx context.Context, guard clientv3.Cmp, changes []Extent, results []ExtentResult) error {
	then := make([]clientv3.Op, len(changes))
	for i := range changes {
		key := keyExtent(changes[i].ID)
		then[i] = clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", changes[i].Revision)},
			[]clientv3.Op{clientv3.OpPut(key, string(encodeExtent(&changes[i])))},
			[]clientv3.Op{clientv3.OpGet(key)},
		)
	}
	resp, err := d.settle(ctx, []clientv3.Cmp{guard}, then, nil)
	if err != nil {
		return err // results stay OutcomeUnknown
	}
	if !resp.Succeeded {
		for i := range results {
			results[i].Outcome = GuardFailed
		}
		return errGuard
	}
	for i := range changes {
		sub := resp.Responses[i].GetResponseTxn()
		if sub.Succeeded {
			results[i] = ExtentResult{Outcome: Committed, Revision: resp.Header.Revision}
			continue
		}
		results[i].Outcome = Conflict
		results[i].Current.ID = changes[i].ID
		kvs := sub.Responses[0].GetResponseRange().Kvs
		if len(kvs) == 0 {
			continue
		}
		cur, err := decodeExtent(string(kvs[0].Key), kvs[0].Value, kvs[0].ModRevision)
		if err != nil {
			return fmt.Errorf("extent %s: record: %w", changes[i].ID, err)
		}
		results[i].Revision, results[i].Current = cur.Revision, cur
		if cur.Equal(&changes[i]) {
			results[i] = ExtentResult{Outcome: Committed, Revision: cur.Revision}
		}
	}
	return nil
}
