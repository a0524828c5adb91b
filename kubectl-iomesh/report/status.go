package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// Facts are what was read, and what was not.
type Facts struct {
	Now           time.Time
	ClientVersion string
	Cluster       *v1alpha1.IOMeshCluster
	Devices       []v1alpha1.BlockDevice
	Pods          []corev1.Pod
	Nodes         []corev1.Node
	Data          *storagedv1.ClusterStatus // nil when the block service did not answer
	Unread        []Unread
}

// Unread is a source that could not be read.
type Unread struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Problem is something to do about.
type Problem struct {
	Severity string `json:"severity"` // critical, warning
	Object   string `json:"object"`
	Message  string `json:"message"`
	NextStep string `json:"nextStep,omitempty"`
}

// Status is the whole cluster at a glance.
type Status struct {
	output.Meta
	Name       string      `json:"name"`
	Namespace  string      `json:"namespace"`
	Phase      string      `json:"phase"`
	Health     string      `json:"health"`
	Reason     string      `json:"reason,omitempty"`
	NextStep   string      `json:"nextStep,omitempty"`
	ClusterID  string      `json:"clusterID,omitempty"`
	Task       string      `json:"task,omitempty"`
	Version    Version     `json:"version"`
	Members    MetaState   `json:"meta"`
	Components []Component `json:"components"`
	Nodes      []Node      `json:"nodes"`
	Disks      DiskCounts  `json:"disks"`
	Space      Space       `json:"space"`
	Volumes    Volumes     `json:"volumes"`
	Resync     Resync      `json:"resync"`
	Tasks      []Task      `json:"tasks"`
	Problems   []Problem   `json:"problems"`
	// Findings are what health follows from (package internal/status), gravest first.
	Findings []status.Finding `json:"findings"`
	Unread   []Unread         `json:"unread"`
	// Source of nodes, space, volumes and resync: "storage" (asked now) or "object" (the operator's last view, at AsOf).
	Source string     `json:"source"`
	AsOf   *time.Time `json:"asOf,omitempty"`
}

// Version is who runs what.
type Version struct {
	Client string   `json:"client"`
	Images []string `json:"images"` // running images of meta and chunk, more than one during an update
	Wanted string   `json:"wanted,omitempty"`
}

// MetaState is the metadata members.
type MetaState struct {
	Healthy int    `json:"healthy"`
	Members int    `json:"members"`
	Leader  string `json:"leader,omitempty"`
}

// Component counts the pods of one part.
type Component struct {
	Name  string `json:"name"`
	Ready int    `json:"ready"`
	Pods  int    `json:"pods"`
}

// Node is a storage node.
type Node struct {
	Name         string `json:"name"`
	State        string `json:"state"`
	Mode         string `json:"mode"`
	Kubernetes   string `json:"kubernetes"`
	Address      string `json:"address,omitempty"`
	Disks        int    `json:"disks"`
	DisksActive  int    `json:"disksActive"`
	OwnedVolumes int    `json:"ownedVolumes"`
	Sessions     int    `json:"sessions"`
	Attach       string `json:"attach,omitempty"`
	AttachReason string `json:"attachReason,omitempty"`
	Version      string `json:"version,omitempty"`
	Message      string `json:"message,omitempty"`
}

// DiskCounts counts BlockDevices.
type DiskCounts struct {
	Active   int `json:"active"`
	Claimed  int `json:"claimed"`
	Eligible int `json:"eligible"` // could be mapped now
	Known    int `json:"known"`
}

// Space is in bytes.
type Space struct {
	TotalBytes       int64 `json:"totalBytes"`
	UsedBytes        int64 `json:"usedBytes"`
	ProvisionedBytes int64 `json:"provisionedBytes"`
}

// Volumes counts volumes by health.
type Volumes struct {
	Total       int `json:"total"`
	Degraded    int `json:"degraded"`
	Unavailable int `json:"unavailable"`
}

// Resync is what is left to copy.
type Resync struct {
	BytesLeft      int64 `json:"bytesLeft"`
	BytesPerSecond int64 `json:"bytesPerSecond"`
}

// Task is work of the block service.
type Task struct {
	Kind       string `json:"kind"`
	Object     string `json:"object"`
	State      string `json:"state"`
	BytesDone  int64  `json:"bytesDone"`
	BytesTotal int64  `json:"bytesTotal"`
	Message    string `json:"message,omitempty"`
}

