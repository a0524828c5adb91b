package chunk

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/replication"
)

// controlServer serves what the meta leader asks of a chunk.
type controlServer struct {
	storagedv1.UnimplementedChunkControlServer
	s *Server
}

// owned returns a volume this chunk owns.
func (c *controlServer) owned(id string) (*volume, error) {
	v, err := block.ParseVolumeID(id)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if x := c.s.volumes.get(v); x != nil {
		return x, nil
	}
	return nil, status.Errorf(codes.FailedPrecondition, "chunk %s does not own volume %s", c.s.id, id)
}

func (c *controlServer) Snapshot(ctx context.Context, r *storagedv1.ChunkSnapshotRequest) (*storagedv1.ChunkSnapshotResponse, error) {
	v, err := c.owned(r.VolumeId)
	if err != nil {
		return nil, err
	}
	id, err := block.ParseSnapshotID(r.SnapshotId)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	snap, err := c.s.db.GetSnapshot(ctx, id)
	if errors.Is(err, metadb.ErrNotFound) {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	if err == nil && snap.State != metadb.StateReady {
		if err = v.barrier(ctx, id); err == nil {
			snap, err = c.s.db.GetSnapshot(ctx, id)
		}
	}
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &storagedv1.ChunkSnapshotResponse{SnapSeq: uint32(snap.SnapSeq)}, nil
}

func (c *controlServer) CloseSessions(ctx context.Context, r *storagedv1.CloseSessionsRequest) (*storagedv1.CloseSessionsResponse, error) {
	v, err := c.owned(r.VolumeId)
	if err != nil {
		return nil, err
	}
	n, err := v.closeSessions(ctx, r.Initiator)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &storagedv1.CloseSessionsResponse{Closed: uint32(n)}, nil
}

func (c *controlServer) ReleaseOwner(ctx context.Context, r *storagedv1.ReleaseOwnerRequest) (*storagedv1.ReleaseOwnerResponse, error) {
	v, err := c.owned(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if err := c.s.volumes.move(ctx, v.id, block.Epoch(r.Epoch), block.ChunkID(r.ToChunk)); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &storagedv1.ReleaseOwnerResponse{}, nil
}

func (c *controlServer) AddMember(_ context.Context, r *storagedv1.AddMemberRequest) (*storagedv1.AddMemberResponse, error) {
	v, err := c.owned(r.VolumeId)
	if err != nil {
		return nil, err
	}
	disk, err := block.ParseDiskID(r.DiskId)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	m := replication.Member{Disk: disk, Chunk: block.ChunkID(r.Chunk)}
	if r.Delta {
		m.Kind = replication.Delta
	}
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.AddMember(now, block.ExtentIndex(r.Extent), m, out)
	})
	return &storagedv1.AddMemberResponse{}, nil
}

func (c *controlServer) RemoveMember(_ context.Context, r *storagedv1.RemoveMemberRequest) (*storagedv1.RemoveMemberResponse, error) {
	v, err := c.owned(r.VolumeId)
	if err != nil {
		return nil, err
	}
	disk, err := block.ParseDiskID(r.DiskId)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.RemoveMember(now, block.ExtentIndex(r.Extent), disk, out)
	})
	return &storagedv1.RemoveMemberResponse{}, nil
}

func (c *controlServer) Resize(ctx context.Context, r *storagedv1.ResizeRequest) (*storagedv1.ResizeResponse, error) {
	v, err := c.owned(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if err := v.grow(ctx); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &storagedv1.ResizeResponse{}, nil
}

// grow takes over the size and the new extents that metadata has for the volume.
func (v *volume) grow(ctx context.Context) error {
	c, err := v.s.db.LoadVolume(ctx, v.id)
	if err != nil {
		return err
	}
	size := c.Volume.SizeBytes
	if size <= v.size.Load() {
		return nil
	}
	out := getEffects()
	v.mu.Lock()
	if v.lost || c.Owner.Revision != v.owner.Revision {
		v.mu.Unlock()
		out.put()
		return errors.New("the volume has another owner")
	}
	var more []replication.Record
	for i := len(v.extent); i < len(c.Extents); i++ {
		r := coreRecord(&c.Extents[i])
		more = append(more, r)
		v.extent = append(v.extent, extentView{record: r})
	}
	out.list = v.o.Grow(v.s.now(), more, (size+block.Size-1)/block.Size, out.list)
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
	v.size.Store(size)
	v.s.target.Resized(v.id.IQN())
	return nil
}
