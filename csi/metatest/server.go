// Package metatest is the control interface of the block service in memory, with the contract of volumes.proto: for tests of the
// CSI driver. What it holds of data lives elsewhere (Backing).
package metatest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// Backing holds the data of volumes. A nil Backing holds none.
type Backing interface {
	Create(iqn string, sizeBytes int64) error
	Clone(fromIQN, toIQN string, sizeBytes int64) error
	Remove(iqn string) error
}

// Server implements the services Volumes and Cluster. Make it with New.
type Server struct {
	storagedv1.UnimplementedVolumesServer
	storagedv1.UnimplementedClusterServer

	// CapacityBytes is the size of the pool, one copy.
	CapacityBytes uint64
	Backing       Backing

	mu        sync.Mutex
	volumes   map[string]*storagedv1.Volume
	snapshots map[string]*storagedv1.Snapshot
	secrets   map[string]*storagedv1.Grant // by volume and initiator, with secrets
	fail      func(method string) error
	calls     map[string]int
	seq       int64
}

// ClusterID of every Server.
const ClusterID = "11111111-2222-3333-4444-555555555555"

// New makes an empty pool of 1 TiB.
func New() *Server {
	return &Server{
		CapacityBytes: 1 << 40,
		volumes:       map[string]*storagedv1.Volume{}, snapshots: map[string]*storagedv1.Snapshot{},
		secrets: map[string]*storagedv1.Grant{}, calls: map[string]int{},
	}
}

// Register adds the services to a gRPC server.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	storagedv1.RegisterVolumesServer(g, s)
	storagedv1.RegisterClusterServer(g, s)
}

// Interceptor counts calls and applies SetFail.
func (s *Server) Interceptor(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	s.calls[info.FullMethod]++
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(info.FullMethod); err != nil {
			return nil, err
		}
	}
	return next(ctx, req)
}

