package meta

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// barrierWait is how long a snapshot waits for its owner if the caller sets no shorter limit.
const barrierWait = 30 * time.Second

// CreateSnapshot implements the RPC of the same name. Names are unique per volume.
//
//	record Creating ─▶ owner's barrier: record Ready, volume's sequence + 1 (one transaction of the owner) ─▶ answer
func (vs *volumesService) CreateSnapshot(ctx context.Context, req *storagedv1.CreateSnapshotRequest) (*storagedv1.Snapshot, error) {
	l := leaderOf(ctx)
	if !objectName.MatchString(req.GetName()) {
		return nil, failf(codes.InvalidArgument, "name: %q is not 1 to 128 letters, digits, dots, hyphens and underscores, beginning with a letter or digit", req.GetName())
	}
	v, unlock, err := l.lockVolume(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	var sn metadb.Snapshot
	l.view(func(s *state) {
		for _, o := range s.snapshotsOf(v.ID) {
			if o.Name == req.GetName() && !o.Internal {
				sn = o
			}
		}
	})
	switch {
	case sn.Revision == 0:
		sn = metadb.Snapshot{ID: block.NewSnapshotID(), Name: req.GetName(), Volume: v.ID, Created: l.now()}
		if sn.Revision, err = l.commit(ctx, metadb.PutSnapshot(sn)); err != nil {
			return nil, fmt.Errorf("create snapshot %s of volume %s: %w", sn.Name, v.Name, err)
		}
	case sn.State == metadb.StateReady:
		return snapshot(sn), nil
	case sn.State == metadb.StateDeleting:
		return nil, failf(codes.Aborted, "snapshot %s of volume %s is being deleted: try again", sn.Name, v.Name)
	}
	if sn, err = l.barrier(ctx, v, sn.ID); err != nil {
		return nil, err
	}
	l.log.Info("snapshot taken", "snapshot", sn.ID, "name", sn.Name, "volume", v.ID, "snapSeq", uint32(sn.SnapSeq))
	return snapshot(sn), nil
}

// barrier has the owner take a recorded snapshot, and returns it ready.
func (l *leader) barrier(ctx context.Context, v metadb.Volume, id block.SnapshotID) (metadb.Snapshot, error) {
	_, err := l.tellOwner(ctx, v.ID, barrierWait, func(ctx context.Context, cc storagedv1.ChunkControlClient) error {
		_, err := cc.Snapshot(ctx, &storagedv1.ChunkSnapshotRequest{VolumeId: v.ID.String(), SnapshotId: id.String()})
		return err
	})
	if err != nil {
		return metadb.Snapshot{}, failf(codes.Unavailable, "snapshot of volume %s: its owner did not take it, try again: %v", v.Name, status.Convert(err).Message())
	}
	// The owner wrote it: read it where it is certain.
	sn, err := l.db.GetSnapshot(ctx, id)
	if err != nil {
		return metadb.Snapshot{}, err
	}
	if sn.State != metadb.StateReady {
		return metadb.Snapshot{}, failf(codes.Unavailable, "snapshot of volume %s: its owner answered before it was recorded: try again", v.Name)
	}
	return sn, l.s.mirror.wait(ctx, sn.Revision)
}

// DeleteSnapshot implements the RPC of the same name: the record goes, the space follows on every chunk (sweep).
func (vs *volumesService) DeleteSnapshot(ctx context.Context, req *storagedv1.DeleteSnapshotRequest) (*storagedv1.DeleteSnapshotResponse, error) {
	l := leaderOf(ctx)
	id, err := block.ParseSnapshotID(req.GetId())
	if err != nil {
		return nil, failf(codes.InvalidArgument, "id: %v", err)
	}
	var sn metadb.Snapshot
	l.view(func(s *state) { sn = s.snapshots[id] })
	if sn.Revision == 0 || sn.Internal {
		return &storagedv1.DeleteSnapshotResponse{}, nil
	}
	unlock, err := l.locks.lock(ctx, "volume "+sn.Volume.String())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := l.dropSnapshot(ctx, id); err != nil {
		return nil, fmt.Errorf("delete snapshot %s: %w", sn.Name, err)
	}
	l.log.Info("snapshot deleted", "snapshot", id, "name", sn.Name, "volume", sn.Volume)
	return &storagedv1.DeleteSnapshotResponse{}, nil
}

// dropSnapshot deletes a snapshot's record and takes its view off the volume, in one transaction, which an owner's barrier for it
// cannot pass. The caller holds the volume's lock.
func (l *leader) dropSnapshot(ctx context.Context, id block.SnapshotID) error {
	var sn metadb.Snapshot
	var v metadb.Volume
	l.view(func(s *state) {
		sn = s.snapshots[id]
		v = s.volumes[sn.Volume]
	})
	if sn.Revision == 0 {
		return nil
	}
	ops := []metadb.Op{metadb.DeleteSnapshot(sn)}
	if i := slices.Index(v.Views, sn.SnapSeq); sn.State == metadb.StateReady && v.Revision != 0 && i >= 0 {
		v.Views = slices.Delete(slices.Clone(v.Views), i, i+1)
		ops = append(ops, metadb.PutVolume(v))
	}
	_, err := l.commit(ctx, ops...)
	return err
}

// viewsToKeep are the views of a volume that snapshots or unfinished clones need.
func viewsToKeep(s *state, v metadb.Volume) []uint32 {
	var out []uint32
	for _, view := range v.Views {
		out = append(out, uint32(view))
	}
	for _, c := range s.volumes {
		if c.PinsParent && c.Parent == v.ID {
			out = append(out, uint32(c.ParentView))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// GetSnapshot implements the RPC of the same name: by id, or by name, which must be of one volume if volume_id is not given.
func (vs *volumesService) GetSnapshot(ctx context.Context, req *storagedv1.GetSnapshotRequest) (*storagedv1.Snapshot, error) {
	l := leaderOf(ctx)
	if req.GetId() == "" && req.GetName() == "" {
		return nil, failf(codes.InvalidArgument, "id or name: one must be given")
	}
	var found []metadb.Snapshot
	l.view(func(s *state) {
		for _, sn := range s.snapshots {
			if !sn.Internal && sn.State != metadb.StateDeleting && (req.GetId() == "" || sn.ID.String() == req.GetId()) &&
				(req.GetName() == "" || sn.Name == req.GetName()) && (req.GetVolumeId() == "" || sn.Volume.String() == req.GetVolumeId()) {
				found = append(found, sn)
			}
		}
	})
	switch len(found) {
	case 0:
		return nil, failf(codes.NotFound, "snapshot %s does not exist", orText(req.GetId(), req.GetName()))
	case 1:
		return snapshot(found[0]), nil
	}
	return nil, failf(codes.FailedPrecondition, "%d volumes have a snapshot named %s: give volume_id", len(found), req.GetName())
}

// ListSnapshots implements the RPC of the same name. The page token is the id to begin after.
func (vs *volumesService) ListSnapshots(ctx context.Context, req *storagedv1.ListSnapshotsRequest) (*storagedv1.ListSnapshotsResponse, error) {
	l := leaderOf(ctx)
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	var all []metadb.Snapshot
	l.view(func(s *state) {
		for _, sn := range s.snapshots {
			if !sn.Internal && sn.State != metadb.StateDeleting && (req.GetVolumeId() == "" || sn.Volume.String() == req.GetVolumeId()) &&
				(req.GetId() == "" || sn.ID.String() == req.GetId()) && sn.ID.String() > req.GetPageToken() {
				all = append(all, sn)
			}
		}
	})
	slices.SortFunc(all, func(a, b metadb.Snapshot) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	out := &storagedv1.ListSnapshotsResponse{}
	if len(all) > size {
		all = all[:size]
		out.NextPageToken = all[size-1].ID.String()
	}
	for _, sn := range all {
		out.Snapshots = append(out.Snapshots, snapshot(sn))
	}
	return out, nil
}
