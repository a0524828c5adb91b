package meta

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"google.golang.org/grpc/codes"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

const (
	// sizeUnit is what sizes are rounded up to.
	sizeUnit = 1 << 20
	// sizeMax is the largest volume: 64 TiB.
	sizeMax = extentsMax * block.ExtentSizeBytes
	// factorMax is the highest replica factor.
	factorMax = 3
	// labelsMax bounds the labels of a volume and their length.
	labelsMax, labelLengthMax = 64, 512
	pageMax                   = 1000
)

var objectName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// volumesService is the interface of volumes, snapshots and grants.
type volumesService struct {
	storagedv1.UnimplementedVolumesServer
	s *server
}

// CreateVolume implements the RPC of the same name.
func (vs *volumesService) CreateVolume(ctx context.Context, req *storagedv1.CreateVolumeRequest) (*storagedv1.Volume, error) {
	l := leaderOf(ctx)
	v, err := newVolume(req)
	if err != nil {
		return nil, err
	}
	l.gather(ctx)
	unlock, err := l.locks.lock(ctx, "volume name "+v.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var old metadb.Volume
	l.view(func(s *state) {
		if n, ok := s.names[v.Name]; ok {
			old = s.volumes[n.Volume]
		}
	})
	switch {
	case old.Revision == 0:
	case old.State == metadb.StateCreating:
		// Left by a call that failed in the middle: nothing was ever written to it.
		if err := l.rollBack(ctx, old); err != nil {
			return nil, err
		}
	default:
		if v.SizeBytes == 0 {
			v.SizeBytes = old.SizeBytes // the source had decided it
		}
		if diff := differs(&old, &v, req); diff != "" {
			return nil, failf(codes.AlreadyExists, "volume %s exists with another %s", v.Name, diff)
		}
		return l.describe(old.ID)
	}
	var inherited []metadb.Extent
	if req.GetSourceSnapshotId() != "" || req.GetSourceVolumeId() != "" {
		src, done, err := l.origin(ctx, req, &v)
		if err != nil {
			return nil, err
		}
		defer done() // the source stays as it is until the new volume is recorded
		inherited = src
	}
	if v.SizeBytes == 0 {
		return nil, failf(codes.InvalidArgument, "size_bytes: a volume without a source needs a size")
	}
	if err := l.create(ctx, v, inherited); err != nil {
		return nil, err
	}
	return l.describe(v.ID)
}

// newVolume checks a request and makes the record of the volume it wants; SizeBytes is 0 if the source decides.
func newVolume(req *storagedv1.CreateVolumeRequest) (metadb.Volume, error) {
	bad := func(format string, args ...any) (metadb.Volume, error) {
		return metadb.Volume{}, failf(codes.InvalidArgument, format, args...)
	}
	if !objectName.MatchString(req.GetName()) {
		return bad("name: %q is not 1 to 128 letters, digits, dots, hyphens and underscores, beginning with a letter or digit", req.GetName())
	}
	if req.GetSizeBytes() > sizeMax {
		return bad("size_bytes: %s is above the maximum of 64 TiB", bytesText(req.GetSizeBytes()))
	}
	factor := req.GetReplicaFactor()
	if factor == 0 {
		factor = 2
	}
	if factor > factorMax {
		return bad("replica_factor: %d is not 1, 2 or 3", factor)
	}
	least := req.GetMinReplicas()
	if least == 0 {
		least = max(1, factor-1)
	}
	if least > factor {
		return bad("min_replicas: %d is above the replica factor %d", least, factor)
	}
	if req.GetSourceSnapshotId() != "" && req.GetSourceVolumeId() != "" {
		return bad("source_snapshot_id and source_volume_id: only one may be given")
	}
	if len(req.GetLabels()) > labelsMax {
		return bad("labels: %d are more than %d", len(req.GetLabels()), labelsMax)
	}
	for k, val := range req.GetLabels() {
		if len(k) > labelLengthMax || len(val) > labelLengthMax {
			return bad("labels: %.40q or its value is longer than %d bytes", k, labelLengthMax)
		}
	}
	id := block.NewVolumeID()
	return metadb.Volume{
		ID: id, Name: req.GetName(), SizeBytes: roundUp(req.GetSizeBytes()), ReplicaFactor: uint8(factor), MinReplicas: uint8(least),
		Thin: !req.GetThick(), Lineage: id, Labels: maps.Clone(req.GetLabels()), State: metadb.StateCreating,
		PreferNode: req.GetPreferNode(), TopologyNodes: slices.Clone(req.GetTopologyNodes()),
	}, nil
}

func roundUp(n uint64) uint64 { return (n + sizeUnit - 1) / sizeUnit * sizeUnit }

// differs names the first property in which an existing volume is not what a repeated request asks for.
func differs(old, v *metadb.Volume, req *storagedv1.CreateVolumeRequest) string {
	switch {
	case old.State == metadb.StateDeleting:
		return "state: it is being deleted"
	case old.SizeBytes != v.SizeBytes:
		return fmt.Sprintf("size_bytes: %d, not %d", old.SizeBytes, v.SizeBytes)
	case old.ReplicaFactor != v.ReplicaFactor:
		return fmt.Sprintf("replica_factor: %d, not %d", old.ReplicaFactor, v.ReplicaFactor)
	case old.MinReplicas != v.MinReplicas:
		return fmt.Sprintf("min_replicas: %d, not %d", old.MinReplicas, v.MinReplicas)
	case old.Thin != v.Thin:
		return "provisioning (thin or thick)"
	case req.GetSourceSnapshotId() != "" && old.SourceSnapshot.String() != req.GetSourceSnapshotId():
		return "source snapshot"
	case req.GetSourceSnapshotId() == "" && old.SourceSnapshot != block.SnapshotID{}:
		return "source: it was restored from a snapshot"
	case req.GetSourceVolumeId() != "" && old.Parent.String() != req.GetSourceVolumeId():
		return "source volume"
	case req.GetSourceVolumeId() == "" && req.GetSourceSnapshotId() == "" && !old.Parent.IsZero():
		return "source: it is a clone"
	}
	return ""
}

// create records a volume: placed extents, owner and all. inherited are the extents of a clone, on its origin's disks.
//
//	record Creating + name ─▶ extents, in batches ─▶ replicas on the members' chunks ─▶ owner and state Ready, in one transaction
//
// Whatever stops it on the way leaves a record in state Creating, which the next attempt or the sweep rolls back.
func (l *leader) create(ctx context.Context, v metadb.Volume, inherited []metadb.Extent) error {
	v.Created = l.now()
	undo := func(err error) error {
		if rerr := l.rollBack(l.ctx, v); rerr != nil {
			l.log.Warn("an unfinished volume is left to the sweep", "volume", v.ID, "error", rerr)
		}
		return fmt.Errorf("create volume %s: %w", v.Name, err)
	}
	extents, err := l.record(ctx, &v, inherited, undo)
	if err != nil {
		return err
	}
	if err := l.makeReplicas(ctx, v, extents, len(inherited)); err != nil {
		return undo(err)
	}
	owner := metadb.Owner{Volume: v.ID, Chunk: l.firstOwner(v, extents), Epoch: l.firstEpoch(v)}
	v.State, v.PinsParent = metadb.StateReady, false
	if _, err = l.commit(ctx, metadb.PutVolume(v), metadb.PutOwner(owner)); err != nil {
		return undo(err)
	}
	l.log.Info("volume created", "volume", v.ID, "name", v.Name, "sizeBytes", v.SizeBytes, "replicas", v.ReplicaFactor, "owner", owner.Chunk)
	return nil
}

// record places a volume and records it with its extents in state Creating.
func (l *leader) record(ctx context.Context, v *metadb.Volume, inherited []metadb.Extent, undo func(error) error) ([]metadb.Extent, error) {
	l.space.Lock()
	defer l.space.Unlock()
	extents, err := l.layOut(*v, inherited, 0)
	if err != nil {
		return nil, fmt.Errorf("create volume %s of %s: %w", v.Name, bytesText(v.SizeBytes), err)
	}
	v.Revision, err = l.commit(ctx, metadb.PutVolume(*v), metadb.PutName(metadb.Name{Name: v.Name, Volume: v.ID}))
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", v.Name, err)
	}
	if err := l.createExtents(ctx, extents); err != nil {
		return nil, undo(err)
	}
	return extents, nil
}

