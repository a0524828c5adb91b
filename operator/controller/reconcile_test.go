package controller

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/certs"
	"github.com/iomesh/iomesh/operator/desired"
)

// installed is a world with a Ready cluster of three nodes.
func installed(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 3)
	w.cluster("iomesh", nil)
	w.until("Ready with three disks", func() bool {
		s := w.get("iomesh").Status
		return s.Phase == v1alpha1.PhaseReady && s.Columns.Disks == "3/3" && s.TaskInProcess == ""
	})
	w.missingMost = 0
	return w
}

func TestInstall(t *testing.T) {
	w := installed(t)
	c := w.get("iomesh")
	for name, obj := range map[string]client.Object{
		v1alpha1.SecretCA: &corev1.Secret{}, v1alpha1.SecretMetaTLS: &corev1.Secret{}, v1alpha1.SecretChunkTLS: &corev1.Secret{}, v1alpha1.SecretNodeTLS: &corev1.Secret{},
		v1alpha1.SecretControllerTLS: &corev1.Secret{}, v1alpha1.SecretAdminTLS: &corev1.Secret{}, v1alpha1.ConfigMapEndpoints: &corev1.ConfigMap{},
		"iomesh-meta": &appsv1.StatefulSet{}, "iomesh-node": &appsv1.DaemonSet{}, "iomesh-attach": &appsv1.DaemonSet{},
		"iomesh-chunk-n1": &corev1.Pod{}, "iomesh-chunk-n2": &corev1.Pod{}, "iomesh-chunk-n3": &corev1.Pod{},
		"iomesh-meta-iomesh-system-iomesh-2": &corev1.PersistentVolume{}, "iomesh-chunk": &policyv1.PodDisruptionBudget{},
	} {
		if !w.exists(obj, name) {
			t.Errorf("%T %s was not made", obj, name)
		}
	}
	var endpoints corev1.ConfigMap
	w.exists(&endpoints, v1alpha1.ConfigMapEndpoints)
	if got := endpoints.Data["meta"]; got != "10.0.0.1:10100,10.0.0.2:10100,10.0.0.3:10100" {
		t.Errorf("endpoints %s", got)
	}
	var ca corev1.Secret
	w.exists(&ca, v1alpha1.SecretCA)
	if id := string(ca.Data[certs.KeyClusterID]); id == "" || id != c.Status.ClusterID || endpoints.Data["clusterID"] != id {
		t.Errorf("cluster ids differ: %s in the Secret, %s in the status, %s in the endpoints", id, c.Status.ClusterID, endpoints.Data["clusterID"])
	}
	for _, n := range []string{"bd-n1", "bd-n2", "bd-n3"} {
		if cl := w.device(n).Spec.Claim; cl == nil || cl.ClusterRef.ClusterID != c.Status.ClusterID || cl.Fingerprint == "" {
			t.Errorf("claim of %s: %+v", n, cl)
		}
	}
	if !w.said("PhaseReady") || !w.said("DiskClaimed") {
		t.Errorf("events:\n%s", strings.Join(w.events, "\n"))
	}
}

func TestAnIdleClusterIsLeftAlone(t *testing.T) {
	w := installed(t)
	before := w.get("iomesh").ResourceVersion
	var pod corev1.Pod
	w.exists(&pod, "iomesh-chunk-n1")
	events := len(w.events)
	for range 5 {
		w.pass("iomesh")
	}
	var after corev1.Pod
	w.exists(&after, "iomesh-chunk-n1")
	if w.get("iomesh").ResourceVersion != before || after.UID != pod.UID || len(w.events) != events {
		t.Errorf("five idle passes changed something: events %v", w.events[events:])
	}
}

func TestADeletedChunkPodComesBack(t *testing.T) {
	w := installed(t)
	w.must(w.c.Delete(t.Context(), &corev1.Pod{ObjectMeta: inNamespace("iomesh-chunk-n2")}))
	w.until("the pod again", func() bool { return w.exists(&corev1.Pod{}, "iomesh-chunk-n2") })
}

