package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// makeReplicasWait bounds the creation of the replicas of one volume on one chunk: a few flushes, for up to thousands of extents.
const makeReplicasWait = 60 * time.Second

// replicaBatch is the number of replicas created by one call.
const replicaBatch = 512

// listReplicas calls f for every replica that a chunk has. What cannot be one, by its identities, is left out.
func listReplicas(ctx context.Context, cc storagedv1.ChunkControlClient, f func(r *storagedv1.ReplicaInfo, vol block.VolumeID, disk block.DiskID)) error {
	stream, err := cc.ListReplicas(ctx, &storagedv1.ListReplicasRequest{})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		vol, verr := block.ParseVolumeID(r.GetVolumeId())
		disk, derr := block.ParseDiskID(r.GetDiskId())
		if verr == nil && derr == nil {
			f(r, vol, disk)
		}
	}
}

// makeReplicas has the chunks of all members create their replicas: empty ones, or clones where the extent's index is below
// cloned. It is called before any owner could miss them, because a missing replica is never taken for an empty one. Idempotent.
func (l *leader) makeReplicas(ctx context.Context, v metadb.Volume, extents []metadb.Extent, cloned int) error {
	byChunk := map[block.ChunkID][]*storagedv1.ReplicaRef{}
	for _, e := range extents {
		for _, m := range e.Members {
			byChunk[m.Chunk] = append(byChunk[m.Chunk], &storagedv1.ReplicaRef{Extent: uint32(e.ID.Index), DiskId: m.Disk.String()})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, makeReplicasWait)
	defer cancel()
	eg, ctx := errgroup.WithContext(ctx)
	for id, refs := range byChunk {
		eg.Go(func() error {
			cc, err := l.control(id)
			if err != nil {
				return err
			}
			for len(refs) > 0 {
				n := min(len(refs), replicaBatch)
				req := &storagedv1.CreateReplicasRequest{VolumeId: v.ID.String(), Lineage: v.Lineage.String(), Replicas: refs[:n]}
				if cloned > 0 {
					req.CloneOf, req.CloneView, req.CloneExtents = v.Parent.String(), uint32(v.ParentView), uint32(cloned)
				}
				if _, err := cc.CreateReplicas(ctx, req); err != nil {
					return failf(replicaCode(err), "chunk %d cannot create replicas: %s", id, status.Convert(err).Message())
				}
				refs = refs[n:]
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return fmt.Errorf("replicas: %w", err)
	}
	return nil
}

// replicaCode keeps what tells the caller something and makes the rest "try again".
func replicaCode(err error) codes.Code {
	if c := status.Code(err); c == codes.ResourceExhausted || c == codes.InvalidArgument {
		return c
	}
	return codes.Unavailable
}

// firstEpoch is the first epoch of a volume. A clone begins above every epoch of its origin: its blocks keep the stamps of the origin's writes, and
// its own must be higher.
func (l *leader) firstEpoch(v metadb.Volume) block.Epoch {
	if v.Parent.IsZero() {
		return 1
	}
	var e block.Epoch
	l.view(func(s *state) { e = s.owners[v.Parent].Epoch })
	return e + 1
}
