package view

import (
	"cmp"
	"fmt"
	"net"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/devicemap"
)

// tasksMax bounds the tasks in a status.
const tasksMax = 32

// attachedDevices joins claims with the disks that the chunks report.
func attachedDevices(f *Facts) []v1alpha1.AttachedDevice {
	disks := map[string]*storagedv1.Disk{}
	for _, d := range f.Storage.GetDisks() {
		if old := disks[d.GetName()]; old == nil || old.GetState() == "Removed" {
			disks[d.GetName()] = d
		}
	}
	var out []v1alpha1.AttachedDevice
	for i := range f.Devices {
		dev := &f.Devices[i]
		claim := dev.Spec.Claim
		if !devicemap.Owns(f.Cluster, claim) {
			continue
		}
		a := v1alpha1.AttachedDevice{
			Device: dev.Name, MountType: claim.MountType, NodeName: dev.Spec.Node, State: "Pending",
			Message: dev.Status.Message, SizeBytes: dev.Spec.Identity.SizeBytes, UUID: dev.Status.DiskID,
		}
		if d := disks[dev.Name]; d != nil && d.GetState() != "Removed" {
			a.UUID, a.State, a.Replicas = d.GetId(), d.GetState(), int32(d.GetReplicas())
			a.SizeBytes, a.UsedBytes = int64(d.GetSizeBytes()), int64(d.GetUsedBytes())
			if d.GetMessage() != "" {
				a.Message = d.GetMessage()
			}
		} else if a.Message == "" && dev.Status.Usage != nil {
			a.Message = dev.Status.Usage.Message
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b v1alpha1.AttachedDevice) int {
		return cmp.Or(cmp.Compare(a.NodeName, b.NodeName), cmp.Compare(a.Device, b.Device))
	})
	return out
}

// pendingDevices describes claimed disks that are not in use yet.
func pendingDevices(st *v1alpha1.IOMeshClusterStatus) []string {
	var out []string
	for _, d := range st.AttachedDevices {
		if d.State == "Pending" {
			out = append(out, fmt.Sprintf("%s on %s%s", d.Device, d.NodeName, suffix(d.Message)))
		}
	}
	return out
}