func TestACordonedNodeGetsItsChunkBackAfterUncordon(t *testing.T) {
	w := installed(t)
	cordon := func(on bool) {
		var n corev1.Node
		w.must(w.c.Get(t.Context(), client.ObjectKey{Name: "n2"}, &n))
		n.Spec.Unschedulable = on
		w.must(w.c.Update(t.Context(), &n))
	}
	cordon(true)
	w.must(w.c.Delete(t.Context(), &corev1.Pod{ObjectMeta: inNamespace("iomesh-chunk-n2")}))
	for range 5 {
		w.pass("iomesh")
	}
	if w.exists(&corev1.Pod{}, "iomesh-chunk-n2") {
		t.Fatal("the chunk came back to a cordoned node: kubectl drain would never end")
	}
	if c := meta.FindStatusCondition(w.get("iomesh").Status.Conditions, v1alpha1.ConditionProgressing); !strings.Contains(c.Message, "kubectl uncordon n2") {
		t.Errorf("the status does not say what to do: %s", c.Message)
	}
	cordon(false)
	w.until("the pod again", func() bool { return w.exists(&corev1.Pod{}, "iomesh-chunk-n2") })
}

func TestARollingUpdateStopsOneChunkAtATime(t *testing.T) {
	w := installed(t)
	w.storage.volumes = []*storagedv1.Volume{{Name: "pvc-1"}}
	c := w.get("iomesh")
	c.Spec.Image = "iomesh/iomesh:v2"
	w.must(w.c.Update(t.Context(), c))
	w.until("all chunks on v2", func() bool {
		s := w.get("iomesh").Status
		for _, image := range s.RunningImages.Chunk {
			if image != "iomesh/iomesh:v2" {
				return false
			}
		}
		return len(s.RunningImages.Chunk) == 3 && s.UpdatingNode == "" && s.TaskInProcess == ""
	})
	if w.missingMost > 1 {
		t.Errorf("%d chunks were away at once", w.missingMost)
	}
	var modes []string
	for _, call := range w.storage.calls {
		if !slices.Contains(modes, call) {
			modes = append(modes, call)
		}
	}
	if got := strings.Join(modes, ", "); got != "maintenance n1, active n1, maintenance n2, active n2, maintenance n3, active n3" {
		t.Errorf("calls: %s", got)
	}
}

func TestAPausedUpdateFinishesItsNodeAndWaits(t *testing.T) {
	w := installed(t)
	w.storage.volumes = []*storagedv1.Volume{{Name: "pvc-1"}}
	c := w.get("iomesh")
	c.Spec.Image = "iomesh/iomesh:v2"
	w.must(w.c.Update(t.Context(), c))
	w.until("the first node under way", func() bool { return w.get("iomesh").Status.UpdatingNode == "n1" })
	pause := func(why string) {
		c := w.get("iomesh")
		c.Annotations = map[string]string{v1alpha1.AnnotationPauseUpdate: why}
		if why == "" {
			c.Annotations = nil
		}
		w.must(w.c.Update(t.Context(), c))
	}
	updated := func() (n int) {
		for _, image := range w.get("iomesh").Status.RunningImages.Chunk {
			if image == "iomesh/iomesh:v2" {
				n++
			}
		}
		return n
	}
	pause("freeze for the sale")
	for range 15 {
		w.pass("iomesh")
	}
	s := w.get("iomesh").Status
	if updated() != 1 || s.UpdatingNode != "" || w.storage.modes["n1"] != "active" || !strings.Contains(s.TaskInProcess, "freeze for the sale") {
		t.Fatalf("%d updated, node %q under way, mode %q, task %q", updated(), s.UpdatingNode, w.storage.modes["n1"], s.TaskInProcess)
	}
	var sts appsv1.StatefulSet
	if !w.exists(&sts, "iomesh-meta") || sts.Spec.UpdateStrategy.RollingUpdate == nil || *sts.Spec.UpdateStrategy.RollingUpdate.Partition != 3 {
		t.Error("the metadata members are not held")
	}
	pause("")
	w.until("all updated", func() bool { return updated() == 3 && w.get("iomesh").Status.UpdatingNode == "" })
	w.pass("iomesh")
	var after appsv1.StatefulSet
	if !w.exists(&after, "iomesh-meta") || after.Spec.UpdateStrategy.RollingUpdate != nil && ptrTo(after.Spec.UpdateStrategy.RollingUpdate.Partition) != 0 {
		t.Error("the metadata members are still held")
	}
}

