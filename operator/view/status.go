package view

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/operator/placement"
)

// Status computes the status. status.hosts is the agents' and stays empty here.
func Status(f Facts) v1alpha1.IOMeshClusterStatus {
	st := v1alpha1.IOMeshClusterStatus{
		ObservedGeneration: f.Cluster.Generation,
		ClusterID:          f.ClusterID,
		Image:              f.Image,
		UpdatingNode:       f.Updating,
		Conditions:         slices.Clone(f.Cluster.Status.Conditions),
	}
	st.AttachedDevices = attachedDevices(&f)
	st.Nodes = nodes(&f, st.AttachedDevices)
	st.ReadyReplicas, st.RunningImages = pods(&f)
	fromStorage(&f, &st)
	st.Columns = columns(&f, &st)

	degraded := degradations(&f, &st)
	progress := progress(&f, &st)
	notReady := notReady(&f, &st)
	now := metav1.NewTime(f.Now)
	set := func(kind string, status bool, p Problem) {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: p.Reason, Message: bounded(p.Message),
			ObservedGeneration: f.Cluster.Generation, LastTransitionTime: now}
		if status {
			c.Status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&st.Conditions, c)
	}
	if notReady != nil {
		set(v1alpha1.ConditionReady, false, *notReady)
	} else {
		set(v1alpha1.ConditionReady, true, ready(&f, &st))
	}
	if progress != nil {
		set(v1alpha1.ConditionProgressing, true, *progress)
		st.TaskInProcess = bounded(progress.Message)
	} else {
		set(v1alpha1.ConditionProgressing, false, Problem{"Idle", "everything that is wished for has been done"})
	}
	if len(degraded) > 0 {
		texts := make([]string, 0, len(degraded))
		for _, d := range degraded {
			texts = append(texts, d.Message)
		}
		set(v1alpha1.ConditionDegraded, true, Problem{degraded[0].Reason, strings.Join(texts, "; ")})
	} else {
		set(v1alpha1.ConditionDegraded, false, Problem{"AsWished", "nothing that is wished for is missing"})
	}
	mapped, p := devicesMapped(&f, &st)
	set(v1alpha1.ConditionDevicesMapped, mapped, p)

	st.Phase = phase(&f, &st, notReady != nil, len(degraded) > 0)
	return st
}

// phase is the one word.
func phase(f *Facts, st *v1alpha1.IOMeshClusterStatus, notReady, degraded bool) v1alpha1.Phase {
	switch {
	case f.Cluster.DeletionTimestamp != nil:
		return v1alpha1.PhaseDeleting
	case st.Health == v1alpha1.HealthUnavailable:
		return v1alpha1.PhaseError
	case notReady && (!f.everReady() || f.Storage != nil && len(f.Storage.GetDisks()) == 0):
		return v1alpha1.PhaseInstalling
	case notReady:
		return v1alpha1.PhaseError
	case degraded:
		return v1alpha1.PhaseDegraded
	}
	return v1alpha1.PhaseReady
}

// notReady says why volumes cannot be used now, nil: they can.
func notReady(f *Facts, st *v1alpha1.IOMeshClusterStatus) *Problem {
	switch {
	case f.Deleting != nil:
		return &Problem{"Deleting", "the cluster is being deleted"}
	case f.Storage == nil && len(f.Members) == 0 && len(f.Blocked) > 0:
		return &f.Blocked[0]
	case f.Storage == nil:
		return &Problem{"MetaUnavailable", metaSilent(f, st)}
	case st.Health == v1alpha1.HealthUnavailable:
		return &Problem{"DataUnavailable", fmt.Sprintf("%s. %s", orUnknown(st.HealthReason), st.NextStep)}
	}
	online, active := 0, 0
	for _, n := range f.Storage.GetNodes() {
		if n.GetState() == "Online" {
			online++
		}
	}
	for _, d := range f.Storage.GetDisks() {
		if d.GetState() == "Active" {
			active++
		}
	}
	switch {
	case noDeviceMap(f, active):
		// Everything wished for is there: Helm and GitOps tools must not wait for a choice that comes after the installation.
	case active == 0 && len(f.Decision.Held)+len(f.Decision.Claims) == 0:
		msg := "no disk is selected and eligible"
		if f.Decision.Selected == 0 {
			msg = fmt.Sprintf("spec.chunk.deviceMap selects none of the %d block devices", len(f.Devices))
		} else if why := f.Decision.Explain(); why != "" {
			msg += ": " + why
		}
		return &Problem{"NoDisks", msg}
	case online == 0:
		return &Problem{"NoChunks", "no data server is online"}
	case active == 0:
		return &Problem{"WaitingForDisks", "no disk is active yet"}
	}
	if nodeSetReady(f) == 0 {
		return &Problem{"NoNodePods", "no pod of the DaemonSet iomesh-node is ready, so no node can use volumes"}
	}
	if want, have := nodeSetWant(f), nodeSetReady(f); have < want && !f.everReady() {
		return &Problem{"WaitingForNodePods", fmt.Sprintf("%d of %d pods of the DaemonSet iomesh-node are ready", have, want)}
	}
	return nil
}

