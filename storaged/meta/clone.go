package meta

import (
	"context"

	"google.golang.org/grpc/codes"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// origin fills in what a new volume takes from its source, and returns the sets it inherits. The source is locked until done is
// called: its snapshot cannot be deleted before the clone's replicas are made. (A crash in between leaves the clone in state
// Creating, whose record pins the view until it is rolled back.)
//
// A clone's replicas lie on the disks of the origin's members, where they share its allocation units (I11). Members that are
// away get none: repair adds a copy.
func (l *leader) origin(ctx context.Context, req *storagedv1.CreateVolumeRequest, v *metadb.Volume) (sets []metadb.Extent, done func(), err error) {
	parentID := req.GetSourceVolumeId()
	var sid block.SnapshotID
	if req.GetSourceSnapshotId() != "" {
		if sid, err = block.ParseSnapshotID(req.GetSourceSnapshotId()); err != nil {
			return nil, nil, failf(codes.InvalidArgument, "source_snapshot_id: %v", err)
		}
		var sn metadb.Snapshot
		l.view(func(s *state) { sn = s.snapshots[sid] })
		if sn.Revision == 0 || sn.State == metadb.StateDeleting {
			return nil, nil, failf(codes.NotFound, "snapshot %s does not exist", sid)
		}
		parentID = sn.Volume.String()
	}
	parent, unlock, err := l.lockVolume(ctx, parentID)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	var sn metadb.Snapshot
	if sid != (block.SnapshotID{}) {
		l.view(func(s *state) { sn = s.snapshots[sid] })
		if sn.State != metadb.StateReady {
			return nil, nil, failf(codes.Unavailable, "snapshot %s is not ready: try again", sn.Name)
		}
		v.SourceSnapshot = sid
	} else if sn, err = l.internalSnapshot(ctx, parent, v.ID); err != nil {
		return nil, nil, err
	}
	switch {
	case v.SizeBytes == 0:
		v.SizeBytes = roundUp(sn.SizeBytes)
	case v.SizeBytes < sn.SizeBytes:
		return nil, nil, failf(codes.OutOfRange, "size_bytes: %s is smaller than the source of %s", bytesText(v.SizeBytes), bytesText(sn.SizeBytes))
	}
	v.Lineage, v.Parent, v.ParentView, v.PinsParent = parent.Lineage, parent.ID, sn.SnapSeq, true
	l.view(func(s *state) {
		all := s.extents[parent.ID]
		for _, e := range all[:min(len(all), int(block.Extents(sn.SizeBytes)))] {
			e.Members = l.online(s, e.Members)
			sets = append(sets, e)
			if len(e.Members) < int(v.MinReplicas) {
				err = failf(codes.Unavailable, "extent %d of the source %s has %s online, the new volume needs %d: bring back its nodes, or try again",
					e.ID.Index, parent.Name, count(len(e.Members), "replica"), v.MinReplicas)
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	return sets, unlock, nil
}

// online returns the full members whose disks are attached and active now.
func (l *leader) online(s *state, members []metadb.Member) []metadb.Member {
	var out []metadb.Member
	for _, m := range members {
		reports, _ := l.reg.disksOf(m.Chunk)
		r := reports[m.Disk]
		if m.Kind == metadb.KindFull && l.reg.live(m.Chunk).Present && r.GetDisk().GetState() == diskStateActive && s.disks[m.Disk].State != metadb.DiskFailed {
			out = append(out, metadb.Member{Disk: m.Disk, Chunk: m.Chunk})
		}
	}
	return out
}

// internalSnapshot takes the snapshot of live content that a clone begins as. The sweep deletes it when the clone is ready.
func (l *leader) internalSnapshot(ctx context.Context, parent metadb.Volume, clone block.VolumeID) (metadb.Snapshot, error) {
	sn := metadb.Snapshot{ID: block.NewSnapshotID(), Name: "clone-" + clone.String(), Volume: parent.ID, Created: l.now(), Internal: true}
	if _, err := l.commit(ctx, metadb.PutSnapshot(sn)); err != nil {
		return metadb.Snapshot{}, err
	}
	return l.barrier(ctx, parent, sn.ID)
}

// needed reports whether a clone may still need the view of an internal snapshot.
func needed(s *state, sn metadb.Snapshot) bool {
	for _, v := range s.volumes {
		if v.PinsParent && v.Parent == sn.Volume && v.ParentView == sn.SnapSeq {
			return true
		}
	}
	return false
}
