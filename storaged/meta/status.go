package meta

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// statusFacts is everything the status of the whole is computed from.
type statusFacts struct {
	Cluster metadb.Cluster
	Leader  string
	Meta    []*storagedv1.MetaMember
	Nodes   []*storagedv1.Node
	Disks   []*storagedv1.Disk
	Volumes []*storagedv1.Volume
	Tasks   []*storagedv1.Task
	Rate    uint64 // of copying, bytes per second
	Now     time.Time
}

// fullRatio is the use of the pool from which status warns.
const fullRatio = 0.9

// clusterStatus says how the whole is, why, and what to do first. It is a pure function of the facts. The health is the
// worst of: the volumes', the meta members' (one more loss would stop changes: at risk), and degraded for any node offline,
// disk failed or missing, or pool nearly full. The reason names all of them, the next step is for the worst.
func clusterStatus(f statusFacts) *storagedv1.ClusterStatus {
	out := &storagedv1.ClusterStatus{
		ClusterId: f.Cluster.ID.String(), Incarnation: f.Cluster.Incarnation, FeatureLevel: uint32(f.Cluster.Feature), Meta: f.Meta, Nodes: f.Nodes, Disks: f.Disks,
		Volumes: uint32(len(f.Volumes)), Leader: f.Leader, AsOf: timestamppb.New(f.Now), Tasks: f.Tasks, Health: storagedv1.Health_HEALTH_OK,
		ResyncBytesPerSecond: f.Rate,
	}
	var reasons []string
	worst := storagedv1.Health_HEALTH_OK
	note := func(h storagedv1.Health, reason, next string) {
		reasons = append(reasons, reason)
		if h > worst {
			worst, out.NextStep = h, next
		}
	}
	volumes(f, out, note)
	var down []string
	for _, m := range f.Meta {
		if !m.GetHealthy() {
			down = append(down, m.GetName())
		}
	}
	if n := len(f.Meta); len(down) > 0 {
		h := storagedv1.Health_HEALTH_DEGRADED
		if n-len(down) <= n/2+1 {
			h = storagedv1.Health_HEALTH_AT_RISK
		}
		note(h, fmt.Sprintf("%d of %d meta members are not healthy: %s", len(down), n, strings.Join(down, ", ")), "start storaged meta on "+strings.Join(down, ", "))
	}
	var offline, resting []string
	for _, n := range f.Nodes {
		switch {
		case n.GetState() != "Online":
			offline = append(offline, n.GetName())
		case n.GetMode() == metadb.ModeMaintenance.String():
			resting = append(resting, n.GetName())
		}
	}
	if len(offline) > 0 {
		note(storagedv1.Health_HEALTH_DEGRADED, "nodes offline: "+strings.Join(offline, ", "), "start storaged on "+strings.Join(offline, ", ")+", or check the network")
	}
	if len(resting) > 0 {
		reasons = append(reasons, "nodes in maintenance: "+strings.Join(resting, ", "))
	}
	var bad []string
	var free bool
	for _, d := range f.Disks {
		switch d.GetState() {
		case diskStateActive:
			out.TotalBytes += d.GetSizeBytes()
			out.UsedBytes += d.GetUsedBytes()
			free = true
		case metadb.DiskDraining.String():
			out.UsedBytes += d.GetUsedBytes()
		case diskStateFailed:
			bad = append(bad, d.GetNode()+"/"+d.GetName()+" (failed)")
		case diskStateMissing:
			if !slices.Contains(offline, d.GetNode()) {
				bad = append(bad, d.GetNode()+"/"+d.GetName()+" (missing)")
			}
		}
	}
	if len(bad) > 0 {
		note(storagedv1.Health_HEALTH_DEGRADED, "disks: "+strings.Join(bad, ", "), "replace the disks and remove the old ones")
	}
	if out.TotalBytes > 0 && float64(out.UsedBytes) > fullRatio*float64(out.TotalBytes) {
		note(storagedv1.Health_HEALTH_DEGRADED, fmt.Sprintf("the pool is %d %% full", out.UsedBytes*100/out.TotalBytes), "add disks, or delete volumes and snapshots")
	}
	if !free && len(f.Nodes) > 0 {
		reasons = append(reasons, "there is no active disk yet")
		if out.NextStep == "" {
			out.NextStep = "add a disk to at least one node per replica"
		}
	}
	if len(f.Nodes) == 0 {
		reasons = append(reasons, "no node has registered yet")
		if out.NextStep == "" {
			out.NextStep = "start storaged chunk on the storage nodes"
		}
	}
	out.Health, out.Reason = worst, strings.Join(reasons, "; ")
	return out
}

func volumes(f statusFacts, out *storagedv1.ClusterStatus, note func(storagedv1.Health, string, string)) {
	var unavailable, risky, degraded []*storagedv1.Volume
	for _, v := range f.Volumes {
		st := v.GetStatus()
		out.ProvisionedBytes += v.GetSizeBytes() * uint64(v.GetReplicaFactor())
		out.ResyncBytesLeft += st.GetResyncBytesLeft()
		switch st.GetHealth() {
		case storagedv1.Health_HEALTH_UNAVAILABLE:
			unavailable = append(unavailable, v)
		case storagedv1.Health_HEALTH_AT_RISK:
			risky = append(risky, v)
		case storagedv1.Health_HEALTH_DEGRADED:
			degraded = append(degraded, v)
		}
	}
	out.VolumesUnavailable = uint32(len(unavailable))
	out.VolumesDegraded = uint32(len(risky) + len(degraded))
	for _, g := range []struct {
		h    storagedv1.Health
		list []*storagedv1.Volume
		what string
	}{
		{storagedv1.Health_HEALTH_UNAVAILABLE, unavailable, "unavailable"},
		{storagedv1.Health_HEALTH_AT_RISK, risky, "one more fault from being unavailable"},
		{storagedv1.Health_HEALTH_DEGRADED, degraded, "without full redundancy"},
	} {
		if len(g.list) == 0 {
			continue
		}
		slices.SortFunc(g.list, func(a, b *storagedv1.Volume) int { return strings.Compare(a.GetName(), b.GetName()) })
		first := g.list[0]
		note(g.h, fmt.Sprintf("%s %s, first %s: %s", count(len(g.list), "volume"), g.what, first.GetName(), first.GetStatus().GetReason()), first.GetStatus().GetNextStep())
	}
}
