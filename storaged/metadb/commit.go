package metadb

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/iomesh/iomesh/storaged/block"
)

// Op is one write of the leader, guarded by the revision of the record it was made from (0 = must not exist).
type Op struct {
	key   string
	value []byte
	del   bool
	rev   int64
}

// PutCluster writes the record of the whole.
func PutCluster(c Cluster) Op { return Op{key: keyCluster, value: encodeCluster(&c), rev: c.Revision} }

// PutChunk writes a chunk.
func PutChunk(c Chunk) Op { return Op{key: keyChunk(c.ID), value: encodeChunk(&c), rev: c.Revision} }

// DeleteChunk forgets a chunk.
func DeleteChunk(c Chunk) Op { return Op{key: keyChunk(c.ID), del: true, rev: c.Revision} }

// PutNode writes what is wanted of a node.
func PutNode(n Node) Op { return Op{key: keyNode(n.Name), value: encodeNode(&n), rev: n.Revision} }

// DeleteNode forgets what was wanted of a node.
func DeleteNode(n Node) Op { return Op{key: keyNode(n.Name), del: true, rev: n.Revision} }

// PutDisk writes a disk.
func PutDisk(v Disk) Op { return Op{key: keyDisk(v.ID), value: encodeDisk(&v), rev: v.Revision} }

// DeleteDisk forgets a disk.
func DeleteDisk(v Disk) Op { return Op{key: keyDisk(v.ID), del: true, rev: v.Revision} }

// PutVolume writes a volume.
func PutVolume(v Volume) Op {
	return Op{key: keyVolume(v.ID), value: encodeVolume(&v), rev: v.Revision}
}

// DeleteVolume deletes the record of a volume.
func DeleteVolume(v Volume) Op { return Op{key: keyVolume(v.ID), del: true, rev: v.Revision} }

// PutName reserves a name for a volume.
func PutName(n Name) Op {
	return Op{key: keyName(n.Name), value: marshal(&NameRecord{Volume: raw(n.Volume)}), rev: n.Revision}
}

// DeleteName frees a name.
func DeleteName(n Name) Op { return Op{key: keyName(n.Name), del: true, rev: n.Revision} }

// PutOwner writes one owner; SetOwners is the batched form.
func PutOwner(o Owner) Op {
	return Op{key: keyOwner(o.Volume), value: encodeOwner(&o), rev: o.Revision}
}

// DeleteOwner deletes the owner of a deleted volume: the owner's guard fails from then on.
func DeleteOwner(o Owner) Op { return Op{key: keyOwner(o.Volume), del: true, rev: o.Revision} }

// PutGrant writes a grant.
func PutGrant(g Grant) Op {
	return Op{key: keyGrant(g.Volume, g.Initiator), value: encodeGrant(&g), rev: g.Revision}
}

// DeleteGrant removes a grant.
func DeleteGrant(g Grant) Op {
	return Op{key: keyGrant(g.Volume, g.Initiator), del: true, rev: g.Revision}
}

// PutSnapshot writes a snapshot.
func PutSnapshot(s Snapshot) Op {
	return Op{key: keySnapshot(s.ID), value: encodeSnapshot(&s), rev: s.Revision}
}

// DeleteSnapshot deletes the record of a snapshot.
func DeleteSnapshot(s Snapshot) Op { return Op{key: keySnapshot(s.ID), del: true, rev: s.Revision} }

// DeleteReservation deletes the reservations of a deleted volume.
func DeleteReservation(r Reservation) Op {
	return Op{key: keyReservation(r.Volume), del: true, rev: r.Revision}
}

// PutTombstone writes a tombstone.
func PutTombstone(t Tombstone) Op {
	return Op{key: keyTombstone(t.Volume), value: encodeTombstone(&t), rev: t.Revision}
}

// DeleteTombstone deletes a tombstone: no chunk holds replicas of the volume any more.
func DeleteTombstone(t Tombstone) Op {
	return Op{key: keyTombstone(t.Volume), del: true, rev: t.Revision}
}

