package link

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/status"
)

// The JSON of `storaged ctl`, as far as it is used here. Unknown fields of newer versions are left out.
type (
	ctlStatus struct {
		ClusterID            string     `json:"clusterID"`
		Health               string     `json:"health"`
		Reason               string     `json:"reason"`
		NextStep             string     `json:"nextStep"`
		Leader               string     `json:"leader"`
		TotalBytes           uint64     `json:"totalBytes"`
		UsedBytes            uint64     `json:"usedBytes"`
		ProvisionedBytes     uint64     `json:"provisionedBytes"`
		Volumes              uint32     `json:"volumes"`
		VolumesDegraded      uint32     `json:"volumesDegraded"`
		VolumesUnavailable   uint32     `json:"volumesUnavailable"`
		ResyncBytesLeft      uint64     `json:"resyncBytesLeft"`
		ResyncBytesPerSecond uint64     `json:"resyncBytesPerSecond"`
		AsOf                 *time.Time `json:"asOf"`
		Meta                 []ctlMeta  `json:"meta"`
		Nodes                []ctlNode  `json:"nodes"`
		Disks                []ctlDisk  `json:"disks"`
		Tasks                []ctlTask  `json:"tasks"`
		VolumesAtRisk        uint32     `json:"volumesAtRisk"`
		Findings             []struct {
			status.Finding
			State string `json:"state"`
		} `json:"findings"`
	}
	ctlMeta struct {
		Name    string `json:"name"`
		Address string `json:"address"`
		Healthy bool   `json:"healthy"`
		Leader  bool   `json:"leader"`
		Version string `json:"version"`
		Message string `json:"message"`
	}
	ctlNode struct {
		Name         string `json:"name"`
		Chunk        uint32 `json:"chunk"`
		State        string `json:"state"`
		Mode         string `json:"mode"`
		Version      string `json:"version"`
		Data         string `json:"data"`
		OwnedVolumes uint32 `json:"ownedVolumes"`
		Sessions     uint32 `json:"sessions"`
		Message      string `json:"message"`
	}
	ctlDisk struct {
		ID             string `json:"id"`
		Name           string `json:"name"`
		Node           string `json:"node"`
		State          string `json:"state"`
		MountType      string `json:"mountType"`
		Device         string `json:"device"`
		SizeBytes      uint64 `json:"sizeBytes"`
		UsedBytes      uint64 `json:"usedBytes"`
		Replicas       uint32 `json:"replicas"`
		IOErrors       uint64 `json:"ioErrors"`
		ChecksumErrors uint64 `json:"checksumErrors"`
		Message        string `json:"message"`
	}
	ctlTask struct {
		Kind       string `json:"kind"`
		Object     string `json:"object"`
		State      string `json:"state"`
		BytesDone  uint64 `json:"bytesDone"`
		BytesTotal uint64 `json:"bytesTotal"`
		Message    string `json:"message"`
	}
	ctlVolume struct {
		ID             string      `json:"id"`
		Name           string      `json:"name"`
		IQN            string      `json:"iqn"`
		LUN            uint32      `json:"lun"`
		Portals        []string    `json:"portals"`
		SizeBytes      uint64      `json:"sizeBytes"`
		Replicas       uint32      `json:"replicas"`
		MinReplicas    uint32      `json:"minReplicas"`
		Thin           bool        `json:"thin"`
		State          string      `json:"state"`
		Health         string      `json:"health"`
		Reason         string      `json:"reason"`
		NextStep       string      `json:"nextStep"`
		OwnerNode      string      `json:"ownerNode"`
		Epoch          uint64      `json:"epoch"`
		Extents        uint32      `json:"extents"`
		Degraded       uint32      `json:"extentsDegraded"`
		Unavailable    uint32      `json:"extentsUnavailable"`
		ResyncLeft     uint64      `json:"resyncBytesLeft"`
		Allocated      uint64      `json:"allocatedBytes"`
		SnapshotBytes  uint64      `json:"snapshotBytes"`
		Sessions       uint32      `json:"sessions"`
		SourceVolume   string      `json:"sourceVolume"`
		SourceSnapshot string      `json:"sourceSnapshot"`
		Grants         []ctlGrant  `json:"grants"`
		ExtentList     []ctlExtent `json:"extentList"`
	}
	ctlGrant struct {
		Initiator string `json:"initiator"`
		Mode      string `json:"mode"`
		Node      string `json:"node"`
	}
	ctlExtent struct {
		Index   uint32      `json:"index"`
		Members []ctlMember `json:"members"`
		Absent  []ctlMember `json:"absent"`
	}
	ctlMember struct {
		Disk string `json:"disk"`
		Node string `json:"node"`
		Kind string `json:"kind"`
	}
)

var ctlHealth = map[string]storagedv1.Health{
	"OK": storagedv1.Health_HEALTH_OK, "Degraded": storagedv1.Health_HEALTH_DEGRADED, "AtRisk": storagedv1.Health_HEALTH_AT_RISK,
	"Unavailable": storagedv1.Health_HEALTH_UNAVAILABLE,
	"Healthy":     storagedv1.Health_HEALTH_OK, // of versions before one vocabulary
}

var ctlMode = map[string]storagedv1.AccessMode{
	"exclusive": storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE, "shared": storagedv1.AccessMode_ACCESS_MODE_SHARED, "readonly": storagedv1.AccessMode_ACCESS_MODE_READ_ONLY,
}

// StorageStatus asks the block service for its status.
func (l *Link) StorageStatus(ctx context.Context) (*storagedv1.ClusterStatus, error) {
	out, err := l.Ctl(ctx, "status")
	if err != nil {
		return nil, err
	}
	return DecodeStatus(out)
}