// createExtents records extents and returns when the mirror shows them.
func (l *leader) createExtents(ctx context.Context, extents []metadb.Extent) error {
	results, err := l.db.CreateExtents(ctx, l.guard, extents)
	if err != nil {
		return l.check(err)
	}
	var rev int64
	for i, r := range results {
		if r.Outcome != metadb.Committed {
			return fmt.Errorf("extent %s: %s: %w", extents[i].ID, r.Outcome, metadb.ErrConflict)
		}
		rev = max(rev, r.Revision)
	}
	return l.s.mirror.wait(ctx, rev)
}

// layOut makes the extents [from, end) of a volume: the inherited ones as they are, the others placed.
func (l *leader) layOut(v metadb.Volume, inherited []metadb.Extent, from block.ExtentIndex) ([]metadb.Extent, error) {
	var pool []diskRoom
	l.view(func(s *state) { pool = l.rooms(s) })
	total := block.ExtentIndex(v.Extents())
	var out []metadb.Extent
	var p *placer
	for i := from; i < total; i++ {
		e := metadb.Extent{ID: block.ExtentID{Volume: v.ID, Index: i}, Generation: 1}
		if int(i) < len(inherited) {
			e.Members = slices.Clone(inherited[i].Members[:min(len(inherited[i].Members), int(v.ReplicaFactor))])
			out = append(out, e)
			continue
		}
		if p == nil {
			var err error
			// A clone's seed is its own: its further extents need not lie where the origin's do.
			if p, err = newPlacer(pool, l.limits(), want{Seed: v.ID, Replicas: int(v.ReplicaFactor), Thick: !v.Thin, PreferNode: v.PreferNode, Nodes: v.TopologyNodes}); err != nil {
				return nil, err
			}
			if err := p.fits(v.SizeBytes - uint64(i)*block.ExtentSizeBytes); err != nil {
				return nil, err
			}
		}
		size := min(uint64(block.ExtentSizeBytes), v.SizeBytes-uint64(i)*block.ExtentSizeBytes)
		targets, err := p.place(i, size, int(v.ReplicaFactor), nil)
		if err != nil {
			return nil, fmt.Errorf("extent %d of %d: %w", i, total, err)
		}
		for _, t := range targets {
			e.Members = append(e.Members, metadb.Member{Disk: t.Disk, Chunk: t.Chunk})
		}
		out = append(out, e)
	}
	return out, nil
}