func ptrTo(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func TestAnUpdateWaitsWhileNobodyKnowsTheRedundancy(t *testing.T) {
	w := installed(t)
	w.storage.silent = true
	c := w.get("iomesh")
	c.Spec.Image = "iomesh/iomesh:v2"
	w.must(w.c.Update(t.Context(), c))
	for range 10 {
		w.pass("iomesh")
	}
	if w.missingMost > 0 {
		t.Error("a serving chunk was stopped on a guess")
	}
	if s := w.get("iomesh").Status; s.Phase != v1alpha1.PhaseError || s.Health != v1alpha1.HealthAtRisk {
		t.Errorf("phase %s, health %s", s.Phase, s.Health)
	}
}

func TestADiskTakenOutOfTheMapIsDrainedBeforeItIsReleased(t *testing.T) {
	w := installed(t)
	c := w.get("iomesh")
	sel := c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal]
	sel.Exclude = []string{"bd-n3"}
	c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal] = sel
	w.must(w.c.Update(t.Context(), c))
	w.until("the drain", func() bool { return w.storage.disks["disk-bd-n3"].GetState() == diskDraining })
	for range 5 {
		w.pass("iomesh")
	}
	if w.device("bd-n3").Spec.Claim == nil {
		t.Fatal("the claim was removed while replicas were still on the disk")
	}
	if s := w.get("iomesh").Status; !strings.Contains(s.TaskInProcess, "bd-n3 on n3: draining") {
		t.Errorf("task %q", s.TaskInProcess)
	}
	w.storage.disks["disk-bd-n3"].State = diskDrained
	w.until("the disk forgotten and its node's chunk gone", func() bool {
		return w.storage.disks["disk-bd-n3"] == nil && !w.exists(&corev1.Pod{}, "iomesh-chunk-n3") && w.storage.nodes["n3"] == nil
	})
	if w.device("bd-n3").Spec.Claim != nil || !w.said("DiskReleased") {
		t.Error("the device is still claimed, or nothing said so")
	}
	w.until("Ready with two", func() bool {
		s := w.get("iomesh").Status
		return s.Phase == v1alpha1.PhaseReady && s.Columns.Disks == "2/2" && s.Columns.Nodes == "2/2"
	})
}

// A disk that has failed cannot be drained: it is given back when its replicas have been made elsewhere.
func TestAFailedDiskIsReleasedWhenNothingIsOnIt(t *testing.T) {
	w := installed(t)
	d := w.storage.disks["disk-bd-n3"]
	d.State, d.Replicas, d.Message = diskFailed, 2, "fenced"
	c := w.get("iomesh")
	sel := c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal]
	sel.Exclude = []string{"bd-n3"}
	c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal] = sel
	w.must(w.c.Update(t.Context(), c))
	for range 5 {
		w.pass("iomesh")
	}
	if s := w.get("iomesh").Status; w.device("bd-n3").Spec.Claim == nil || !strings.Contains(s.TaskInProcess, "2 replicas are still to be made elsewhere") {
		t.Fatalf("given back with replicas on it, or nothing said so: %q", s.TaskInProcess)
	}
	d.Replicas = 0
	w.until("the disk forgotten", func() bool { return w.storage.disks["disk-bd-n3"] == nil && w.device("bd-n3").Spec.Claim == nil })
}

