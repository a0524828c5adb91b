package chunk

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store"
)

// CreateReplicas implements storagedv1.ChunkControlServer.
func (c *controlServer) CreateReplicas(ctx context.Context, r *storagedv1.CreateReplicasRequest) (*storagedv1.CreateReplicasResponse, error) {
	vol, err := block.ParseVolumeID(r.VolumeId)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	lineage, err := block.ParseVolumeID(r.Lineage)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	var origin block.VolumeID
	if r.CloneOf != "" {
		if origin, err = block.ParseVolumeID(r.CloneOf); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	for _, ref := range r.Replicas {
		id, err := block.ParseDiskID(ref.DiskId)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		d := c.s.diskByID(id)
		if d == nil {
			return nil, status.Errorf(codes.Unavailable, "disk %s is not attached to chunk %s", ref.DiskId, c.s.id)
		}
		e := block.ExtentID{Volume: vol, Index: block.ExtentIndex(ref.Extent)}
		if !origin.IsZero() && ref.Extent < r.CloneExtents {
			err = d.store.Clone(ctx, store.CloneSpec{Origin: block.ExtentID{Volume: origin, Index: e.Index}, View: block.SnapSeq(r.CloneView),
				Target: e, Generation: 1})
			if errors.Is(err, store.ErrExists) {
				err = nil
			}
		} else {
			err = d.store.EnsureReplica(ctx, store.ReplicaSpec{Extent: e, Lineage: lineage, Generation: 1})
		}
		if err != nil {
			code := codes.Unavailable
			if errors.Is(err, store.ErrNoSpace) {
				code = codes.ResourceExhausted
			}
			return nil, status.Errorf(code, "create replica %s on disk %s: %v", e, ref.DiskId, err)
		}
	}
	return &storagedv1.CreateReplicasResponse{}, nil
}

// DeleteReplicas implements storagedv1.ChunkControlServer.
func (c *controlServer) DeleteReplicas(ctx context.Context, r *storagedv1.DeleteReplicasRequest) (*storagedv1.DeleteReplicasResponse, error) {
	n := uint32(0)
	remove := func(d *disk, e block.ExtentID) error {
		if _, err := d.store.Replica(e); errors.Is(err, store.ErrNoReplica) {
			return nil
		}
		if err := d.store.DeleteReplica(ctx, e); err != nil {
			return status.Errorf(codes.Unavailable, "delete replica %s on disk %s: %v", e, d.id, err)
		}
		n++
		return nil
	}
	for _, id := range r.VolumeIds {
		vol, err := block.ParseVolumeID(id)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		if c.s.volumes.get(vol) != nil {
			return nil, status.Errorf(codes.FailedPrecondition, "volume %s is owned here", id)
		}
		c.s.replicas.forget(vol)
		for _, d := range c.s.disks.all() {
			for _, info := range d.store.ListReplicas() {
				if info.Extent.Volume != vol {
					continue
				}
				if err := remove(d, info.Extent); err != nil {
					return nil, err
				}
			}
			if err := d.store.ForgetFence(ctx, vol); err != nil {
				return nil, status.Errorf(codes.Unavailable, "forget fence of volume %s on disk %s: %v", id, d.id, err)
			}
		}
	}
	for _, ref := range r.Replicas {
		vol, err := block.ParseVolumeID(ref.VolumeId)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		id, err := block.ParseDiskID(ref.DiskId)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		if d := c.s.diskByID(id); d != nil {
			if err := remove(d, block.ExtentID{Volume: vol, Index: block.ExtentIndex(ref.Extent)}); err != nil {
				return nil, err
			}
		}
	}
	return &storagedv1.DeleteReplicasResponse{Deleted: n}, nil
}

// SetSnapshots implements storagedv1.ChunkControlServer.
func (c *controlServer) SetSnapshots(ctx context.Context, r *storagedv1.SetSnapshotsRequest) (*storagedv1.SetSnapshotsResponse, error) {
	vol, err := block.ParseVolumeID(r.VolumeId)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	// The record is the truth; the call only says that it has changed.
	v, err := c.s.db.GetVolume(ctx, vol)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "snapshots of volume %s: %v", r.VolumeId, err)
	}
	for _, d := range c.s.disks.all() {
		if err := d.store.SetSnapshots(ctx, vol, v.SnapSeq, v.Views); err != nil {
			return nil, status.Errorf(codes.Unavailable, "snapshots of volume %s on disk %s: %v", r.VolumeId, d.id, err)
		}
	}
	return &storagedv1.SetSnapshotsResponse{}, nil
}

// ListReplicas implements storagedv1.ChunkControlServer.
func (c *controlServer) ListReplicas(_ *storagedv1.ListReplicasRequest, st storagedv1.ChunkControl_ListReplicasServer) error {
	for _, d := range c.s.disks.all() {
		for _, i := range d.store.ListReplicas() {
			info := &storagedv1.ReplicaInfo{VolumeId: i.Extent.Volume.String(), Extent: uint32(i.Extent.Index), DiskId: d.id.String(),
				Generation: uint32(i.Generation), Watermark: uint64(i.Watermark), AllocatedBytes: uint64(i.LiveBytes), SnapshotBytes: uint64(i.SnapshotBytes),
				Highest: uint64(i.Highest), Epoch: uint64(d.store.FenceOf(i.Extent.Volume).Epoch), Incomplete: i.Joining || i.JoinStart != 0, Suspect: i.Suspect}
			if n := len(i.Layers); n > 0 {
				info.SnapSeq = uint32(i.Layers[n-1])
			}
			if err := st.Send(info); err != nil {
				return err
			}
		}
	}
	return nil
}
