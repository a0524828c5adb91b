package controller

import (
	"context"
	"log/slog"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/code"
)

// Store is what the controller needs of the block service's volumes.
type Store interface {
	CreateVolume(context.Context, *storagedv1.CreateVolumeRequest, ...grpc.CallOption) (*storagedv1.Volume, error)
	DeleteVolume(context.Context, *storagedv1.DeleteVolumeRequest, ...grpc.CallOption) (*storagedv1.DeleteVolumeResponse, error)
	GetVolume(context.Context, *storagedv1.GetVolumeRequest, ...grpc.CallOption) (*storagedv1.Volume, error)
	ListVolumes(context.Context, *storagedv1.ListVolumesRequest, ...grpc.CallOption) (*storagedv1.ListVolumesResponse, error)
	ExpandVolume(context.Context, *storagedv1.ExpandVolumeRequest, ...grpc.CallOption) (*storagedv1.Volume, error)
	CreateSnapshot(context.Context, *storagedv1.CreateSnapshotRequest, ...grpc.CallOption) (*storagedv1.Snapshot, error)
	DeleteSnapshot(context.Context, *storagedv1.DeleteSnapshotRequest, ...grpc.CallOption) (*storagedv1.DeleteSnapshotResponse, error)
	GetSnapshot(context.Context, *storagedv1.GetSnapshotRequest, ...grpc.CallOption) (*storagedv1.Snapshot, error)
	ListSnapshots(context.Context, *storagedv1.ListSnapshotsRequest, ...grpc.CallOption) (*storagedv1.ListSnapshotsResponse, error)
	PublishVolume(context.Context, *storagedv1.PublishVolumeRequest, ...grpc.CallOption) (*storagedv1.Grant, error)
	UnpublishVolume(context.Context, *storagedv1.UnpublishVolumeRequest, ...grpc.CallOption) (*storagedv1.UnpublishVolumeResponse, error)
}

// Pool is what it needs of the cluster.
type Pool interface {
	GetCapacity(context.Context, *storagedv1.GetCapacityRequest, ...grpc.CallOption) (*storagedv1.GetCapacityResponse, error)
}

// Service implements csi.ControllerServer.
type Service struct {
	csipb.UnimplementedControllerServer
	Store Store
	Pool  Pool
	// ClusterID returns the id of the storage cluster.
	ClusterID func(context.Context) (string, error)
	Log       *slog.Logger
	// Step, if set, is told when the block service has done what a call asked for, before the call is answered. An error ends the call
	// there, as if the process had been killed. For tests.
	Step func(step string) error
}

// Steps are the names given to Service.Step.
func Steps() []string {
	return []string{stepCreated, stepDeleted, stepPublished, stepUnpublished, stepExpanded, stepSnapshot, stepSnapshotDeleted}
}

const (
	stepCreated         = "volume-created"
	stepDeleted         = "volume-deleted"
	stepPublished       = "volume-published"
	stepUnpublished     = "volume-unpublished"
	stepExpanded        = "volume-expanded"
	stepSnapshot        = "snapshot-created"
	stepSnapshotDeleted = "snapshot-deleted"
)

func (s *Service) step(name string) error {
	if s.Step == nil {
		return nil
	}
	return s.Step(name)
}

// ControllerGetCapabilities implements csi.ControllerServer.
func (*Service) ControllerGetCapabilities(context.Context, *csipb.ControllerGetCapabilitiesRequest) (*csipb.ControllerGetCapabilitiesResponse, error) {
	out := &csipb.ControllerGetCapabilitiesResponse{}
	for _, t := range []csipb.ControllerServiceCapability_RPC_Type{
		csipb.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csipb.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csipb.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csipb.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
		csipb.ControllerServiceCapability_RPC_GET_VOLUME,
		csipb.ControllerServiceCapability_RPC_GET_CAPACITY,
		csipb.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csipb.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csipb.ControllerServiceCapability_RPC_GET_SNAPSHOT,
		csipb.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csipb.ControllerServiceCapability_RPC_PUBLISH_READONLY,
		csipb.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csipb.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csipb.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csipb.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
	} {
		out.Capabilities = append(out.Capabilities, &csipb.ControllerServiceCapability{
			Type: &csipb.ControllerServiceCapability_Rpc{Rpc: &csipb.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return out, nil
}

// get reads a volume. Ids that the block service cannot have issued do not exist.
func (s *Service) get(ctx context.Context, id string) (*storagedv1.Volume, error) {
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if !issued(id) {
		return nil, code.New(code.NotFound, "volume %s does not exist", id)
	}
	return s.Store.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: id})
}

// issued says whether an id has the form of the block service's ids.
func issued(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

// missing says whether an error means that the object does not exist.
func missing(err error) bool {
	return status.Code(err) == codes.NotFound || code.Of(err) == codes.NotFound
}
