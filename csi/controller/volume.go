package controller

import (
	"context"
	"fmt"
	"maps"
	"strings"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/params"
	"github.com/iomesh/iomesh/csi/topology"
)

const (
	// sizeDefault is used for a claim that states no size.
	sizeDefault = 1 << 30
	// sizeUnit is what the block service rounds sizes up to.
	sizeUnit = 1 << 20
	// nameBytesMax is CSI's limit of names.
	nameBytesMax = 128
)

// Keys of the volume context, which Kubernetes keeps in the PersistentVolume.
const (
	// ContextEndpoint is where the LUN is: iscsi://<portal>/<target>/<lun>, as libiscsi's tools take it.
	ContextEndpoint = "iscsiEndpoint"
	// ContextAuth is "true" when the user's own CHAP secrets are used.
	ContextAuth = "auth"
)

// CreateVolume implements csi.ControllerServer.
func (s *Service) CreateVolume(ctx context.Context, in *csipb.CreateVolumeRequest) (*csipb.CreateVolumeResponse, error) {
	if in.GetName() == "" {
		return nil, code.New(code.Invalid, "name is missing")
	}
	if len(in.GetName()) > nameBytesMax {
		return nil, code.New(code.Invalid, "name has %d bytes, at most %d are allowed", len(in.GetName()), nameBytesMax)
	}
	capabilities, err := params.ParseCapabilities(in.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	p, err := params.Parse(in.GetParameters())
	if err != nil {
		return nil, err
	}
	if len(in.GetMutableParameters()) > 0 {
		return nil, code.New(code.Invalid, "VolumeAttributesClass is not supported: no parameter of a volume can be changed later")
	}
	cluster, err := s.ClusterID(ctx)
	if err != nil {
		return nil, err
	}
	requisite := in.GetAccessibilityRequirements().GetRequisite()
	if topology.Foreign(requisite, cluster) {
		return nil, code.New(code.Invalid, "the volume is wanted in another cluster than %s; check the class's allowedTopologies", cluster)
	}

	req := &storagedv1.CreateVolumeRequest{
		Name: in.GetName(), ReplicaFactor: p.ReplicaFactor, Thick: p.Thick, Labels: labels(in.GetParameters()),
	}
	sizeMin, err := s.source(ctx, in.GetVolumeContentSource(), req)
	if err != nil {
		return nil, err
	}
	if req.SizeBytes, err = size(in.GetCapacityRange(), max(sizeMin, capabilities[0].SizeMin()), sizeMin > 0); err != nil {
		return nil, err
	}
	if nodes := topology.Nodes(in.GetAccessibilityRequirements().GetPreferred()); len(nodes) > 0 {
		req.PreferNode = nodes[0] // with WaitForFirstConsumer the pod's node
	}
	accessible := []*csipb.Topology{topology.OfCluster(cluster)}
	if p.RestrictTopology {
		if req.TopologyNodes = topology.Nodes(requisite); len(req.TopologyNodes) == 0 {
			return nil, code.New(code.Invalid, "restrictTopology needs allowedTopologies with key %s in the StorageClass", topology.NodeKey)
		}
		accessible = nil
		for _, node := range req.TopologyNodes {
			accessible = append(accessible, topology.OfNode(cluster, node))
		}
	}
	v, err := s.Store.CreateVolume(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", in.GetName(), err)
	}
	if err := s.step(stepCreated); err != nil {
		return nil, err
	}
	out := volumeOf(v)
	out.AccessibleTopology = accessible
	if p.Auth {
		out.VolumeContext[ContextAuth] = "true"
	}
	out.ContentSource = in.GetVolumeContentSource()
	return &csipb.CreateVolumeResponse{Volume: out}, nil
}

// source fills in where the content comes from and returns its size, 0 without a source.
func (s *Service) source(ctx context.Context, in *csipb.VolumeContentSource, req *storagedv1.CreateVolumeRequest) (uint64, error) {
	switch {
	case in == nil:
		return 0, nil
	case in.GetSnapshot() != nil:
		id := in.GetSnapshot().GetSnapshotId()
		if !issued(id) {
			return 0, code.New(code.NotFound, "source snapshot %q does not exist", id)
		}
		snap, err := s.Store.GetSnapshot(ctx, &storagedv1.GetSnapshotRequest{Id: id})
		if err != nil {
			return 0, fmt.Errorf("source snapshot %s: %w", id, err)
		}
		if !snap.GetReady() {
			return 0, code.New(code.Unavailable, "source snapshot %s is not ready yet", id)
		}
		req.SourceSnapshotId = id
		return snap.GetSizeBytes(), nil
	case in.GetVolume() != nil:
		id := in.GetVolume().GetVolumeId()
		if !issued(id) {
			return 0, code.New(code.NotFound, "source volume %q does not exist", id)
		}
		v, err := s.Store.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: id})
		if err != nil {
			return 0, fmt.Errorf("source volume %s: %w", id, err)
		}
		req.SourceVolumeId = id
		return v.GetSizeBytes(), nil
	}
	return 0, code.New(code.Invalid, "volume_content_source is neither a snapshot nor a volume")
}