// firstOwner chooses the owner of a new volume: on the preferred node if it has a replica, else as after a failure.
func (l *leader) firstOwner(v metadb.Volume, extents []metadb.Extent) (owner block.ChunkID) {
	l.view(func(s *state) {
		hint := []metadb.Grant{{Mode: metadb.AccessExclusive, Node: v.PreferNode}}
		if owner = chooseOwner(extents, hint, l.chunkFacts(s), 0); owner == 0 {
			// All went offline since they were chosen: failover gives it to the first that returns.
			owner = extents[0].Members[0].Chunk
		}
	})
	return owner
}

// rollBack removes a volume that never became ready.
func (l *leader) rollBack(ctx context.Context, v metadb.Volume) error {
	if err := l.db.DeleteExtents(ctx, l.guard, v.ID, 0); err != nil {
		return l.check(err)
	}
	var cur metadb.Volume
	var name metadb.Name
	l.view(func(s *state) { cur, name = s.volumes[v.ID], s.names[v.Name] })
	if cur.Revision == 0 || cur.State != metadb.StateCreating {
		return fmt.Errorf("roll back volume %s: %w", v.Name, metadb.ErrConflict)
	}
	// Some chunks may have created replicas.
	t := metadb.Tombstone{Volume: v.ID, Name: v.Name, Lineage: v.Lineage, Created: l.now()}
	l.view(func(s *state) { t.Chunks = slices.Sorted(maps.Keys(s.chunks)) })
	ops := []metadb.Op{metadb.DeleteVolume(cur), metadb.PutTombstone(t)}
	if name.Volume == v.ID {
		ops = append(ops, metadb.DeleteName(name))
	}
	_, err := l.commit(ctx, ops...)
	return err
}

// describe renders a volume that exists.
func (l *leader) describe(id block.VolumeID) (*storagedv1.Volume, error) {
	var out *storagedv1.Volume
	l.view(func(s *state) {
		if v, ok := s.volumes[id]; ok {
			out = l.volume(s, v, l.chunkFacts(s), false)
		}
	})
	if out == nil {
		return nil, failf(codes.NotFound, "volume %s does not exist", id)
	}
	return out, nil
}