// Commit performs the writes of the leader in one transaction, all or none; at most 120. It returns the revision. Errors:
// ErrDeposed if the guard failed, ErrConflict if a record is not at its revision, ErrOutcomeUnknown if etcd did not answer
// several attempts.
func (d *DB) Commit(ctx context.Context, g LeaderGuard, ops ...Op) (int64, error) {
	if len(ops) > txnExtents {
		return 0, fmt.Errorf("commit of %d writes: at most %d fit one transaction", len(ops), txnExtents)
	}
	cmps := make([]clientv3.Cmp, 0, len(ops)+1)
	cmps = append(cmps, g.cmp())
	then := make([]clientv3.Op, 0, len(ops))
	for _, op := range ops {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(op.key), "=", op.rev))
		if op.del {
			then = append(then, clientv3.OpDelete(op.key))
		} else {
			then = append(then, clientv3.OpPut(op.key, string(op.value)))
		}
	}
	orElse := []clientv3.Op{clientv3.OpGet(keyLeader, clientv3.WithKeysOnly())}
	for _, op := range ops {
		orElse = append(orElse, clientv3.OpGet(op.key))
	}
	resp, err := d.settle(ctx, cmps, then, orElse)
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 0 || kvs[0].ModRevision != g.Revision {
		return 0, fmt.Errorf("commit: %w", ErrDeposed)
	}
	if rev, ok := happened(ops, resp); ok {
		return rev, nil
	}
	return 0, fmt.Errorf("commit: %w", ErrConflict)
}

// happened reports whether the records are as the writes would have made them: by an attempt whose answer was lost, since only
// the leader, whose guard holds, writes them so. It returns a revision at which they are.
func happened(ops []Op, resp *clientv3.TxnResponse) (int64, bool) {
	var rev int64
	for i, op := range ops {
		kvs := resp.Responses[i+1].GetResponseRange().Kvs
		switch {
		case op.del && len(kvs) == 0 && op.rev != 0:
		case !op.del && len(kvs) == 1 && string(kvs[0].Value) == string(op.value) && kvs[0].ModRevision > op.rev:
			rev = max(rev, kvs[0].ModRevision)
		default:
			return 0, false
		}
	}
	return rev, true
}

// DeleteExtents deletes the records of extents [from, ∞) of a volume: of a deleted volume (from 0), or after a failed growth.
func (d *DB) DeleteExtents(ctx context.Context, g LeaderGuard, id block.VolumeID, from block.ExtentIndex) error {
	lo := keyExtent(block.ExtentID{Volume: id, Index: from})
	resp, err := d.settle(ctx, []clientv3.Cmp{g.cmp()},
		[]clientv3.Op{clientv3.OpDelete(lo, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefixExtentsOf(id))))}, nil)
	if err != nil {
		return fmt.Errorf("delete extents of %s: %w", id, err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("delete extents of %s: %w", id, ErrDeposed)
	}
	return nil
}

// TakeLeadership writes l as the leader's record if the present one has a lower or the same term and is still at
// prev.Revision, and returns the guard of the new leadership. ErrDeposed if another took it in a later term.
func (d *DB) TakeLeadership(ctx context.Context, l Leader) (LeaderGuard, error) {
	prev, err := d.GetLeader(ctx)
	if err != nil && !isNotFound(err) {
		return LeaderGuard{}, fmt.Errorf("take leadership: %w", err)
	}
	if prev.Term > l.Term {
		return LeaderGuard{}, fmt.Errorf("take leadership in term %d: %s leads in term %d: %w", l.Term, prev.Name, prev.Term, ErrDeposed)
	}
	resp, err := d.commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(keyLeader), "=", prev.Revision)},
		[]clientv3.Op{clientv3.OpPut(keyLeader, string(encodeLeader(&l)))}, nil)
	if err != nil {
		return LeaderGuard{}, fmt.Errorf("take leadership: %w", err)
	}
	if !resp.Succeeded {
		return LeaderGuard{}, fmt.Errorf("take leadership in term %d: %w", l.Term, ErrDeposed)
	}
	return LeaderGuard{Revision: resp.Header.Revision}, nil
}
