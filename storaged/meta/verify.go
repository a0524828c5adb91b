package meta

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// VerifyVolume implements the RPC of the same name: the owner does it, and forgets it with its ownership.
func (vs *volumesService) VerifyVolume(ctx context.Context, req *storagedv1.VerifyVolumeRequest) (*storagedv1.Verification, error) {
	l := leaderOf(ctx)
	id, err := block.ParseVolumeID(req.GetId())
	if err != nil {
		return nil, failf(codes.InvalidArgument, "id: %v", err)
	}
	var v metadb.Volume
	var o metadb.Owner
	l.view(func(s *state) { v, o = s.volumes[id], s.owners[id] })
	switch {
	case v.Revision == 0:
		return nil, failf(codes.NotFound, "volume %s is not known: see the list of volumes", req.GetId())
	case v.State != metadb.StateReady:
		return nil, failf(codes.FailedPrecondition, "volume %s is %s", v.Name, v.State)
	case !l.reg.live(o.Chunk).Present:
		return nil, failf(codes.Unavailable, "the owner of volume %s is offline; it gets another by itself: try again", v.Name)
	}
	var out *storagedv1.Verification
	err = l.call(ctx, o.Chunk, func(ctx context.Context, cc storagedv1.ChunkControlClient) error {
		var err error
		out, err = cc.VerifyVolume(ctx, req)
		return err
	})
	if err != nil {
		return nil, failf(codes.Unavailable, "the owner of volume %s did not answer, try again: %v", v.Name, status.Convert(err).Message())
	}
	return out, nil
}
