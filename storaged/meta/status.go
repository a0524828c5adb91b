package meta

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// statusFacts is everything the status of the whole is computed from.
type statusFacts struct {
	Cluster     metadb.Cluster
	Leader      string
	Meta        []*storagedv1.MetaMember
	Nodes       []*storagedv1.Node
	Disks       []*storagedv1.Disk
	Volumes     []*storagedv1.Volume
	Tasks       []*storagedv1.Task
	Rate        uint64 // of copying, bytes per second
	ErrorWindow time.Duration
	Now         time.Time
}

// clusterStatus says how the whole is, why, and what to do first: package status, from the facts of the leader. It is a pure function.
func clusterStatus(f statusFacts) *storagedv1.ClusterStatus {
	out := &storagedv1.ClusterStatus{
		ClusterId: f.Cluster.ID.String(), Incarnation: f.Cluster.Incarnation, FeatureLevel: uint32(f.Cluster.Feature), Meta: f.Meta, Nodes: f.Nodes, Disks: f.Disks,
		Volumes: uint32(len(f.Volumes)), Leader: f.Leader, AsOf: timestamppb.New(f.Now), Tasks: f.Tasks, ResyncBytesPerSecond: f.Rate,
	}
	for _, v := range f.Volumes {
		out.ProvisionedBytes += v.GetSizeBytes() * uint64(v.GetReplicaFactor())
		out.ResyncBytesLeft += v.GetStatus().GetResyncBytesLeft()
		switch v.GetStatus().GetHealth() {
		case storagedv1.Health_HEALTH_UNAVAILABLE:
			out.VolumesUnavailable++
		case storagedv1.Health_HEALTH_AT_RISK:
			out.VolumesDegraded++
			out.VolumesAtRisk++
		case storagedv1.Health_HEALTH_DEGRADED:
			out.VolumesDegraded++
		}
	}
	facts := status.FactsOf(out, f.Volumes, f.Now)
	facts.ErrorWindow = f.ErrorWindow
	out.TotalBytes, out.UsedBytes = facts.Space.TotalBytes, facts.Space.UsedBytes
	v := status.Evaluate(facts)
	out.Health, out.Reason, out.NextStep, out.Findings = v.State.Wire(), v.Reason(), v.NextStep(), v.Wire()
	return out
}
