package ctl

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/status"
)

type metaView struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Healthy bool   `json:"healthy"`
	Leader  bool   `json:"leader"`
	PID     int32  `json:"pid"`
	DBBytes uint64 `json:"dbBytes"`
	Version string `json:"version"`
	Message string `json:"message,omitempty"`
}

type statusView struct {
	head
	ClusterID          string     `json:"clusterID"`
	Health             string     `json:"health"`
	Reason             string     `json:"reason,omitempty"`
	NextStep           string     `json:"nextStep,omitempty"`
	Leader             string     `json:"leader"`
	TotalBytes         uint64     `json:"totalBytes"`
	UsedBytes          uint64     `json:"usedBytes"`
	ProvisionedBytes   uint64     `json:"provisionedBytes"`
	Volumes            uint32     `json:"volumes"`
	VolumesDegraded    uint32     `json:"volumesDegraded"`
	VolumesUnavailable uint32     `json:"volumesUnavailable"`
	ResyncBytesLeft    uint64     `json:"resyncBytesLeft"`
	ResyncBytesPerSec  uint64     `json:"resyncBytesPerSecond"`
	Incarnation        uint64     `json:"incarnation"`
	FeatureLevel       uint32     `json:"featureLevel"`
	AsOf               *time.Time `json:"asOf,omitempty"`
	Meta               []metaView `json:"meta"`
	Nodes              []nodeView `json:"nodes"`
	Disks              []diskView `json:"disks"`
	Tasks              []taskView `json:"tasks"`

	VolumesAtRisk uint32        `json:"volumesAtRisk"`
	Findings      []findingView `json:"findings"`
}

// findingView is a finding of package internal/status.
type findingView struct {
	status.Finding
	State string `json:"state"`
}

func viewFindings(list []status.Finding) []findingView {
	out := []findingView{}
	for _, f := range list {
		out = append(out, findingView{f, f.State.Word()})
	}
	return out
}

func viewStatus(s *storagedv1.ClusterStatus) statusView {
	v := statusView{
		head: kind("Status"), ClusterID: s.GetClusterId(), Health: healthText(s.GetHealth()), Reason: s.GetReason(), NextStep: s.GetNextStep(), Leader: s.GetLeader(),
		TotalBytes: s.GetTotalBytes(), UsedBytes: s.GetUsedBytes(), ProvisionedBytes: s.GetProvisionedBytes(), Volumes: s.GetVolumes(), VolumesDegraded: s.GetVolumesDegraded(),
		VolumesUnavailable: s.GetVolumesUnavailable(), ResyncBytesLeft: s.GetResyncBytesLeft(), ResyncBytesPerSec: s.GetResyncBytesPerSecond(),
		Incarnation: s.GetIncarnation(), FeatureLevel: s.GetFeatureLevel(), AsOf: timeOf(s.GetAsOf()), Tasks: viewTasks(s.GetTasks()),
		Meta: []metaView{}, Nodes: []nodeView{}, Disks: []diskView{}, VolumesAtRisk: s.GetVolumesAtRisk(),
		Findings: viewFindings(status.FromStatus(s, "", s.GetAsOf().AsTime(), s.GetAsOf().AsTime()).Given),
	}
	for _, m := range s.GetMeta() {
		v.Meta = append(v.Meta, metaView{Name: m.GetName(), Address: m.GetAddress(), Healthy: m.GetHealthy(), Leader: m.GetLeader(), PID: m.GetPid(), DBBytes: m.GetDbBytes(), Version: m.GetVersion(), Message: m.GetMessage()})
	}
	for _, n := range s.GetNodes() {
		v.Nodes = append(v.Nodes, viewNode(n))
	}
	for _, d := range s.GetDisks() {
		v.Disks = append(v.Disks, viewDisk(d))
	}
	return v
}

func (v *statusView) table(w io.Writer) {
	resync := ""
	if v.ResyncBytesLeft > 0 {
		resync = bytesText(v.ResyncBytesLeft) + " left"
		if v.ResyncBytesPerSec > 0 {
			resync += ", " + bytesText(v.ResyncBytesPerSec) + "/s"
		}
	}
	pairs(w, "Health", v.Health, "Reason", v.Reason, "Next step", v.NextStep, "Cluster", v.ClusterID,
		"Volumes", fmt.Sprintf("%d, %d degraded, %d unavailable", v.Volumes, v.VolumesDegraded, v.VolumesUnavailable),
		"Space", fmt.Sprintf("%s used of %s, %s provisioned", bytesText(v.UsedBytes), bytesText(v.TotalBytes), bytesText(v.ProvisionedBytes)), "Resync", resync, "As of", timeText(v.AsOf))
	var meta [][]string
	for _, m := range v.Meta {
		role := ""
		if m.Leader {
			role = "leader"
		}
		health := "Healthy"
		if !m.Healthy {
			health = "Unhealthy"
		}
		meta = append(meta, []string{m.Name, health, role, m.Address, bytesText(m.DBBytes), strconv.Itoa(int(m.PID)), m.Version, m.Message})
	}
	fmt.Fprintln(w)
	columns(w, "META HEALTH ROLE ADDRESS DB PID VERSION MESSAGE", meta)
	fmt.Fprintln(w)
	nodeTable(w, v.Nodes)
	fmt.Fprintln(w)
	diskTable(w, v.Disks)
	if len(v.Tasks) > 0 {
		fmt.Fprintln(w)
		taskTable(w, v.Tasks)
	}
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the cluster is, why, and what to do; exit code 3 if it is not healthy",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, "read status", func(ctx context.Context, _ storagedv1.VolumesClient, cc storagedv1.ClusterClient) error {
				s, err := cc.GetStatus(ctx, &storagedv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				view := viewStatus(s)
				if err := a.print(cmd.OutOrStdout(), view, view.table); err != nil {
					return err
				}
				if s.GetHealth() != storagedv1.Health_HEALTH_OK {
					return &Error{code: exitProblems, msg: strings.TrimSuffix(fmt.Sprintf("the cluster is %s: %s; next step: %s", view.Health, view.Reason, view.NextStep), "; next step: ")}
				}
				return nil
			})
		},
	}
}
