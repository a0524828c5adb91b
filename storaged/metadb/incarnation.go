package metadb

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/iomesh/iomesh/storaged/block"
)

// What a restore adds to numbers that may have been given out after the backup.
const (
	// EpochJump is added to every epoch: more than were issued without any replica having confirmed one.
	EpochJump = 1 << 12
	// GenerationJump is added to the generation of a set that is confirmed after a restore.
	GenerationJump = 1 << 16
	// ChunkJump is added to the highest number of a chunk.
	ChunkJump = 1000
)

// NewIncarnation prepares metadata that was restored from a backup: what it says may be older than what the replicas know (design: incarnation).
//
//   - the incarnation is raised: chunks start again, and register anew
//   - nobody leads, and nobody owns a volume; epochs are raised
//   - every volume is unconfirmed: it is served once its sets have been compared with the replicas
//
// It must run on the only member, before any other process can reach it. Interrupted, it may be run again on the same data.
func (d *DB) NewIncarnation(ctx context.Context) (Cluster, error) {
	fail := func(err error) (Cluster, error) { return Cluster{}, fmt.Errorf("raise the incarnation: %w", err) }
	c, err := getOne(ctx, d, keyCluster, decodeCluster)
	if err != nil {
		if errors.Is(err, ErrNotFound) {
			err = errors.New("the backup holds no cluster")
		}
		return fail(err)
	}
	b, err := d.list(ctx, Prefix)
	if err != nil {
		return fail(err)
	}
	next := c.Incarnation + 1
	var ops []clientv3.Op
	for _, kv := range b.put {
		r, err := decodeRecord(string(kv.Key), kv.Value, kv.ModRevision)
		if err != nil {
			return fail(err)
		}
		switch r := r.(type) {
		case Volume:
			if r.State == StateDeleting {
				continue
			}
			// One that was being created then may have been written to since: it must not be rolled back.
			r.State, r.PinsParent, r.Unconfirmed = StateReady, false, next
			ops = append(ops, clientv3.OpPut(string(kv.Key), string(encodeVolume(&r))))
		case Owner:
			r.Chunk = 0
			r.Epoch = min(r.Epoch+EpochJump, block.EpochMax)
			ops = append(ops, clientv3.OpPut(string(kv.Key), string(encodeOwner(&r))))
		case Leader:
			ops = append(ops, clientv3.OpDelete(string(kv.Key)))
		}
	}
	for lo := 0; lo < len(ops); lo += txnExtents {
		if _, err := d.commit(ctx, nil, ops[lo:min(lo+txnExtents, len(ops))], nil); err != nil {
			return fail(err)
		}
	}
	// Last: it says that all of the above is done.
	c.Incarnation, c.LastChunk = next, c.LastChunk+ChunkJump
	if _, err := d.commit(ctx, nil, []clientv3.Op{clientv3.OpPut(keyCluster, string(encodeCluster(&c)))}, nil); err != nil {
		return fail(err)
	}
	return c, nil
}

// ReplaceExtents writes sets without an owner, for the leader: the volume is owned by nobody, so no owner can change them meanwhile. Results
// are those of CreateExtents.
func (d *DB) ReplaceExtents(ctx context.Context, g LeaderGuard, extents []Extent) error {
	for i := range extents {
		if len(extents[i].Members) == 0 {
			return fmt.Errorf("replace extent %s: the set would be empty (I15)", extents[i].ID)
		}
	}
	results, err := d.putExtents(ctx, g.cmp(), extents)
	if errors.Is(err, errGuard) {
		return fmt.Errorf("replace extents: %w", ErrDeposed)
	}
	if err != nil {
		return fmt.Errorf("replace extents: %w", err)
	}
	for i := range results {
		if results[i].Outcome != Committed {
			return fmt.Errorf("replace extent %s: %s: %w", extents[i].ID, results[i].Outcome, ErrConflict)
		}
	}
	return nil
}

// CountVolumes counts the volumes.
func (d *DB) CountVolumes(ctx context.Context) (int, error) {
	resp, err := d.read(ctx, clientv3.OpGet(prefixVolume, clientv3.WithPrefix(), clientv3.WithCountOnly()))
	if err != nil {
		return 0, fmt.Errorf("count volumes: %w", err)
	}
	return int(resp.Responses[0].GetResponseRange().Count), nil
}
