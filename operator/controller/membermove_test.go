package controller

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/desired"
)

// movable is a world with a fourth node and three healthy members, of which the first is to leave its node n1.
func movable(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 3)
	w.cluster("iomesh", nil)
	w.until("Ready", func() bool { return w.get("iomesh").Status.Phase == v1alpha1.PhaseReady })
	for _, name := range []string{"iomesh-meta-0", "iomesh-meta-1", "iomesh-meta-2"} {
		w.storage.meta = append(w.storage.meta, &storagedv1.MetaMember{Name: name, Healthy: true})
	}
	w.storage.joined = map[string]bool{}
	return w
}

func (w *world) addNode(name, address string) {
	w.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	w.must(w.c.Create(w.t.Context(), n))
}

func (w *world) leave(name string) {
	w.t.Helper()
	var n corev1.Node
	w.must(w.c.Get(w.t.Context(), client.ObjectKey{Name: name}, &n))
	n.Labels[v1alpha1.LabelLeaving] = "true"
	w.must(w.c.Update(w.t.Context(), &n))
}

func (w *world) volume(ordinal int32) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{}
	if !w.exists(pv, desired.MetaVolumeName(ns, "iomesh", ordinal)) {
		return nil
	}
	return pv
}

func (w *world) memberNode(ordinal int32) string {
	pv := w.volume(ordinal)
	if pv == nil {
		return ""
	}
	m, err := desired.MetaMember(pv)
	w.must(err)
	return m.Node
}

func (w *world) metaSet() *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{}
	w.exists(s, desired.MetaName)
	return s
}

func TestAMemberMovesOffANodeThatLeaves(t *testing.T) {
	w := movable(t)
	w.leave("n1")
	for range 5 {
		w.pass("iomesh")
	}
	if s := w.get("iomesh").Status; w.memberNode(0) != "n1" || !strings.Contains(s.TaskInProcess, "no other node can take it") {
		t.Fatalf("with nowhere to go: on %q, task %q", w.memberNode(0), s.TaskInProcess)
	}
	w.addNode("n4", "10.0.0.4")
	w.until("a new place", func() bool { return w.memberNode(0) == "n4" })
	w.until("the pod there, made from the new list", func() bool {
		var pod corev1.Pod
		return w.exists(&pod, "iomesh-meta-0") && pod.Spec.NodeName == "n4" && slices.Contains(pod.Spec.Containers[0].Command, "--members=iomesh-meta-0=10.0.0.4,iomesh-meta-1=10.0.0.2,iomesh-meta-2=10.0.0.3")
	})
	for range 3 {
		w.pass("iomesh")
	}
	if got := w.metaSet().Spec.UpdateStrategy.Type; got != appsv1.OnDeleteStatefulSetStrategyType {
		t.Errorf("the others may restart (%s) while a member is missing", got)
	}
	if *w.metaSet().Spec.Replicas != 3 {
		t.Errorf("%d replicas", *w.metaSet().Spec.Replicas)
	}
	if path := w.volume(0).Spec.HostPath.Path; path == desired.MetaHostPath("iomesh", 0) {
		t.Errorf("the directory %s may hold a former self", path)
	}
	w.storage.joined["10.0.0.4:10100"] = true
	w.until("done", func() bool {
		return w.metaSet().Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && w.get("iomesh").Status.TaskInProcess == ""
	})
	if w.memberNode(1) != "n2" || w.memberNode(2) != "n3" || !w.said("MemberMoved") {
		t.Errorf("members on %s %s %s", w.memberNode(0), w.memberNode(1), w.memberNode(2))
	}
	var endpoints corev1.ConfigMap
	if w.exists(&endpoints, v1alpha1.ConfigMapEndpoints); !strings.Contains(endpoints.Data["meta"], "10.0.0.4:10100") {
		t.Errorf("endpoints %s", endpoints.Data["meta"])
	}
}

func TestAMemberStaysWhileAnotherIsSick(t *testing.T) {
	w := movable(t)
	w.addNode("n4", "10.0.0.4")
	w.storage.meta[2].Healthy = false
	w.leave("n1")
	for range 5 {
		w.pass("iomesh")
	}
	if w.memberNode(0) != "n1" || !w.exists(&corev1.PersistentVolumeClaim{}, desired.MetaClaimName(0)) {
		t.Fatal("two members of three were away at once")
	}
	w.storage.meta[2].Healthy = true
	w.until("a new place", func() bool { return w.memberNode(0) == "n4" })
	// Only one at a time, whatever else leaves.
	w.leave("n2")
	w.addNode("n5", "10.0.0.5")
	for range 5 {
		w.pass("iomesh")
	}
	if w.memberNode(1) != "n2" {
		t.Fatal("a second member left before the first voted")
	}
	w.storage.joined["10.0.0.4:10100"] = true
	w.until("the second one moves too", func() bool { return w.memberNode(1) == "n5" })
}

func TestAMemberOfANodeThatIsGoneIsReplaced(t *testing.T) {
	w := movable(t)
	w.addNode("n4", "10.0.0.4")
	w.must(w.c.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}))
	for range 3 {
		w.pass("iomesh")
	}
	if w.memberNode(0) != "n1" {
		t.Fatal("a member that is healthy was replaced")
	}
	w.storage.meta[0].Healthy = false
	w.until("a new place", func() bool { return w.memberNode(0) == "n4" })
}

func TestAMemberStaysUntilTheDisksOfItsNodeAreGivenBack(t *testing.T) {
	w := movable(t)
	w.addNode("n4", "10.0.0.4")
	w.until("its disk is used", func() bool { return w.storage.disks["disk-bd-n1"] != nil })
	c := w.get("iomesh")
	sel := c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal]
	sel.Exclude = []string{"bd-n1"}
	c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal] = sel
	w.must(w.c.Update(t.Context(), c))
	w.leave("n1")
	for range 8 {
		w.turn()
		w.pass("iomesh")
	}
	if s := w.get("iomesh").Status; w.memberNode(0) != "n1" || !strings.Contains(s.TaskInProcess, "bd-n1 leaves the node first") {
		t.Fatalf("while the disk drains: on %q, task %q", w.memberNode(0), s.TaskInProcess)
	}
	w.storage.disks["disk-bd-n1"].State = diskDrained
	w.until("a new place", func() bool { return w.memberNode(0) == "n4" })
}