// A node that is deleted from Kubernetes has no agent that could erase its disks.
func TestANodeThatLeftKubernetesIsForgottenWithItsDisks(t *testing.T) {
	w := installed(t)
	w.agentsAway = true
	w.must(w.c.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n3"}}))
	w.storage.nodes["n3"].State, w.storage.disks["disk-bd-n3"].State = "Offline", diskMissing
	w.until("the drain of its disk", func() bool { return w.storage.disks["disk-bd-n3"].GetState() == diskDraining })
	if !w.exists(&v1alpha1.BlockDevice{}, "bd-n3") {
		t.Fatal("the device was forgotten while its replicas were still needed")
	}
	w.storage.disks["disk-bd-n3"].State = diskDrained
	w.until("disk, device and node forgotten", func() bool {
		return w.storage.disks["disk-bd-n3"] == nil && w.storage.nodes["n3"] == nil && !w.exists(&v1alpha1.BlockDevice{}, "bd-n3")
	})
}

func TestADrainEndsWhenTheDiskIsWantedAgain(t *testing.T) {
	w := installed(t)
	exclude := func(names ...string) {
		c := w.get("iomesh")
		sel := c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal]
		sel.Exclude = names
		c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal] = sel
		w.must(w.c.Update(t.Context(), c))
	}
	exclude("bd-n3")
	w.until("the drain", func() bool { return w.storage.disks["disk-bd-n3"].GetState() == diskDraining })
	exclude()
	w.until("active again", func() bool { return w.storage.disks["disk-bd-n3"].GetState() == diskActive })
}

func TestDeletionIsRefusedWhileVolumesExist(t *testing.T) {
	w := installed(t)
	w.storage.volumes = []*storagedv1.Volume{{Name: "pvc-b"}, {Name: "pvc-a"}}
	w.must(w.c.Delete(t.Context(), w.get("iomesh")))
	for range 5 {
		w.pass("iomesh")
	}
	s := w.get("iomesh").Status
	if s.Phase != v1alpha1.PhaseDeleting || !strings.Contains(s.TaskInProcess, "2 volumes exist: pvc-a, pvc-b") || !w.said("VolumesExist") {
		t.Errorf("phase %s, task %q", s.Phase, s.TaskInProcess)
	}
	if w.device("bd-n1").Spec.Claim == nil || !w.exists(&corev1.Pod{}, "iomesh-chunk-n1") {
		t.Fatal("a refused deletion took something away")
	}

	w.storage.silent = true
	w.storage.volumes = nil
	for range 5 {
		w.pass("iomesh")
	}
	if w.device("bd-n1").Spec.Claim == nil {
		t.Fatal("a disk was released without knowing that nothing needs it")
	}
	w.storage.silent = false

	// The agents are away: nothing that they need may go.
	w.agentsAway = true
	for range 5 {
		w.pass("iomesh")
	}
	if !w.exists(&appsv1.DaemonSet{}, "iomesh-node") || !strings.Contains(w.get("iomesh").Status.TaskInProcess, "waiting for the agents") {
		t.Fatalf("did not wait for the agents: %s", w.get("iomesh").Status.TaskInProcess)
	}
	w.agentsAway = false
	gone := func() bool { return !w.exists(&v1alpha1.IOMeshCluster{}, "iomesh") }
	for range 30 {
		if gone() {
			break
		}
		w.pass("iomesh")
	}
	if !gone() {
		t.Fatalf("still there, waiting for: %s", w.get("iomesh").Status.TaskInProcess)
	}
	var pods corev1.PodList
	var pvs corev1.PersistentVolumeList
	var pvcs corev1.PersistentVolumeClaimList
	var devices v1alpha1.BlockDeviceList
	for _, l := range []client.ObjectList{&pods, &pvs, &pvcs, &devices} {
		w.must(w.c.List(t.Context(), l))
	}
	if n := len(pods.Items) + len(pvs.Items) + len(pvcs.Items) + len(devices.Items); n != 0 {
		t.Errorf("left: %d pods, %d volumes, %d claims, %d devices", len(pods.Items), len(pvs.Items), len(pvcs.Items), len(devices.Items))
	}
}