// DecodeStatus reads what `storaged ctl status -o json` prints.
func DecodeStatus(data []byte) (*storagedv1.ClusterStatus, error) {
	var v ctlStatus
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("decode the block service's status: %w", err)
	}
	s := &storagedv1.ClusterStatus{
		ClusterId: v.ClusterID, Health: ctlHealth[v.Health], Reason: v.Reason, NextStep: v.NextStep, Leader: v.Leader,
		TotalBytes: v.TotalBytes, UsedBytes: v.UsedBytes, ProvisionedBytes: v.ProvisionedBytes,
		Volumes: v.Volumes, VolumesDegraded: v.VolumesDegraded, VolumesUnavailable: v.VolumesUnavailable,
		ResyncBytesLeft: v.ResyncBytesLeft, ResyncBytesPerSecond: v.ResyncBytesPerSecond,
	}
	if v.AsOf != nil {
		s.AsOf = timestamppb.New(*v.AsOf)
	}
	for _, m := range v.Meta {
		s.Meta = append(s.Meta, &storagedv1.MetaMember{Name: m.Name, Address: m.Address, Healthy: m.Healthy, Leader: m.Leader, Version: m.Version, Message: m.Message})
	}
	for _, n := range v.Nodes {
		s.Nodes = append(s.Nodes, &storagedv1.Node{Name: n.Name, Chunk: n.Chunk, State: n.State, Mode: n.Mode, Version: n.Version, DataAddress: n.Data,
			OwnedVolumes: n.OwnedVolumes, Sessions: n.Sessions, Message: n.Message})
	}
	for _, d := range v.Disks {
		s.Disks = append(s.Disks, &storagedv1.Disk{Id: d.ID, Name: d.Name, Node: d.Node, State: d.State, MountType: d.MountType, Device: d.Device, SizeBytes: d.SizeBytes,
			UsedBytes: d.UsedBytes, Replicas: d.Replicas, IoErrors: d.IOErrors, ChecksumErrors: d.ChecksumErrors, Message: d.Message})
	}
	for _, t := range v.Tasks {
		s.Tasks = append(s.Tasks, &storagedv1.Task{Kind: t.Kind, Object: t.Object, State: t.State, BytesDone: t.BytesDone, BytesTotal: t.BytesTotal, Message: t.Message})
	}
	s.VolumesAtRisk = v.VolumesAtRisk
	findings := status.Verdict{}
	for _, f := range v.Findings {
		f.Finding.State, _ = status.Of(ctlHealth[f.State])
		findings.Findings = append(findings.Findings, f.Finding)
	}
	s.Findings = findings.Wire()
	return s, nil
}

// Volumes asks for all volumes.
func (l *Link) Volumes(ctx context.Context) ([]*storagedv1.Volume, error) {
	out, err := l.Ctl(ctx, "volume", "list")
	if err != nil {
		return nil, err
	}
	return DecodeVolumes(out)
}

// DecodeVolumes reads what `storaged ctl volume list -o json` prints.
func DecodeVolumes(data []byte) ([]*storagedv1.Volume, error) {
	var list struct {
		Items []ctlVolume `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("decode the list of volumes: %w", err)
	}
	out := []*storagedv1.Volume{}
	for i := range list.Items {
		out = append(out, list.Items[i].message())
	}
	return out, nil
}

// Volume asks for one volume, with its extents.
func (l *Link) Volume(ctx context.Context, name string) (*storagedv1.Volume, error) {
	out, err := l.Ctl(ctx, "volume", "show", "--extents", "--", name)
	if err != nil {
		return nil, err
	}
	var v ctlVolume
	if err := json.Unmarshal(out, &v); err != nil {
		return nil, fmt.Errorf("decode the volume: %w", err)
	}
	return v.message(), nil
}

func (v *ctlVolume) message() *storagedv1.Volume {
	out := &storagedv1.Volume{
		Id: v.ID, Name: v.Name, Iqn: v.IQN, Lun: v.LUN, Portals: v.Portals, SizeBytes: v.SizeBytes, ReplicaFactor: v.Replicas, MinReplicas: v.MinReplicas, Thin: v.Thin,
		State: v.State, OwnerNode: v.OwnerNode, Epoch: v.Epoch, SourceVolumeId: v.SourceVolume, SourceSnapshotId: v.SourceSnapshot,
		Status: &storagedv1.VolumeStatus{
			Health: ctlHealth[v.Health], Reason: v.Reason, NextStep: v.NextStep, Extents: v.Extents, ExtentsDegraded: v.Degraded, ExtentsUnavailable: v.Unavailable,
			ResyncBytesLeft: v.ResyncLeft, AllocatedBytes: v.Allocated, SnapshotBytes: v.SnapshotBytes, Sessions: v.Sessions,
		},
	}
	for _, g := range v.Grants {
		out.Grants = append(out.Grants, &storagedv1.Grant{Initiator: g.Initiator, Mode: ctlMode[g.Mode], Node: g.Node})
	}
	members := func(list []ctlMember) (ms []*storagedv1.Member) {
		for _, m := range list {
			ms = append(ms, &storagedv1.Member{DiskId: m.Disk, Node: m.Node, Kind: m.Kind})
		}
		return ms
	}
	for _, e := range v.ExtentList {
		out.Status.ExtentStatus = append(out.Status.ExtentStatus, &storagedv1.ExtentStatus{Index: e.Index, Members: members(e.Members), Absent: members(e.Absent)})
	}
	return out
}
