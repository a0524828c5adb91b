package meta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// DeleteVolume implements the RPC of the same name. It returns when the volume is gone from metadata; its replicas
// follow by the tombstone, on absent chunks when they return.
func (vs *volumesService) DeleteVolume(ctx context.Context, req *storagedv1.DeleteVolumeRequest) (*storagedv1.DeleteVolumeResponse, error) {
	l := leaderOf(ctx)
	v, unlock, err := l.lockVolume(ctx, req.GetId())
	if status.Code(err) == codes.NotFound {
		return &storagedv1.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	var refusal error
	l.view(func(s *state) { refusal = mayDelete(s, v, req.GetCascadeSnapshots()) })
	if refusal != nil {
		return nil, refusal
	}
	if err := l.beginDelete(ctx, v); err != nil {
		return nil, fmt.Errorf("delete volume %s: %w", v.Name, err)
	}
	if err := l.finishDelete(ctx, v.ID); err != nil {
		return nil, fmt.Errorf("delete volume %s: %w", v.Name, err)
	}
	l.log.Info("volume deleted", "volume", v.ID, "name", v.Name)
	return &storagedv1.DeleteVolumeResponse{}, nil
}

// mayDelete says why a volume may not be deleted now, or nil.
func mayDelete(s *state, v metadb.Volume, cascade bool) error {
	if grants := s.grantsOf(v.ID); len(grants) > 0 {
		return failf(codes.FailedPrecondition, "volume %s is published to %s%s: unpublish it first", v.Name, grants[0].Initiator, onNode(grants[0].Node))
	}
	var names []string
	for _, sn := range s.snapshotsOf(v.ID) {
		if !sn.Internal {
			names = append(names, sn.Name)
		}
	}
	if len(names) > 0 && !cascade {
		return failf(codes.FailedPrecondition, "volume %s has %s (%s): delete them first", v.Name, count(len(names), "snapshot"), strings.Join(names[:min(5, len(names))], ", "))
	}
	for _, c := range s.volumes {
		if c.PinsParent && c.Parent == v.ID {
			return failf(codes.FailedPrecondition, "volume %s is the source of %s, which is being created: try again", v.Name, c.Name)
		}
	}
	return nil
}

// beginDelete is the point of no return, one transaction: the name is free, the owner's guard fails from now on, and the
// tombstone remembers where replicas may be: on every chunk there is, because a copy may be under way to any.
func (l *leader) beginDelete(ctx context.Context, v metadb.Volume) error {
	var ops []metadb.Op
	l.view(func(s *state) {
		v.State = metadb.StateDeleting
		ops = append(ops, metadb.PutVolume(v))
		if n, ok := s.names[v.Name]; ok && n.Volume == v.ID {
			ops = append(ops, metadb.DeleteName(n))
		}
		if o, ok := s.owners[v.ID]; ok {
			ops = append(ops, metadb.DeleteOwner(o))
		}
		ops = append(ops, metadb.PutTombstone(metadb.Tombstone{
			Volume: v.ID, Name: v.Name, Lineage: v.Lineage, Created: l.now(), Chunks: slices.Sorted(maps.Keys(s.chunks)),
		}))
	})
	_, err := l.commit(ctx, ops...)
	return err
}

// finishDelete removes what is left of a volume in state Deleting. It can be repeated.
func (l *leader) finishDelete(ctx context.Context, id block.VolumeID) error {
	if err := l.db.DeleteExtents(ctx, l.guard, id, 0); err != nil {
		return l.check(err)
	}
	var snaps []metadb.Op
	var rest []metadb.Op
	l.view(func(s *state) {
		for _, sn := range s.snapshotsOf(id) {
			snaps = append(snaps, metadb.DeleteSnapshot(sn))
		}
		if r, ok := s.reservations[id]; ok {
			rest = append(rest, metadb.DeleteReservation(r))
		}
		if v, ok := s.volumes[id]; ok {
			rest = append(rest, metadb.DeleteVolume(v))
		}
	})
	for part := range slices.Chunk(snaps, 100) {
		if _, err := l.commit(ctx, part...); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	_, err := l.commit(ctx, rest...)
	if errors.Is(err, metadb.ErrConflict) {
		return fmt.Errorf("its records changed meanwhile: %w", err)
	}
	return err
}

// ExpandVolume implements the RPC of the same name: extents first, then the size, then the owner, so that no address is ever
// offered that has no place.
func (vs *volumesService) ExpandVolume(ctx context.Context, req *storagedv1.ExpandVolumeRequest) (*storagedv1.Volume, error) {
	l := leaderOf(ctx)
	v, unlock, err := l.lockVolume(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	size := roundUp(req.GetSizeBytes())
	switch {
	case req.GetSizeBytes() > sizeMax:
		return nil, failf(codes.InvalidArgument, "size_bytes: %s is above the maximum of 64 TiB", bytesText(req.GetSizeBytes()))
	case size < v.SizeBytes:
		return nil, failf(codes.OutOfRange, "size_bytes: volume %s has %s and cannot shrink to %s", v.Name, bytesText(v.SizeBytes), bytesText(size))
	}
	if size > v.SizeBytes {
		l.gather(ctx)
		if err := l.grow(ctx, v, size); err != nil {
			return nil, fmt.Errorf("expand volume %s to %s: %w", v.Name, bytesText(size), err)
		}
		l.log.Info("volume expanded", "volume", v.ID, "name", v.Name, "sizeBytes", size)
	}
	// Also when nothing grew: a repeated call makes sure that the owner knows.
	if _, err := l.tellOwner(ctx, v.ID, barrierWait, func(ctx context.Context, cc storagedv1.ChunkControlClient) error {
		_, err := cc.Resize(ctx, &storagedv1.ResizeRequest{VolumeId: v.ID.String(), SizeBytes: size})
		return err
	}); err != nil {
		return nil, failf(codes.Unavailable, "volume %s has its new size recorded, but its owner does not serve it yet, try again: %v", v.Name, status.Convert(err).Message())
	}
	return l.describe(v.ID)
}

// grow records further extents and the new size.
func (l *leader) grow(ctx context.Context, v metadb.Volume, size uint64) error {
	l.space.Lock()
	defer l.space.Unlock()
	bigger := v
	bigger.SizeBytes = size
	// Extents of an earlier attempt that failed in the middle are in the way; nothing was ever written to them.
	if err := l.db.DeleteExtents(ctx, l.guard, v.ID, block.ExtentIndex(v.Extents())); err != nil {
		return l.check(err)
	}
	if bigger.Extents() > v.Extents() {
		extents, err := l.layOut(bigger, nil, block.ExtentIndex(v.Extents()))
		if err != nil {
			return err
		}
		if err := l.createExtents(ctx, extents); err != nil {
			return err
		}
		// A clone's extents beyond its origin's are empty: nothing is cloned.
		if err := l.makeReplicas(ctx, bigger, extents, 0); err != nil {
			return err
		}
	}
	_, err := l.commit(ctx, metadb.PutVolume(bigger))
	return err
}
