package controller

import (
	"context"
	"fmt"
	"strings"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/code"
)

func int64Value(n uint64) *wrapperspb.Int64Value { return wrapperspb.Int64(int64(n)) }

// tokenMark begins every token given out, so that others are recognised: the block service goes on after any name.
const tokenMark = "after:"

// pageToken is the block service's token for a starting_token.
func pageToken(what, starting string) (string, error) {
	if starting == "" {
		return "", nil
	}
	token, ok := strings.CutPrefix(starting, tokenMark)
	if !ok || token == "" {
		// The code is CSI's for "start again without a token".
		return "", code.New(code.Busy, "list %s: starting_token %q was not given out here; start again without one", what, starting)
	}
	return token, nil
}

// nextToken is the token to give out, "" at the end.
func nextToken(token string) string {
	if token == "" {
		return ""
	}
	return tokenMark + token
}

func entriesMax(n int32) (int32, error) {
	if n < 0 {
		return 0, code.New(code.Invalid, "max_entries %d is negative", n)
	}
	return n, nil
}

// ListVolumes implements csi.ControllerServer.
func (s *Service) ListVolumes(ctx context.Context, in *csipb.ListVolumesRequest) (*csipb.ListVolumesResponse, error) {
	n, err := entriesMax(in.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	vols, next, err := s.list(ctx, n, in.GetStartingToken())
	if err != nil {
		return nil, err
	}
	out := &csipb.ListVolumesResponse{NextToken: next}
	for _, v := range vols {
		out.Entries = append(out.Entries, &csipb.ListVolumesResponse_Entry{
			Volume: volumeOf(v), Status: &csipb.ListVolumesResponse_VolumeStatus{PublishedNodeIds: publishedTo(v)},
		})
	}
	return out, nil
}

// list reads one page, or everything when no page size is asked for: Kubernetes takes a missing volume for a detached one.
func (s *Service) list(ctx context.Context, pageSize int32, starting string) ([]*storagedv1.Volume, string, error) {
	token, err := pageToken("volumes", starting)
	if err != nil {
		return nil, "", err
	}
	var all []*storagedv1.Volume
	for {
		page, err := s.Store.ListVolumes(ctx, &storagedv1.ListVolumesRequest{PageSize: pageSize, PageToken: token})
		if err != nil {
			return nil, "", fmt.Errorf("list volumes: %w", err)
		}
		all, token = append(all, page.GetVolumes()...), page.GetNextPageToken()
		if pageSize > 0 || token == "" {
			return all, nextToken(token), nil
		}
	}
}

// ControllerGetVolume implements csi.ControllerServer.
func (s *Service) ControllerGetVolume(ctx context.Context, in *csipb.ControllerGetVolumeRequest) (*csipb.ControllerGetVolumeResponse, error) {
	v, err := s.get(ctx, in.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csipb.ControllerGetVolumeResponse{
		Volume: volumeOf(v), Status: &csipb.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: publishedTo(v)},
	}, nil
}

// ControllerGetVolumeHealth implements csi.ControllerServer.
func (s *Service) ControllerGetVolumeHealth(ctx context.Context, in *csipb.ControllerGetVolumeHealthRequest) (*csipb.ControllerGetVolumeHealthResponse, error) {
	v, err := s.get(ctx, in.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csipb.ControllerGetVolumeHealthResponse{VolumeHealth: health(v)}, nil
}

// ControllerListVolumeHealth implements csi.ControllerServer.
func (s *Service) ControllerListVolumeHealth(ctx context.Context, in *csipb.ControllerListVolumeHealthRequest) (*csipb.ControllerListVolumeHealthResponse, error) {
	n, err := entriesMax(in.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	vols, next, err := s.list(ctx, n, in.GetStartingToken())
	if err != nil {
		return nil, err
	}
	out := &csipb.ControllerListVolumeHealthResponse{NextToken: next}
	for _, v := range vols {
		out.Entries = append(out.Entries, health(v))
	}
	return out, nil
}

// health is the block service's judgement in CSI's words. A healthy volume has no entry.
func health(v *storagedv1.Volume) *csipb.VolumeHealth {
	out := &csipb.VolumeHealth{VolumeId: v.GetId()}
	add := func(t csipb.VolumeHealthErrorType, reason string) {
		text := v.GetStatus().GetReason()
		if next := v.GetStatus().GetNextStep(); next != "" {
			text += "; " + next
		}
		out.HealthStatuses = append(out.HealthStatuses, &csipb.VolumeHealth_VolumeHealthEntry{Status: t, Reason: reason, Message: text})
	}
	switch v.GetStatus().GetHealth() {
	case storagedv1.Health_HEALTH_DEGRADED:
		add(csipb.VolumeHealthErrorType_DEGRADED, "ReplicaMissing")
	case storagedv1.Health_HEALTH_AT_RISK:
		add(csipb.VolumeHealthErrorType_DEGRADED, "AtRisk")
	case storagedv1.Health_HEALTH_UNAVAILABLE:
		add(csipb.VolumeHealthErrorType_INACCESSIBLE, "Unavailable")
	}
	return out
}

// CreateSnapshot implements csi.ControllerServer.
func (s *Service) CreateSnapshot(ctx context.Context, in *csipb.CreateSnapshotRequest) (*csipb.CreateSnapshotResponse, error) {
	switch {
	case in.GetName() == "":
		return nil, code.New(code.Invalid, "name is missing")
	case len(in.GetName()) > nameBytesMax:
		return nil, code.New(code.Invalid, "name has %d bytes, at most %d are allowed", len(in.GetName()), nameBytesMax)
	case in.GetSourceVolumeId() == "":
		return nil, code.New(code.Invalid, "source_volume_id is missing")
	case !issued(in.GetSourceVolumeId()):
		return nil, code.New(code.NotFound, "source volume %q does not exist", in.GetSourceVolumeId())
	}
	for key := range in.GetParameters() {
		if !snapshotParameter[key] {
			return nil, code.New(code.Invalid, "VolumeSnapshotClass parameter %q is unknown; there are none", key)
		}
	}
	// Snapshot names are of the volume in the block service, but of the whole driver in CSI.
	if err := s.snapshotNameFree(ctx, in.GetName(), in.GetSourceVolumeId()); err != nil {
		return nil, err
	}
	snap, err := s.Store.CreateSnapshot(ctx, &storagedv1.CreateSnapshotRequest{VolumeId: in.GetSourceVolumeId(), Name: in.GetName()})
	if err != nil {
		return nil, fmt.Errorf("snapshot volume %s: %w", in.GetSourceVolumeId(), err)
	}
	if err := s.step(stepSnapshot); err != nil {
		return nil, err
	}
	return &csipb.CreateSnapshotResponse{Snapshot: snapshotOf(snap)}, nil
}

// snapshotNameFree returns an error if another volume has a snapshot of that name.
func (s *Service) snapshotNameFree(ctx context.Context, name, volume string) error {
	_, err := s.Store.GetSnapshot(ctx, &storagedv1.GetSnapshotRequest{Name: name, VolumeId: volume})
	if err == nil {
		return nil // a repeated call
	}
	if missing(err) {
		var other *storagedv1.Snapshot
		if other, err = s.Store.GetSnapshot(ctx, &storagedv1.GetSnapshotRequest{Name: name}); err == nil {
			return code.New(code.Conflict, "snapshot %s exists already, of volume %s", name, other.GetVolumeId())
		}
	}
	if missing(err) {
		return nil
	}
	return fmt.Errorf("look for a snapshot named %s: %w", name, err)
}

// snapshotParameter are those that the snapshotter adds (--extra-create-metadata).
var snapshotParameter = map[string]bool{
	"csi.storage.k8s.io/volumesnapshot/name": true, "csi.storage.k8s.io/volumesnapshot/namespace": true, "csi.storage.k8s.io/volumesnapshotcontent/name": true,
}

// DeleteSnapshot implements csi.ControllerServer.
func (s *Service) DeleteSnapshot(ctx context.Context, in *csipb.DeleteSnapshotRequest) (*csipb.DeleteSnapshotResponse, error) {
	id := in.GetSnapshotId()
	if id == "" {
		return nil, code.New(code.Invalid, "snapshot_id is missing")
	}
	if issued(id) {
		if _, err := s.Store.DeleteSnapshot(ctx, &storagedv1.DeleteSnapshotRequest{Id: id}); err != nil && !missing(err) {
			return nil, fmt.Errorf("delete snapshot %s: %w", id, err)
		}
		if err := s.step(stepSnapshotDeleted); err != nil {
			return nil, err
		}
	}
	return &csipb.DeleteSnapshotResponse{}, nil
}

// GetSnapshot implements csi.ControllerServer.
func (s *Service) GetSnapshot(ctx context.Context, in *csipb.GetSnapshotRequest) (*csipb.GetSnapshotResponse, error) {
	id := in.GetSnapshotId()
	if id == "" {
		return nil, code.New(code.Invalid, "snapshot_id is missing")
	}
	if !issued(id) {
		return nil, code.New(code.NotFound, "snapshot %s does not exist", id)
	}
	snap, err := s.Store.GetSnapshot(ctx, &storagedv1.GetSnapshotRequest{Id: id})
	if err != nil {
		return nil, fmt.Errorf("get snapshot %s: %w", id, err)
	}
	return &csipb.GetSnapshotResponse{Snapshot: snapshotOf(snap)}, nil
}

// ListSnapshots implements csi.ControllerServer.
func (s *Service) ListSnapshots(ctx context.Context, in *csipb.ListSnapshotsRequest) (*csipb.ListSnapshotsResponse, error) {
	n, err := entriesMax(in.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	for _, id := range []string{in.GetSnapshotId(), in.GetSourceVolumeId()} {
		if id != "" && !issued(id) {
			return &csipb.ListSnapshotsResponse{}, nil
		}
	}
	token, err := pageToken("snapshots", in.GetStartingToken())
	if err != nil {
		return nil, err
	}
	out := &csipb.ListSnapshotsResponse{}
	for {
		page, err := s.Store.ListSnapshots(ctx, &storagedv1.ListSnapshotsRequest{
			Id: in.GetSnapshotId(), VolumeId: in.GetSourceVolumeId(), PageSize: n, PageToken: token,
		})
		if missing(err) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list snapshots: %w", err)
		}
		for _, snap := range page.GetSnapshots() {
			out.Entries = append(out.Entries, &csipb.ListSnapshotsResponse_Entry{Snapshot: snapshotOf(snap)})
		}
		if token = page.GetNextPageToken(); n > 0 || token == "" {
			out.NextToken = nextToken(token)
			return out, nil
		}
	}
}

func snapshotOf(s *storagedv1.Snapshot) *csipb.Snapshot {
	created := s.GetCreated()
	if created == nil {
		created = &timestamppb.Timestamp{}
	}
	return &csipb.Snapshot{
		SnapshotId: s.GetId(), SourceVolumeId: s.GetVolumeId(), SizeBytes: int64(s.GetSizeBytes()), CreationTime: created, ReadyToUse: s.GetReady(),
	}
}