// find returns a volume that is not being deleted, by id.
func (l *leader) find(id string) (metadb.Volume, error) {
	vid, err := block.ParseVolumeID(id)
	if err != nil {
		return metadb.Volume{}, failf(codes.InvalidArgument, "volume id: %v", err)
	}
	var v metadb.Volume
	l.view(func(s *state) { v = s.volumes[vid] })
	if v.Revision == 0 || v.State == metadb.StateDeleting {
		return metadb.Volume{}, failf(codes.NotFound, "volume %s does not exist", id)
	}
	if v.State == metadb.StateCreating {
		return metadb.Volume{}, failf(codes.Unavailable, "volume %s is being created: try again", v.Name)
	}
	return v, nil
}

// lockVolume serialises the calls that change one volume, and returns its record as of then.
func (l *leader) lockVolume(ctx context.Context, id string) (metadb.Volume, func(), error) {
	unlock, err := l.locks.lock(ctx, "volume "+id)
	if err != nil {
		return metadb.Volume{}, nil, err
	}
	v, err := l.find(id)
	if err != nil {
		unlock()
		return metadb.Volume{}, nil, err
	}
	return v, unlock, nil
}

// GetVolume implements the RPC of the same name.
func (vs *volumesService) GetVolume(ctx context.Context, req *storagedv1.GetVolumeRequest) (*storagedv1.Volume, error) {
	l := leaderOf(ctx)
	var out *storagedv1.Volume
	var id block.VolumeID
	if req.GetId() != "" {
		var err error
		if id, err = block.ParseVolumeID(req.GetId()); err != nil {
			return nil, failf(codes.InvalidArgument, "id: %v", err)
		}
	} else if req.GetName() == "" {
		return nil, failf(codes.InvalidArgument, "id or name: one must be given")
	}
	l.view(func(s *state) {
		if req.GetId() == "" {
			id = s.names[req.GetName()].Volume
		}
		if v, ok := s.volumes[id]; ok && v.State != metadb.StateDeleting {
			out = l.volume(s, v, l.chunkFacts(s), req.GetExtents())
		}
	})
	if out == nil {
		return nil, failf(codes.NotFound, "volume %s does not exist", orText(req.GetId(), req.GetName()))
	}
	return out, nil
}

// ListVolumes implements the RPC of the same name. The page token is the name to begin after.
func (vs *volumesService) ListVolumes(ctx context.Context, req *storagedv1.ListVolumesRequest) (*storagedv1.ListVolumesResponse, error) {
	l := leaderOf(ctx)
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	out := &storagedv1.ListVolumesResponse{}
	l.view(func(s *state) {
		chunks := l.chunkFacts(s)
		for _, v := range s.sortedVolumes() {
			if v.State == metadb.StateDeleting || v.Name <= req.GetPageToken() {
				continue
			}
			if len(out.Volumes) == size {
				out.NextPageToken = out.Volumes[size-1].GetName()
				return
			}
			out.Volumes = append(out.Volumes, l.volume(s, v, chunks, false))
		}
	})
	return out, nil
}

func pageSize(n int32) (int, error) {
	switch {
	case n < 0:
		return 0, failf(codes.InvalidArgument, "page_size: %d is negative", n)
	case n == 0 || n > pageMax:
		return pageMax, nil
	}
	return int(n), nil
}

// Locate implements the RPC of the same name, on any member.
func (vs *volumesService) Locate(_ context.Context, req *storagedv1.LocateRequest) (*storagedv1.LocateResponse, error) {
	id, err := block.ParseIQN(req.GetIqn())
	if err != nil {
		return nil, failf(codes.InvalidArgument, "iqn: %v", err)
	}
	var out *storagedv1.LocateResponse
	vs.s.mirror.view(func(s *state) {
		if v, ok := s.volumes[id]; !ok || v.State == metadb.StateDeleting {
			return
		}
		o := s.owners[id]
		out = &storagedv1.LocateResponse{VolumeId: id.String(), Chunk: uint32(o.Chunk), Epoch: uint64(o.Epoch), Portal: s.chunks[o.Chunk].ISCSIAddress}
		// The leader knows more than the record: nobody is to be sent to a chunk that is gone.
		if l := vs.s.lead.Load(); l != nil && l.reg.live(o.Chunk).Dead {
			out.Portal = ""
		}
	})
	if out == nil {
		return nil, failf(codes.NotFound, "no volume has the target name %s", req.GetIqn())
	}
	return out, nil
}