// size decides the size in bytes. floor is the smallest that works; fromSource says that it is the size of the content to copy.
func size(r *csipb.CapacityRange, floor uint64, fromSource bool) (uint64, error) {
	required, limit := r.GetRequiredBytes(), r.GetLimitBytes()
	if required < 0 || limit < 0 {
		return 0, code.New(code.OutOfRange, "capacity range [%d, %d] is negative", required, limit)
	}
	if limit > 0 && required > limit {
		return 0, code.New(code.OutOfRange, "required size %d is above the limit %d", required, limit)
	}
	want := uint64(required)
	switch {
	case want == 0 && fromSource:
		want = floor
	case want == 0:
		want = max(sizeDefault, floor)
		if limit > 0 {
			want = min(want, uint64(limit)/sizeUnit*sizeUnit)
		}
	}
	if want < floor {
		what := "the smallest volume for this filesystem"
		if fromSource {
			what = "the size of the source"
		}
		return 0, code.New(code.OutOfRange, "size %d is below %d, %s", want, floor, what)
	}
	if want > 1<<62 {
		return 0, code.New(code.OutOfRange, "size %d is more than any pool has", want)
	}
	want = (want + sizeUnit - 1) / sizeUnit * sizeUnit
	if limit > 0 && want > uint64(limit) {
		return 0, code.New(code.OutOfRange, "the size is rounded up to %d, a multiple of %d, which is above the limit %d", want, sizeUnit, limit)
	}
	return want, nil
}

// labels keeps who asked for the volume, for people who look at the block service.
func labels(parameters map[string]string) map[string]string {
	out := map[string]string{}
	for from, to := range map[string]string{
		"csi.storage.k8s.io/pvc/name": "pvc", "csi.storage.k8s.io/pvc/namespace": "namespace", "csi.storage.k8s.io/pv/name": "pv",
	} {
		if v := parameters[from]; v != "" {
			out[to] = v
		}
	}
	return out
}

// volumeOf is a volume of the block service in CSI's words.
func volumeOf(v *storagedv1.Volume) *csipb.Volume {
	out := &csipb.Volume{VolumeId: v.GetId(), CapacityBytes: int64(v.GetSizeBytes()), VolumeContext: map[string]string{}}
	if len(v.GetPortals()) > 0 {
		out.VolumeContext[ContextEndpoint] = fmt.Sprintf("iscsi://%s/%s/%d", v.GetPortals()[0], v.GetIqn(), v.GetLun())
	}
	switch {
	case v.GetSourceSnapshotId() != "":
		out.ContentSource = &csipb.VolumeContentSource{Type: &csipb.VolumeContentSource_Snapshot{
			Snapshot: &csipb.VolumeContentSource_SnapshotSource{SnapshotId: v.GetSourceSnapshotId()}}}
	case v.GetSourceVolumeId() != "":
		out.ContentSource = &csipb.VolumeContentSource{Type: &csipb.VolumeContentSource_Volume{
			Volume: &csipb.VolumeContentSource_VolumeSource{VolumeId: v.GetSourceVolumeId()}}}
	}
	return out
}

// DeleteVolume implements csi.ControllerServer.
func (s *Service) DeleteVolume(ctx context.Context, in *csipb.DeleteVolumeRequest) (*csipb.DeleteVolumeResponse, error) {
	id := in.GetVolumeId()
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if !issued(id) {
		return &csipb.DeleteVolumeResponse{}, nil
	}
	if _, err := s.Store.DeleteVolume(ctx, &storagedv1.DeleteVolumeRequest{Id: id}); err != nil && !missing(err) {
		return nil, fmt.Errorf("delete volume %s: %w", id, err)
	}
	if err := s.step(stepDeleted); err != nil {
		return nil, err
	}
	return &csipb.DeleteVolumeResponse{}, nil
}