// SetFail installs a function that may fail each call, by full method name.
func (s *Server) SetFail(f func(method string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Counts returns how many volumes, snapshots and grants there are.
func (s *Server) Counts() (volumes, snapshots, grants int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.volumes), len(s.snapshots), len(s.secrets)
}

// SetHealth changes the health of a volume.
func (s *Server) SetHealth(id string, h storagedv1.Health, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.volumes[id].Status.Health, s.volumes[id].Status.Reason = h, reason
}

func (s *Server) byName(name string) *storagedv1.Volume {
	for _, v := range s.volumes {
		if v.Name == name {
			return v
		}
	}
	return nil
}

func notFound(what, id string) error {
	return status.Errorf(codes.NotFound, "%s %s does not exist", what, id)
}

func badID(id string) error {
	if _, err := uuid.Parse(id); err != nil {
		return status.Errorf(codes.InvalidArgument, "id %q is no UUID", id)
	}
	return nil
}

func (s *Server) volume(id string) (*storagedv1.Volume, error) {
	if err := badID(id); err != nil {
		return nil, err
	}
	v, ok := s.volumes[id]
	if !ok {
		return nil, notFound("volume", id)
	}
	return v, nil
}

func (s *Server) used() (n uint64) {
	for _, v := range s.volumes {
		n += v.SizeBytes
	}
	return n
}

func clone[M proto.Message](m M) M { return proto.Clone(m).(M) }

// CreateVolume implements storagedv1.VolumesServer.
func (s *Server) CreateVolume(_ context.Context, in *storagedv1.CreateVolumeRequest) (*storagedv1.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := (in.SizeBytes + 1<<20 - 1) >> 20 << 20
	factor := cmp.Or(in.ReplicaFactor, 2)
	if factor > 3 {
		return nil, status.Errorf(codes.InvalidArgument, "replica_factor %d: want 2 or 3", factor)
	}
	if v := s.byName(in.Name); v != nil {
		if v.SizeBytes != size || v.ReplicaFactor != factor || v.Thin == in.Thick || v.SourceSnapshotId != in.SourceSnapshotId || v.SourceVolumeId != in.SourceVolumeId {
			return nil, status.Errorf(codes.AlreadyExists, "volume %s exists with other properties", in.Name)
		}
		return clone(v), nil
	}
	var from string
	switch {
	case in.SourceSnapshotId != "":
		snap, ok := s.snapshots[in.SourceSnapshotId]
		if !ok {
			return nil, notFound("snapshot", in.SourceSnapshotId)
		}
		if size < snap.SizeBytes {
			return nil, status.Errorf(codes.OutOfRange, "size %d is below the snapshot's %d", size, snap.SizeBytes)
		}
		from = snapIQN(snap.Id)
	case in.SourceVolumeId != "":
		src, err := s.volume(in.SourceVolumeId)
		if err != nil {
			return nil, err
		}
		if size < src.SizeBytes {
			return nil, status.Errorf(codes.OutOfRange, "size %d is below the source's %d", size, src.SizeBytes)
		}
		from = src.Iqn
	}
	if s.used()+size > s.CapacityBytes {
		return nil, status.Errorf(codes.ResourceExhausted, "volume of %d bytes does not fit: %d of %d are provisioned", size, s.used(), s.CapacityBytes)
	}
	id := uuid.NewString()
	v := &storagedv1.Volume{
		Id: id, Name: in.Name, SizeBytes: size, ReplicaFactor: factor, MinReplicas: factor - 1, Thin: !in.Thick,
		Iqn: "iqn.2016-02.com.iomesh:volume:" + id, Lun: 0, Portals: []string{"127.0.0.1:10202"},
		SourceVolumeId: in.SourceVolumeId, SourceSnapshotId: in.SourceSnapshotId, Labels: in.Labels, OwnerNode: in.PreferNode,
		Created: timestamppb.Now(), Status: &storagedv1.VolumeStatus{Health: storagedv1.Health_HEALTH_OK}, State: "Ready",
	}
	if s.Backing != nil {
		var err error
		if from != "" {
			err = s.Backing.Clone(from, v.Iqn, int64(size))
		} else {
			err = s.Backing.Create(v.Iqn, int64(size))
		}
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	s.volumes[id] = v
	return clone(v), nil
}

// DeleteVolume implements storagedv1.VolumesServer.
func (s *Server) DeleteVolume(_ context.Context, in *storagedv1.DeleteVolumeRequest) (*storagedv1.DeleteVolumeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := badID(in.Id); err != nil {
		return nil, err
	}
	v, ok := s.volumes[in.Id]
	if !ok {
		return &storagedv1.DeleteVolumeResponse{}, nil
	}
	if len(v.Grants) > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is published to %s", in.Id, v.Grants[0].Initiator)
	}
	for _, snap := range s.snapshots {
		if snap.VolumeId == in.Id && !in.CascadeSnapshots {
			return nil, status.Errorf(codes.FailedPrecondition, "volume %s has snapshot %s", in.Id, snap.Id)
		}
	}
	maps.DeleteFunc(s.snapshots, func(_ string, snap *storagedv1.Snapshot) bool { return snap.VolumeId == in.Id })
	delete(s.volumes, in.Id)
	if s.Backing != nil {
		if err := s.Backing.Remove(v.Iqn); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	return &storagedv1.DeleteVolumeResponse{}, nil
}

// GetVolume implements storagedv1.VolumesServer.
func (s *Server) GetVolume(_ context.Context, in *storagedv1.GetVolumeRequest) (*storagedv1.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Id == "" {
		if v := s.byName(in.Name); v != nil {
			return clone(v), nil
		}
		return nil, notFound("volume", in.Name)
	}
	v, err := s.volume(in.Id)
	if err != nil {
		return nil, err
	}
	return clone(v), nil
}

// page cuts a sorted list; the token is the position of the next entry.
func page[M proto.Message](all []M, size int32, token string) (out []M, next string, err error) {
	from := 0
	if token != "" {
		if from, err = strconv.Atoi(token); err != nil || from < 0 || from > len(all) {
			return nil, "", status.Errorf(codes.InvalidArgument, "page_token %q was not issued here", token)
		}
	}
	n := int(size)
	if n <= 0 {
		n = math.MaxInt32
	}
	to := min(len(all), from+n)
	for _, m := range all[from:to] {
		out = append(out, clone(m))
	}
	if to < len(all) {
		next = strconv.Itoa(to)
	}
	return out, next, nil
}

// ListVolumes implements storagedv1.VolumesServer.
func (s *Server) ListVolumes(_ context.Context, in *storagedv1.ListVolumesRequest) (*storagedv1.ListVolumesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.SortedFunc(maps.Values(s.volumes), func(a, b *storagedv1.Volume) int { return cmp.Compare(a.Id, b.Id) })
	vols, next, err := page(all, in.PageSize, in.PageToken)
	return &storagedv1.ListVolumesResponse{Volumes: vols, NextPageToken: next}, err
}

// ExpandVolume implements storagedv1.VolumesServer.
func (s *Server) ExpandVolume(_ context.Context, in *storagedv1.ExpandVolumeRequest) (*storagedv1.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.volume(in.Id)
	if err != nil {
		return nil, err
	}
	size := (in.SizeBytes + 1<<20 - 1) >> 20 << 20
	if size < v.SizeBytes {
		return nil, status.Errorf(codes.OutOfRange, "volume %s has %d bytes; it cannot shrink to %d", v.Id, v.SizeBytes, size)
	}
	v.SizeBytes = size
	if s.Backing != nil {
		if err := s.Backing.Create(v.Iqn, int64(size)); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	return clone(v), nil
}

func snapIQN(id string) string { return "iqn.2016-02.com.iomesh:snapshot:" + id }

// CreateSnapshot implements storagedv1.VolumesServer.
func (s *Server) CreateSnapshot(_ context.Context, in *storagedv1.CreateSnapshotRequest) (*storagedv1.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.volume(in.VolumeId)
	if err != nil {
		return nil, err
	}
	for _, snap := range s.snapshots {
		if snap.Name == in.Name {
			if snap.VolumeId != in.VolumeId {
				return nil, status.Errorf(codes.AlreadyExists, "snapshot %s exists of volume %s", in.Name, snap.VolumeId)
			}
			return clone(snap), nil
		}
	}
	s.seq++
	snap := &storagedv1.Snapshot{Id: uuid.NewString(), Name: in.Name, VolumeId: v.Id, SizeBytes: v.SizeBytes, SnapSeq: uint32(s.seq), Ready: true, Created: timestamppb.Now()}
	if s.Backing != nil {
		if err := s.Backing.Clone(v.Iqn, snapIQN(snap.Id), int64(v.SizeBytes)); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	s.snapshots[snap.Id] = snap
	return clone(snap), nil
}

// DeleteSnapshot implements storagedv1.VolumesServer.
func (s *Server) DeleteSnapshot(_ context.Context, in *storagedv1.DeleteSnapshotRequest) (*storagedv1.DeleteSnapshotResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := badID(in.Id); err != nil {
		return nil, err
	}
	if _, ok := s.snapshots[in.Id]; ok && s.Backing != nil {
		if err := s.Backing.Remove(snapIQN(in.Id)); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	delete(s.snapshots, in.Id)
	return &storagedv1.DeleteSnapshotResponse{}, nil
}

// GetSnapshot implements storagedv1.VolumesServer.
func (s *Server) GetSnapshot(_ context.Context, in *storagedv1.GetSnapshotRequest) (*storagedv1.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Id != "" {
		if err := badID(in.Id); err != nil {
			return nil, err
		}
	}
	for _, snap := range s.snapshots {
		if snap.Id == in.Id || in.Id == "" && snap.Name == in.Name && (in.VolumeId == "" || in.VolumeId == snap.VolumeId) {
			return clone(snap), nil
		}
	}
	return nil, notFound("snapshot", in.Id+in.Name)
}

// ListSnapshots implements storagedv1.VolumesServer.
func (s *Server) ListSnapshots(_ context.Context, in *storagedv1.ListSnapshotsRequest) (*storagedv1.ListSnapshotsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*storagedv1.Snapshot
	for _, snap := range s.snapshots {
		if (in.Id == "" || in.Id == snap.Id) && (in.VolumeId == "" || in.VolumeId == snap.VolumeId) {
			all = append(all, snap)
		}
	}
	slices.SortFunc(all, func(a, b *storagedv1.Snapshot) int { return cmp.Compare(a.Id, b.Id) })
	snaps, next, err := page(all, in.PageSize, in.PageToken)
	return &storagedv1.ListSnapshotsResponse{Snapshots: snaps, NextPageToken: next}, err
}

func grantKey(volume, initiator string) string { return volume + "/" + initiator }

// PublishVolume implements storagedv1.VolumesServer.
func (s *Server) PublishVolume(_ context.Context, in *storagedv1.PublishVolumeRequest) (*storagedv1.Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.volume(in.VolumeId)
	if err != nil {
		return nil, err
	}
	for _, g := range v.Grants {
		other := g.Initiator != in.Initiator
		if other && (g.Mode == storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE || in.Mode == storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE) {
			return nil, status.Errorf(codes.FailedPrecondition, "volume %s is published to %s", v.Id, g.Initiator)
		}
		if !other {
			old := s.secrets[grantKey(v.Id, in.Initiator)]
			if in.ChapSecret != "" && in.ChapSecret != old.ChapSecret {
				old.ChapUser, old.ChapSecret = in.ChapUser, in.ChapSecret
				old.Generation++
			}
			return clone(old), nil
		}
	}
	s.seq++
	g := &storagedv1.Grant{VolumeId: v.Id, Initiator: in.Initiator, Mode: in.Mode, Node: in.Node, Generation: uint64(s.seq)}
	v.Grants = append(v.Grants, clone(g))
	if !in.NoAuth {
		g.ChapUser, g.ChapSecret = cmp.Or(in.ChapUser, "iomesh"), cmp.Or(in.ChapSecret, fmt.Sprintf("generated-%06d", s.seq))
	}
	s.secrets[grantKey(v.Id, in.Initiator)] = g
	return clone(g), nil
}

// UnpublishVolume implements storagedv1.VolumesServer.
func (s *Server) UnpublishVolume(_ context.Context, in *storagedv1.UnpublishVolumeRequest) (*storagedv1.UnpublishVolumeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.volume(in.VolumeId)
	if err != nil {
		return nil, err
	}
	v.Grants = slices.DeleteFunc(v.Grants, func(g *storagedv1.Grant) bool { return g.Initiator == in.Initiator })
	delete(s.secrets, grantKey(in.VolumeId, in.Initiator))
	return &storagedv1.UnpublishVolumeResponse{}, nil
}

// GetGrant implements storagedv1.VolumesServer.
func (s *Server) GetGrant(_ context.Context, in *storagedv1.GetGrantRequest) (*storagedv1.Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.secrets[grantKey(in.VolumeId, in.Initiator)]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "volume %s is not published to %s", in.VolumeId, in.Initiator)
	}
	return clone(g), nil
}

// GetStatus implements storagedv1.ClusterServer.
func (s *Server) GetStatus(context.Context, *storagedv1.GetStatusRequest) (*storagedv1.ClusterStatus, error) {
	return &storagedv1.ClusterStatus{ClusterId: ClusterID, Health: storagedv1.Health_HEALTH_OK}, nil
}

// GetCapacity implements storagedv1.ClusterServer.
func (s *Server) GetCapacity(_ context.Context, in *storagedv1.GetCapacityRequest) (*storagedv1.GetCapacityResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	free := (s.CapacityBytes - s.used()) * 2 / uint64(cmp.Or(in.ReplicaFactor, 2))
	return &storagedv1.GetCapacityResponse{AvailableBytes: free, MaximumVolumeBytes: free}, nil
}