func TestDeletionGoesOnWithoutMembersWhenTheLossIsAccepted(t *testing.T) {
	w := installed(t)
	w.storage.silent = true
	c := w.get("iomesh")
	c.Annotations = map[string]string{v1alpha1.AnnotationAcceptLoss: "iomesh"}
	w.must(w.c.Update(t.Context(), c))
	w.must(w.c.Delete(t.Context(), w.get("iomesh")))
	for range 30 {
		if !w.exists(&v1alpha1.IOMeshCluster{}, "iomesh") {
			return
		}
		w.pass("iomesh")
	}
	t.Fatalf("still there, waiting for: %s", w.get("iomesh").Status.TaskInProcess)
}

func TestALostIdentityIsNotReplacedByANewOne(t *testing.T) {
	w := installed(t)
	w.must(w.c.Delete(t.Context(), &corev1.Secret{ObjectMeta: inNamespace(v1alpha1.SecretCA)}))
	id := w.get("iomesh").Status.ClusterID
	for range 5 {
		w.pass("iomesh")
	}
	if w.exists(&corev1.Secret{}, v1alpha1.SecretCA) {
		t.Fatal("a new identity was made: the disks of the old one would be strangers")
	}
	s := w.get("iomesh").Status
	if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionDegraded); c.Status != "True" || !strings.Contains(c.Message, "restore the Secret") || s.ClusterID != id {
		t.Errorf("degraded is %s: %s; cluster id %q", c.Status, c.Message, s.ClusterID)
	}
}

func TestASecondClusterOfTheNamespaceIsRefused(t *testing.T) {
	w := installed(t)
	w.cluster("another", nil)
	w.pass("another")
	s := w.get("another").Status
	if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady); s.Phase != v1alpha1.PhaseError || c.Reason != "AnotherCluster" || !strings.Contains(c.Message, "belongs to the cluster iomesh") {
		t.Errorf("phase %s, condition %+v", s.Phase, c)
	}
	w.pass("iomesh")
	if s := w.get("iomesh").Status; s.Phase != v1alpha1.PhaseReady {
		t.Errorf("the first cluster is %s now", s.Phase)
	}
}

func TestTooFewNodesAreWaitedFor(t *testing.T) {
	w := newWorld(t, 2)
	w.cluster("iomesh", nil)
	for range 5 {
		w.pass("iomesh")
	}
	s := w.get("iomesh").Status
	if s.Phase != v1alpha1.PhaseInstalling || !strings.Contains(s.TaskInProcess, "meta.replicas is 3 and only 2 nodes are suitable") {
		t.Errorf("phase %s, task %q", s.Phase, s.TaskInProcess)
	}
	if w.exists(&appsv1.StatefulSet{}, desired.MetaName) {
		t.Error("members were started with a static membership that is not complete")
	}
}

// Status hosts are the agents': the operator's writes must leave them.
func TestTheAgentsPartOfTheStatusSurvives(t *testing.T) {
	w := installed(t)
	c := w.get("iomesh")
	c.Status.Hosts = []v1alpha1.HostStatus{{Node: "n1", Attach: v1alpha1.AttachUserspace, AttachReason: "no kernel initiator"}}
	w.must(w.c.Status().Update(t.Context(), c, client.FieldOwner("iomesh-agent-n1")))
	w.storage.nodes["n3"].Sessions = 7
	w.pass("iomesh")
	w.pass("iomesh")
	s := w.get("iomesh").Status
	if len(s.Hosts) != 1 || s.Hosts[0].AttachReason != "no kernel initiator" {
		t.Errorf("hosts became %+v", s.Hosts)
	}
	if s.Nodes[2].Sessions != 7 {
		t.Errorf("the status was not written: %+v", s.Nodes[2])
	}
}

func inNamespace(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }
