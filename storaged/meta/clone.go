package meta

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// origin fills in what a new volume takes from its source, and returns the source's sets. The source is locked until done is
// called: its snapshot cannot be deleted before the clone, which pins the view, is recorded.
//
// A clone's replicas lie on the disks of the origin's members, where they share its allocation units (I11). It pins the parent's
// view until its owner has reported every replica in sync once: by then all of them have taken over their content.
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
	if parent.PinsParent {
		return nil, nil, failf(codes.Unavailable, "volume %s is a clone that is still being prepared: try again when its status is healthy", parent.Name)
	}
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
		sets = slices.Clone(all[:min(len(all), int(block.Extents(sn.SizeBytes)))])
	})
	return sets, unlock, nil
}

// internalSnapshot takes the snapshot of live content that a clone begins as. The sweep deletes it once the clone does not need it.
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

// materialised reports whether the owner has seen every replica of a clone in sync, so that none needs the parent's view.
func (l *leader) materialised(s *state, v metadb.Volume) bool {
	o := s.owners[v.ID]
	f, ok := l.reg.volume(o.Chunk, v.ID)
	if !ok || f.report.GetEpoch() != uint64(o.Epoch) || l.now().Sub(f.at) > reportFresh {
		return false
	}
	st := f.report.GetStatus()
	if st.GetHealth() != storagedv1.Health_HEALTH_OK || st.GetExtentsDegraded() != 0 || st.GetExtentsUnavailable() != 0 {
		return false
	}
	for _, e := range s.extents[v.ID] {
		if len(e.Absent) > 0 {
			return false
		}
	}
	return true
}