// ready is the reason of a Ready condition that is True.
func ready(f *Facts, st *v1alpha1.IOMeshClusterStatus) Problem {
	if st.Columns.Disks == "0/0" {
		return Problem{"ReadyForDisks", "no disk is mapped yet: choose disks with kubectl iomesh disk map, or set spec.chunk.deviceMap"}
	}
	return Problem{"Serving", fmt.Sprintf("%s nodes online, %s disks active, %d volumes", st.Columns.Nodes, st.Columns.Disks, f.Storage.GetVolumes())}
}

// noDeviceMap reports whether no disk is wished for and none is there.
func noDeviceMap(f *Facts, active int) bool {
	return active == 0 && len(f.Cluster.Spec.Chunk.DeviceMap) == 0 && len(f.Storage.GetDisks()) == 0
}

func metaSilent(f *Facts, st *v1alpha1.IOMeshClusterStatus) string {
	msg := fmt.Sprintf("the metadata members do not answer (%d of %d pods ready)", st.ReadyReplicas["meta"], len(f.Members))
	if why := podTrouble(f.MetaPods); why != "" {
		return msg + ": " + why
	}
	if f.StorageErr != nil {
		return msg + ": " + f.StorageErr.Error()
	}
	return msg
}

// progress says what the operator is doing or waiting for, nil: nothing.
func progress(f *Facts, st *v1alpha1.IOMeshClusterStatus) *Problem {
	switch {
	case f.Deleting != nil:
		return f.Deleting
	case len(f.Blocked) > 0 && len(f.Members) == 0:
		return &f.Blocked[0]
	case f.Storage == nil:
		return &Problem{"WaitingForMeta", metaSilent(f, st)}
	}
	ready := 0
	var missing []string
	for _, c := range f.Chunks {
		if p := f.ChunkPods[c.Node]; p != nil && podReady(p) {
			ready++
		} else {
			missing = append(missing, c.Node)
		}
	}
	switch {
	case f.Updating != "" || f.Outdated > 0:
		return &Problem{"UpdatingChunks", fmt.Sprintf("%d of %d chunks run the new version; %s", len(f.Chunks)-f.Outdated, len(f.Chunks), f.Waiting)}
	case len(f.Moving) > 0:
		return &Problem{"MovingMembers", strings.Join(append(slices.Clone(f.Moving), f.Draining...), "; ")}
	case len(f.Draining) > 0:
		return &Problem{"ReleasingDisks", strings.Join(f.Draining, "; ")}
	case len(f.Decision.Claims) > 0:
		return &Problem{"ClaimingDisks", fmt.Sprintf("claiming %d disks", len(f.Decision.Claims))}
	case len(missing) > 0:
		msg := fmt.Sprintf("%d of %d chunks are ready; waiting for %s", ready, len(f.Chunks), strings.Join(missing, ", "))
		if f.Waiting != "" {
			msg += ": " + f.Waiting
		}
		if why := chunkTrouble(f); why != "" {
			msg += ": " + why
		}
		return &Problem{"WaitingForChunks", msg}
	}
	if pending := pendingDevices(st); len(pending) > 0 {
		return &Problem{"PreparingDisks", "waiting for the agents and chunks to take up: " + strings.Join(pending, "; ")}
	}
	want, have, updated := nodeSetWant(f), nodeSetReady(f), nodeSetUpdated(f)
	switch {
	case f.NodeSet == nil || want == 0 && len(f.Nodes) > 0:
		return &Problem{"WaitingForNodePods", "the DaemonSet iomesh-node has not started its pods yet"}
	case updated < want:
		return &Problem{"UpdatingNodePods", fmt.Sprintf("%d of %d pods of the DaemonSet iomesh-node run the new version", updated, want)}
	case have < want && !f.everReady():
		return &Problem{"WaitingForNodePods", fmt.Sprintf("%d of %d pods of the DaemonSet iomesh-node are ready", have, want)}
	}
	return nil
}

