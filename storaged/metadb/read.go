package metadb

import (
	"context"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/iomesh/iomesh/storaged/block"
)

type decoder[T any] func(key string, value []byte, rev int64) (T, error)

func getOne[T any](ctx context.Context, d *DB, key string, dec decoder[T]) (T, error) {
	var zero T
	resp, err := d.read(ctx, clientv3.OpGet(key))
	if err != nil {
		return zero, err
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return zero, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	v, err := dec(key, kvs[0].Value, kvs[0].ModRevision)
	if err != nil {
		return zero, fmt.Errorf("record %q: %w", key, err)
	}
	return v, nil
}

func decodeAll[T any](kvs []*mvccpb.KeyValue, dec decoder[T]) ([]T, error) {
	out := make([]T, 0, len(kvs))
	for _, kv := range kvs {
		v, err := dec(string(kv.Key), kv.Value, kv.ModRevision)
		if err != nil {
			return nil, fmt.Errorf("record %q: %w", kv.Key, err)
		}
		out = append(out, v)
	}
	return out, nil
}

func listAll[T any](ctx context.Context, d *DB, prefix string, dec decoder[T]) ([]T, error) {
	resp, err := d.read(ctx, clientv3.OpGet(prefix, clientv3.WithPrefix()))
	if err != nil {
		return nil, err
	}
	return decodeAll(resp.Responses[0].GetResponseRange().Kvs, dec)
}

// All reads are linearizable and retried on other members while ctx lasts.

// GetCluster reads the record of the whole. ErrNotFound before the first leader.
func (d *DB) GetCluster(ctx context.Context) (Cluster, error) {
	return getOne(ctx, d, keyCluster, decodeCluster)
}

// GetLeader reads who leads. ErrNotFound before the first leader.
func (d *DB) GetLeader(ctx context.Context) (Leader, error) {
	return getOne(ctx, d, keyLeader, decodeLeader)
}

// GetVolume reads one volume. ErrNotFound if there is none.
func (d *DB) GetVolume(ctx context.Context, id block.VolumeID) (Volume, error) {
	return getOne(ctx, d, keyVolume(id), decodeVolume)
}

// GetSnapshot reads one snapshot. ErrNotFound if there is none.
func (d *DB) GetSnapshot(ctx context.Context, id block.SnapshotID) (Snapshot, error) {
	return getOne(ctx, d, keySnapshot(id), decodeSnapshot)
}

// open leaves out the grants that are being withdrawn: to an owner they are gone.
func open(grants []Grant) []Grant {
	return slices.DeleteFunc(grants, func(g Grant) bool { return g.Closing })
}

// ListGrants reads the grants of a volume: what the owner checks a login against when its watch may lag.
func (d *DB) ListGrants(ctx context.Context, id block.VolumeID) ([]Grant, error) {
	grants, err := listAll(ctx, d, prefixGrantsOf(id), decodeGrant)
	return open(grants), err
}

// ListChunks reads all chunks.
func (d *DB) ListChunks(ctx context.Context) ([]Chunk, error) {
	return listAll(ctx, d, prefixChunk, decodeChunk)
}

// ListDisks reads all disks.
func (d *DB) ListDisks(ctx context.Context) ([]Disk, error) {
	return listAll(ctx, d, prefixDisk, decodeDisk)
}

// ListOwners reads all owners.
func (d *DB) ListOwners(ctx context.Context) ([]Owner, error) {
	return listAll(ctx, d, prefixOwner, decodeOwner)
}

// VolumeContent is everything an owner needs to know of a volume, as of one revision.
type VolumeContent struct {
	Volume   Volume
	Owner    Owner    // Revision 0 = none
	Extents  []Extent // ascending by index, without gaps if the volume is ready
	Grants   []Grant
	Revision int64
}

// LoadVolume reads a volume with its owner, all extents and all grants consistently at one revision.
// ErrNotFound if there is no such volume.
func (d *DB) LoadVolume(ctx context.Context, id block.VolumeID) (*VolumeContent, error) {
	resp, err := d.read(ctx,
		clientv3.OpGet(keyVolume(id)), clientv3.OpGet(keyOwner(id)),
		clientv3.OpGet(prefixExtentsOf(id), clientv3.WithPrefix()), clientv3.OpGet(prefixGrantsOf(id), clientv3.WithPrefix()))
	if err != nil {
		return nil, fmt.Errorf("load volume %s: %w", id, err)
	}
	kvs := func(i int) []*mvccpb.KeyValue { return resp.Responses[i].GetResponseRange().Kvs }
	if len(kvs(0)) == 0 {
		return nil, fmt.Errorf("load volume %s: %w", id, ErrNotFound)
	}
	c := &VolumeContent{Owner: Owner{Volume: id}, Revision: resp.Header.Revision}
	vols, err := decodeAll(kvs(0), decodeVolume)
	if err != nil {
		return nil, fmt.Errorf("load volume %s: %w", id, err)
	}
	c.Volume = vols[0]
	owners, err := decodeAll(kvs(1), decodeOwner)
	if err != nil {
		return nil, fmt.Errorf("load volume %s: %w", id, err)
	}
	if len(owners) > 0 {
		c.Owner = owners[0]
	}
	if c.Extents, err = decodeAll(kvs(2), decodeExtent); err != nil {
		return nil, fmt.Errorf("load volume %s: %w", id, err)
	}
	if c.Grants, err = decodeAll(kvs(3), decodeGrant); err != nil {
		return nil, fmt.Errorf("load volume %s: %w", id, err)
	}
	c.Grants = open(c.Grants)
	return c, nil
}