// nodes joins storage nodes, metadata nodes and what Kubernetes says of them.
func nodes(f *Facts, devices []v1alpha1.AttachedDevice) []v1alpha1.NodeStatus {
	byName := map[string]*v1alpha1.NodeStatus{}
	get := func(name string) *v1alpha1.NodeStatus {
		if byName[name] == nil {
			byName[name] = &v1alpha1.NodeStatus{Name: name}
		}
		return byName[name]
	}
	for _, c := range f.Chunks {
		n := get(c.Node)
		n.Roles, n.State, n.DataAddress = append(n.Roles, "chunk"), "Pending", c.Address
	}
	for _, m := range f.Members {
		n := get(m.Node)
		n.Roles = append(n.Roles, "meta")
	}
	for _, sn := range f.Storage.GetNodes() {
		n := get(sn.GetName())
		if !slices.Contains(n.Roles, "chunk") {
			n.Roles = append(n.Roles, "chunk")
		}
		n.State, n.Mode, n.Version, n.Message = sn.GetState(), sn.GetMode(), sn.GetVersion(), sn.GetMessage()
		n.OwnedVolumes, n.Sessions = int32(sn.GetOwnedVolumes()), int32(sn.GetSessions())
		if host, _, err := net.SplitHostPort(sn.GetDataAddress()); err == nil {
			n.DataAddress = host
		}
		if sn.GetLastSeen() != nil {
			t := metav1.NewTime(sn.GetLastSeen().AsTime())
			// To the minute while online: a status that changes each second would wake every watcher for nothing.
			if n.State == "Online" {
				t = metav1.NewTime(t.Truncate(60e9))
			}
			n.LastSeen = &t
		}
	}
	ready := kubernetesReady(f)
	for _, d := range devices {
		n := get(d.NodeName)
		n.Disks++
		if d.State == "Active" {
			n.DisksActive++
		}
	}
	out := make([]v1alpha1.NodeStatus, 0, len(byName))
	for _, n := range byName {
		n.KubernetesReady = ready[n.Name]
		slices.Sort(n.Roles)
		out = append(out, *n)
	}
	slices.SortFunc(out, func(a, b v1alpha1.NodeStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// pods counts ready pods and lists images.
func pods(f *Facts) (map[string]int32, v1alpha1.RunningImages) {
	ready := map[string]int32{"meta": 0, "chunk": 0, "node": nodeSetReady(f)}
	images := v1alpha1.RunningImages{Chunk: map[string]string{}, Meta: map[string]string{}}
	image := func(p *corev1.Pod) string {
		if len(p.Spec.Containers) == 0 {
			return ""
		}
		return p.Spec.Containers[0].Image
	}
	for i := range f.MetaPods {
		p := &f.MetaPods[i]
		images.Meta[p.Name] = image(p)
		if podReady(p) {
			ready["meta"]++
		}
	}
	for _, p := range f.ChunkPods {
		images.Chunk[p.Name] = image(p)
		if podReady(p) {
			ready["chunk"]++
		}
	}
	if f.AttachSet != nil {
		ready["attach"] = f.AttachSet.Status.NumberReady
	}
	return ready, images
}

// fromStorage copies what the metadata members say.
func fromStorage(f *Facts, st *v1alpha1.IOMeshClusterStatus) {
	s := f.Storage
	v := judge(f)
	if s == nil {
		st.Health, st.HealthReason = v1alpha1.HealthUnknown, "the metadata members do not answer"
		if f.everReady() {
			st.Health, st.HealthReason, st.NextStep = v1alpha1.HealthState(v.State.Word()), v.Reason(), v.NextStep()
		}
		st.MetaAsOf = f.Cluster.Status.MetaAsOf
		st.Summary = f.Cluster.Status.Summary // the last known, dated by metaAsOf
		st.Summary.MetaSummary.Status = string(v1alpha1.HealthUnknown)
		st.Volumes = f.Cluster.Status.Volumes
		return
	}
	st.Health, st.HealthReason, st.NextStep = v1alpha1.HealthState(v.State.Word()), v.Reason(), v.NextStep()
	asOf := metav1.NewTime(f.Now.Truncate(60e9))
	st.MetaAsOf = &asOf
	st.Resync = v1alpha1.ResyncStatus{BytesLeft: int64(s.GetResyncBytesLeft()), BytesPerSecond: int64(s.GetResyncBytesPerSecond())}
	st.Volumes = v1alpha1.VolumeCounts{Total: int32(s.GetVolumes()), Degraded: int32(s.GetVolumesDegraded()), Unavailable: int32(s.GetVolumesUnavailable())}
	for i, t := range s.GetTasks() {
		if i == tasksMax {
			break
		}
		st.Tasks = append(st.Tasks, v1alpha1.TaskStatus{Kind: t.GetKind(), Object: t.GetObject(), State: t.GetState(),
			BytesDone: int64(t.GetBytesDone()), BytesTotal: int64(t.GetBytesTotal()), Message: t.GetMessage()})
	}

	healthy := 0
	for _, m := range s.GetMeta() {
		if m.GetHealthy() {
			healthy++
			st.Summary.MetaSummary.AliveHost = append(st.Summary.MetaSummary.AliveHost, m.GetAddress())
		}
	}
	st.Summary.MetaSummary.Leader = s.GetLeader()
	st.Summary.MetaSummary.Status = string(v1alpha1.HealthOK)
	if healthy < len(s.GetMeta()) {
		st.Summary.MetaSummary.Status = string(v1alpha1.HealthDegraded)
	}

	perChunk := map[uint32]*v1alpha1.SpaceInfo{}
	total := &st.Summary.ClusterSummary.SpaceInfo
	for _, d := range s.GetDisks() {
		if d.GetState() == "Removed" {
			continue
		}
		if perChunk[d.GetChunk()] == nil {
			perChunk[d.GetChunk()] = &v1alpha1.SpaceInfo{}
		}
		c := perChunk[d.GetChunk()]
		if d.GetState() == "Failed" || d.GetState() == "Missing" {
			c.FailureDataSpace += int64(d.GetSizeBytes())
			total.FailureDataSpace += int64(d.GetSizeBytes())
			continue
		}
		c.TotalDataCapacity += int64(d.GetSizeBytes())
		c.UsedDataSpace += int64(d.GetUsedBytes())
	}
	total.TotalDataCapacity, total.UsedDataSpace = int64(s.GetTotalBytes()), int64(s.GetUsedBytes())
	total.ProvisionedDataSpace = int64(s.GetProvisionedBytes())
	for _, n := range s.GetNodes() {
		host, _, err := net.SplitHostPort(n.GetDataAddress())
		if err != nil {
			host = n.GetDataAddress()
		}
		info := v1alpha1.ChunkInfo{ID: int32(n.GetChunk()), IP: host, Node: n.GetName(), Status: n.GetState()}
		if c := perChunk[n.GetChunk()]; c != nil {
			info.SpaceInfo = *c
		}
		st.Summary.ChunkSummary.Chunks = append(st.Summary.ChunkSummary.Chunks, info)
	}
	slices.SortFunc(st.Summary.ChunkSummary.Chunks, func(a, b v1alpha1.ChunkInfo) int { return cmp.Compare(a.ID, b.ID) })
}

// columns are the strings of kubectl get.
func columns(f *Facts, st *v1alpha1.IOMeshClusterStatus) v1alpha1.Columns {
	online, storage := 0, 0
	for _, n := range st.Nodes {
		if slices.Contains(n.Roles, "chunk") {
			storage++
			if n.State == "Online" {
				online++
			}
		}
	}
	active := 0
	for _, d := range st.AttachedDevices {
		if d.State == "Active" {
			active++
		}
	}
	c := v1alpha1.Columns{Nodes: fmt.Sprintf("%d/%d", online, storage), Disks: fmt.Sprintf("%d/%d", active, len(st.AttachedDevices))}
	if f.Storage == nil {
		c.Nodes, c.Disks = fmt.Sprintf("?/%d", storage), fmt.Sprintf("?/%d", len(st.AttachedDevices))
		return c
	}
	c.Capacity, c.Used = Bytes(f.Storage.GetTotalBytes()), Bytes(f.Storage.GetUsedBytes())
	if left := f.Storage.GetResyncBytesLeft(); left > 0 {
		c.Resync = Bytes(left)
		if rate := f.Storage.GetResyncBytesPerSecond(); rate > 0 {
			c.Resync += " (" + Bytes(rate) + "/s)"
		}
	}
	return c
}

// Bytes writes a size for people: 3 significant digits, binary units.
func Bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1023.5 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	switch {
	case v >= 99.95 || v == float64(int(v)):
		return fmt.Sprintf("%.0f%ciB", v, units[u])
	case v >= 9.995:
		return fmt.Sprintf("%.1f%ciB", v, units[u])
	}
	return fmt.Sprintf("%.2f%ciB", v, units[u])
}

func nodeSetWant(f *Facts) int32 {
	if f.NodeSet == nil {
		return 0
	}
	return f.NodeSet.Status.DesiredNumberScheduled
}

func nodeSetReady(f *Facts) int32 {
	if f.NodeSet == nil {
		return 0
	}
	return f.NodeSet.Status.NumberReady
}

func nodeSetUpdated(f *Facts) int32 {
	if f.NodeSet == nil || f.NodeSet.Status.ObservedGeneration < f.NodeSet.Generation {
		return 0
	}
	return f.NodeSet.Status.UpdatedNumberScheduled
}