// ControllerExpandVolume implements csi.ControllerServer.
func (s *Service) ControllerExpandVolume(ctx context.Context, in *csipb.ControllerExpandVolumeRequest) (*csipb.ControllerExpandVolumeResponse, error) {
	if in.GetVolumeId() == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if in.GetCapacityRange() == nil {
		return nil, code.New(code.Invalid, "capacity_range is missing")
	}
	v, err := s.get(ctx, in.GetVolumeId())
	if err != nil {
		return nil, err
	}
	// A repeated call may ask for less than the volume has by now: it is done, unless that is above its limit.
	want, err := size(in.GetCapacityRange(), sizeUnit, false)
	if err != nil {
		return nil, err
	}
	if limit := in.GetCapacityRange().GetLimitBytes(); limit > 0 && v.GetSizeBytes() > uint64(limit) {
		return nil, code.New(code.OutOfRange, "volume %s has %d bytes already, above the limit %d", v.GetId(), v.GetSizeBytes(), limit)
	}
	have := v.GetSizeBytes()
	if want > have {
		if v, err = s.Store.ExpandVolume(ctx, &storagedv1.ExpandVolumeRequest{Id: in.GetVolumeId(), SizeBytes: want}); err != nil {
			return nil, fmt.Errorf("expand volume %s from %d to %d bytes: %w", in.GetVolumeId(), have, want, err)
		}
		if err := s.step(stepExpanded); err != nil {
			return nil, err
		}
	}
	// The node has to read the size again for block volumes too.
	return &csipb.ControllerExpandVolumeResponse{CapacityBytes: int64(v.GetSizeBytes()), NodeExpansionRequired: true}, nil
}

// ValidateVolumeCapabilities implements csi.ControllerServer.
func (s *Service) ValidateVolumeCapabilities(ctx context.Context, in *csipb.ValidateVolumeCapabilitiesRequest) (*csipb.ValidateVolumeCapabilitiesResponse, error) {
	if in.GetVolumeId() == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if len(in.GetVolumeCapabilities()) == 0 {
		return nil, code.New(code.Invalid, "volume capabilities are missing")
	}
	v, err := s.get(ctx, in.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if _, err := params.ParseCapabilities(in.GetVolumeCapabilities()); err != nil {
		return &csipb.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	if p, err := params.Parse(in.GetParameters()); err != nil {
		return &csipb.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	} else if len(in.GetParameters()) > 0 && (p.ReplicaFactor != v.GetReplicaFactor() || p.Thick == v.GetThin()) {
		return &csipb.ValidateVolumeCapabilitiesResponse{Message: fmt.Sprintf("the volume has %d replicas, thin %t", v.GetReplicaFactor(), v.GetThin())}, nil
	}
	return &csipb.ValidateVolumeCapabilitiesResponse{Confirmed: &csipb.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: maps.Clone(in.GetVolumeContext()), VolumeCapabilities: in.GetVolumeCapabilities(), Parameters: maps.Clone(in.GetParameters()),
	}}, nil
}

// GetCapacity implements csi.ControllerServer. Every node sees the whole pool, except those of other clusters.
func (s *Service) GetCapacity(ctx context.Context, in *csipb.GetCapacityRequest) (*csipb.GetCapacityResponse, error) {
	p, err := params.Parse(in.GetParameters())
	if err != nil {
		return nil, err
	}
	for _, c := range in.GetVolumeCapabilities() {
		if _, err := params.ParseCapability(c); err != nil {
			return &csipb.GetCapacityResponse{}, nil // nothing of that kind can be made
		}
	}
	req := &storagedv1.GetCapacityRequest{ReplicaFactor: p.ReplicaFactor, Thick: p.Thick}
	if t := in.GetAccessibleTopology(); t != nil {
		cluster, err := s.ClusterID(ctx)
		if err != nil {
			return nil, err
		}
		if topology.Foreign([]*csipb.Topology{t}, cluster) {
			return &csipb.GetCapacityResponse{}, nil
		}
		// Asked for a segment with fewer nodes than replicas, the answer is of volumes that can be used there: the class's allowed topologies, which
		// name more nodes, are not known here. What they cannot hold is refused when the volume is made.
		if nodes := topology.Nodes([]*csipb.Topology{t}); p.RestrictTopology && len(nodes) >= int(req.ReplicaFactor) {
			req.TopologyNodes = nodes
		}
	}
	c, err := s.Pool.GetCapacity(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("ask for the capacity: %w", err)
	}
	return &csipb.GetCapacityResponse{
		AvailableCapacity: int64(c.GetAvailableBytes()),
		MaximumVolumeSize: int64Value(c.GetMaximumVolumeBytes()),
		MinimumVolumeSize: int64Value(sizeUnit),
	}, nil
}

// userSecrets reads the CHAP secrets of the class's auth parameter.
func userSecrets(secrets map[string]string) (user, password string, err error) {
	user, password = secrets["username"], secrets["password"]
	switch {
	case user == "" || password == "":
		return "", "", code.New(code.Invalid, `auth is "true": the Secret of csi.storage.k8s.io/controller-publish-secret-name must hold "username" and "password"`)
	case len(password) < 12 || len(password) > 16:
		return "", "", code.New(code.Invalid, "the CHAP password has %d characters; 12 to 16 are allowed", len(password))
	case len(user) > 223 || strings.ContainsAny(user, " \t\r\n"):
		return "", "", code.New(code.Invalid, "the CHAP username must be of at most 223 characters without spaces")
	}
	return user, password, nil
}