// degradations lists what is wished for and missing or sick, gravest first.
func degradations(f *Facts, st *v1alpha1.IOMeshClusterStatus) []Problem {
	var out []Problem
	add := func(reason, format string, args ...any) {
		out = append(out, Problem{reason, fmt.Sprintf(format, args...)})
	}
	if f.Storage == nil {
		if f.everReady() {
			add("MetaUnavailable", "%s", metaSilent(f, st))
		}
		return append(out, f.Blocked...)
	}
	if h := Health(f.Storage.GetHealth()); h != v1alpha1.HealthOK && f.Storage.GetVolumes() > 0 {
		add("DataNotHealthy", "data is %s: %s", h, orUnknown(f.Storage.GetReason()))
	}
	for _, m := range f.Storage.GetMeta() {
		if !m.GetHealthy() {
			add("MetaMemberDown", "metadata member %s (%s) is not healthy: %s", m.GetName(), m.GetAddress(), orUnknown(m.GetMessage()))
		}
	}
	for _, n := range st.Nodes {
		if slices.Contains(n.Roles, "chunk") && n.State != "Online" && n.State != "Pending" {
			msg := n.Message
			if !n.KubernetesReady {
				msg = strings.TrimPrefix(msg+"; the Kubernetes node is not ready", "; ")
			}
			add("ChunkOffline", "the chunk of node %s is %s%s", n.Name, strings.ToLower(n.State), suffix(msg))
		}
		if n.State == "Online" && n.Mode == "maintenance" && f.Updating != n.Name {
			add("Maintenance", "node %s is in maintenance mode", n.Name)
		}
	}
	for _, d := range st.AttachedDevices {
		if d.State == "Failed" || d.State == "Missing" || d.State == "Stalled" {
			add("Disk"+d.State, "disk %s on node %s is %s%s", d.Device, d.NodeName, strings.ToLower(d.State), suffix(d.Message))
		}
	}
	if f.everReady() && f.NodeSet != nil {
		if want, have := nodeSetWant(f), nodeSetReady(f); have < want {
			add("NodePodsMissing", "%d of %d pods of the DaemonSet iomesh-node are ready", have, want)
		}
	}
	return append(out, f.Blocked...)
}

// devicesMapped says whether every selected disk is in use.
func devicesMapped(f *Facts, st *v1alpha1.IOMeshClusterStatus) (bool, Problem) {
	for _, b := range f.Blocked {
		if b.Reason == "BadDeviceMap" {
			return false, b
		}
	}
	switch {
	case len(f.Cluster.Spec.Chunk.DeviceMap) == 0:
		return false, Problem{"NoDeviceMap", "spec.chunk.deviceMap is empty: no disk is used"}
	case f.Decision.Selected == 0 && len(f.Devices) == 0:
		return false, Problem{"NoDevices", "the agents have not published any block device yet"}
	case f.Decision.Selected == 0:
		return false, Problem{"NothingSelected", fmt.Sprintf("spec.chunk.deviceMap selects none of the %d block devices: compare its labels with kubectl get bd --show-labels", len(f.Devices))}
	case len(f.Decision.Findings) > 0:
		return false, Problem{"NotAllUsable", fmt.Sprintf("%d of %d selected devices are not used: %s", len(f.Decision.Findings), f.Decision.Selected, f.Decision.Explain())}
	}
	active := 0
	for _, d := range st.AttachedDevices {
		if d.State == "Active" {
			active++
		}
	}
	if active < f.Decision.Selected {
		return false, Problem{"NotAllActive", fmt.Sprintf("%d of %d selected disks are active", active, f.Decision.Selected)}
	}
	return true, Problem{"AllActive", fmt.Sprintf("%d disks are active", active)}
}

// Health translates the data path's word.
func Health(h storagedv1.Health) v1alpha1.HealthState {
	if s, known := status.Of(h); known {
		return v1alpha1.HealthState(s.Word())
	}
	return v1alpha1.HealthUnknown
}

func kubernetesReady(f *Facts) map[string]bool {
	ready := map[string]bool{}
	for i := range f.Nodes {
		ready[f.Nodes[i].Name] = placement.Ready(&f.Nodes[i])
	}
	return ready
}

func orUnknown(s string) string {
	if s == "" {
		return "no reason given"
	}
	return s
}

func suffix(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// bounded keeps a message within what a condition holds.
func bounded(s string) string {
	const most = 4000
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