// HealthWord is a health in the words of the object's status.
func HealthWord(h storagedv1.Health) string {
	if s, known := status.Of(h); known {
		return s.Word()
	}
	return string(v1alpha1.HealthUnknown)
}

// BuildStatus makes the report. f.Cluster must be set.
func BuildStatus(f Facts) *Status {
	c := f.Cluster
	s := &Status{
		Meta: output.Of("Status"), Name: c.Name, Namespace: c.Namespace, Phase: or(string(c.Status.Phase), "Unknown"), ClusterID: c.Status.ClusterID,
		Task: c.Status.TaskInProcess, Version: Version{Client: f.ClientVersion, Wanted: c.Status.Image, Images: []string{}}, Unread: append([]Unread{}, f.Unread...),
		Components: []Component{}, Nodes: []Node{}, Tasks: []Task{}, Problems: []Problem{},
	}
	s.components(f)
	s.disks(f)
	if f.Data != nil {
		s.fromStorage(f)
	} else {
		s.fromObject(f)
	}
	s.nodeFacts(f)
	s.judge(f)
	s.problems(f)
	return s
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (s *Status) components(f Facts) {
	order := []string{"controller", link.ComponentMeta, link.ComponentChunk, link.ComponentNode, link.ComponentAttach}
	count := map[string]*Component{}
	for i := range f.Pods {
		p := &f.Pods[i]
		name := link.Component(p)
		if !slices.Contains(order, name) {
			continue
		}
		if count[name] == nil {
			count[name] = &Component{Name: name}
		}
		count[name].Pods++
		if link.Trouble(p) == "" {
			count[name].Ready++
		}
		if name == link.ComponentMeta || name == link.ComponentChunk {
			if image := link.Image(p); image != "" && !slices.Contains(s.Version.Images, image) {
				s.Version.Images = append(s.Version.Images, image)
			}
		}
	}
	slices.Sort(s.Version.Images)
	for _, name := range order {
		if count[name] != nil {
			s.Components = append(s.Components, *count[name])
		}
	}
}

func (s *Status) disks(f Facts) {
	for i := range f.Devices {
		d := &f.Devices[i]
		s.Disks.Known++
		if d.Status.Eligible && d.Status.State == v1alpha1.DeviceActive {
			s.Disks.Eligible++
		}
		if d.Spec.Claim != nil || d.Status.Claim != nil {
			s.Disks.Claimed++
			if d.Status.ClaimState == v1alpha1.Claimed && d.Status.State == v1alpha1.DeviceActive && d.Status.Health != v1alpha1.DeviceFailing && d.Status.DiskID != "" {
				s.Disks.Active++
			}
		}
	}
}

// fromStorage takes what the block service said now.
func (s *Status) fromStorage(f Facts) {
	d := f.Data
	s.Source = "storage"
	if d.AsOf != nil {
		t := d.AsOf.AsTime()
		s.AsOf = &t
	}
	s.ClusterID = or(d.ClusterId, s.ClusterID)
	s.Members = MetaState{Members: len(d.Meta), Leader: d.Leader}
	for _, m := range d.Meta {
		if m.Healthy {
			s.Members.Healthy++
		} else {
			s.add("critical", "meta "+m.Name, or(m.Message, "does not answer"), "see: kubectl describe pod -n "+s.Namespace+" "+m.Name)
		}
	}
	for _, n := range d.Nodes {
		row := Node{Name: n.Name, State: n.State, Mode: n.Mode, Address: n.DataAddress, OwnedVolumes: int(n.OwnedVolumes), Sessions: int(n.Sessions), Version: n.Version, Message: n.Message}
		for _, disk := range d.Disks {
			if disk.Node == n.Name && disk.State != "Removed" {
				row.Disks++
				if disk.State == "Active" {
					row.DisksActive++
				}
			}
		}
		s.Nodes = append(s.Nodes, row)
		switch {
		case n.State != "Online":
			s.add("critical", "node "+n.Name, "its storage service is "+strings.ToLower(or(n.State, "unknown"))+tail(n.Message), "bring the node back; after it returns only missed writes are copied")
		case n.Mode == "maintenance":
			s.add("info", "node "+n.Name, "is in maintenance", "end it with: kubectl iomesh node maintenance "+n.Name+" --end")
		}
	}
	for _, disk := range d.Disks {
		if disk.State != "Active" && disk.State != "Removed" && disk.State != "Drained" {
			severity := "warning"
			if disk.State == "Failed" || disk.State == "Missing" {
				severity = "critical"
			}
			s.add(severity, "disk "+or(disk.Name, disk.Id)+" on "+disk.Node, "is "+strings.ToLower(disk.State)+tail(disk.Message), "")
		}
		if disk.ChecksumErrors > 0 || disk.IoErrors > 0 {
			s.add("warning", "disk "+or(disk.Name, disk.Id)+" on "+disk.Node, fmt.Sprintf("%d I/O errors, %d checksum errors since its start", disk.IoErrors, disk.ChecksumErrors), "plan its replacement")
		}
	}
	s.Space = Space{int64(d.TotalBytes), int64(d.UsedBytes), int64(d.ProvisionedBytes)}
	s.Volumes = Volumes{int(d.Volumes), int(d.VolumesDegraded), int(d.VolumesUnavailable)}
	s.Resync = Resync{int64(d.ResyncBytesLeft), int64(d.ResyncBytesPerSecond)}
	for _, t := range d.Tasks {
		s.Tasks = append(s.Tasks, Task{t.Kind, t.Object, t.State, int64(t.BytesDone), int64(t.BytesTotal), t.Message})
	}
}

func tail(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}

// fromObject takes the operator's last view.
func (s *Status) fromObject(f Facts) {
	st := &f.Cluster.Status
	s.Source = "object"
	if st.MetaAsOf != nil {
		t := st.MetaAsOf.Time
		s.AsOf = &t
	}
	m := st.Summary.MetaSummary
	s.Members = MetaState{Healthy: len(m.AliveHost), Members: int(f.Cluster.Spec.Meta.Replicas), Leader: m.Leader}
	for _, n := range st.Nodes {
		if !slices.Contains(n.Roles, "chunk") && n.State == "" {
			continue
		}
		s.Nodes = append(s.Nodes, Node{Name: n.Name, State: n.State, Mode: n.Mode, Address: n.DataAddress, Disks: int(n.Disks), DisksActive: int(n.DisksActive),
			OwnedVolumes: int(n.OwnedVolumes), Sessions: int(n.Sessions), Version: n.Version, Message: n.Message})
	}
	space := st.Summary.ClusterSummary.SpaceInfo
	s.Space = Space{space.TotalDataCapacity, space.UsedDataSpace, space.ProvisionedDataSpace}
	s.Volumes = Volumes{int(st.Volumes.Total), int(st.Volumes.Degraded), int(st.Volumes.Unavailable)}
	s.Resync = Resync{st.Resync.BytesLeft, st.Resync.BytesPerSecond}
	for _, t := range st.Tasks {
		s.Tasks = append(s.Tasks, Task{t.Kind, t.Object, t.State, t.BytesDone, t.BytesTotal, t.Message})
	}
}

// nodeFacts adds what Kubernetes and the agents say of the nodes.
func (s *Status) nodeFacts(f Facts) {
	ready := map[string]string{}
	for i := range f.Nodes {
		ready[f.Nodes[i].Name] = NodeReady(&f.Nodes[i])
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		n.Kubernetes = or(ready[n.Name], NodeUnknown)
		for _, h := range f.Cluster.Status.Hosts {
			if h.Node == n.Name {
				n.Attach, n.AttachReason = string(h.Attach), h.AttachReason
			}
		}
		if n.Kubernetes == NodeIsNotReady {
			s.add("critical", "node "+n.Name, "Kubernetes says it is not ready", "see: kubectl describe node "+n.Name)
		}
	}
	slices.SortFunc(s.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
}

// What Kubernetes says of a node.
const (
	NodeIsReady    = "Ready"
	NodeIsNotReady = "NotReady"
	NodeCordoned   = "Ready,SchedulingDisabled"
	NodeUnknown    = "Unknown"
)

// NodeReady is what Kubernetes says of a node; NodeIsReady means that it also takes new pods.
func NodeReady(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			switch {
			case c.Status != corev1.ConditionTrue:
				return NodeIsNotReady
			case n.Spec.Unschedulable:
				return NodeCordoned
			}
			return NodeIsReady
		}
	}
	return NodeUnknown
}

func (s *Status) add(severity, object, message, next string) {
	s.Problems = append(s.Problems, Problem{severity, object, message, next})
}
