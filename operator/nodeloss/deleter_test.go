package nodeloss

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

const driver = "com.iomesh.csi-driver"

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func node(name string, status corev1.ConditionStatus, ago time.Duration) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: status, LastTransitionTime: metav1.NewTime(now.Add(-ago))}}}}
}

func ownedBy(kind, name string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(kind + name), Controller: &yes}}
}

// volume is a pod with a claim, its volume and its attachment.
func volume(pod, node, csi string, mode corev1.PersistentVolumeAccessMode, owner []metav1.OwnerReference) []client.Object {
	pv := "pv-" + pod
	return []client.Object{
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: pod, UID: types.UID(pod), OwnerReferences: owner},
			Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: pod}}}}},
		},
		&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: pod},
			Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: pv, AccessModes: []corev1.PersistentVolumeAccessMode{mode}},
		},
		&corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: pv},
			Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
				CSI: &corev1.CSIPersistentVolumeSource{Driver: csi, VolumeHandle: pod}}},
		},
		&storagev1.VolumeAttachment{
			ObjectMeta: metav1.ObjectMeta{Name: "va-" + pod, UID: types.UID("va-" + pod)},
			Spec:       storagev1.VolumeAttachmentSpec{Attacher: csi, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}},
		},
	}
}

// world has one pod of each kind on the lost node n1, and one on n2.
func world(lost *corev1.Node, other corev1.ConditionStatus) []client.Object {
	objs := []client.Object{
		lost, node("n2", other, time.Hour),
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "web-1", OwnerReferences: ownedBy("Deployment", "web")}},
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "lone"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "no-volume", OwnerReferences: ownedBy("StatefulSet", "x")}, Spec: corev1.PodSpec{NodeName: "n1"}},
	}
	rwo := corev1.ReadWriteOnce
	for _, v := range [][]client.Object{
		volume("set", "n1", driver, rwo, ownedBy("StatefulSet", "db")),
		volume("deploy", "n1", driver, corev1.ReadWriteOncePod, ownedBy("ReplicaSet", "web-1")),
		volume("bare", "n1", driver, rwo, nil),
		volume("loneset", "n1", driver, rwo, ownedBy("ReplicaSet", "lone")),
		volume("daemon", "n1", driver, rwo, ownedBy("DaemonSet", "d")),
		volume("shared", "n1", driver, corev1.ReadWriteMany, ownedBy("StatefulSet", "sh")),
		volume("foreign", "n1", "other.csi", rwo, ownedBy("StatefulSet", "f")),
		volume("elsewhere", "n2", driver, rwo, ownedBy("StatefulSet", "e")),
	} {
		objs = append(objs, v...)
	}
	return objs
}

func TestOnlyPodsThatThePolicyNamesGo(t *testing.T) {
	long := 2 * time.Minute
	for name, tc := range map[string]struct {
		policy Policy
		lost   *corev1.Node
		other  corev1.ConditionStatus
		want   []string
	}{
		"nothing by default":                     {None, node("n1", corev1.ConditionUnknown, long), corev1.ConditionTrue, nil},
		"pods of StatefulSets":                   {StatefulSet, node("n1", corev1.ConditionUnknown, long), corev1.ConditionTrue, []string{"set"}},
		"pods of Deployments":                    {Deployment, node("n1", corev1.ConditionFalse, long), corev1.ConditionTrue, []string{"deploy"}},
		"both":                                   {Both, node("n1", corev1.ConditionUnknown, long), corev1.ConditionTrue, []string{"deploy", "set"}},
		"none before the latency has passed":     {Both, node("n1", corev1.ConditionUnknown, 80*time.Second), corev1.ConditionTrue, nil},
		"none while the node is Ready":           {Both, node("n1", corev1.ConditionTrue, long), corev1.ConditionTrue, nil},
		"none while no other node could take it": {Both, node("n1", corev1.ConditionUnknown, long), corev1.ConditionUnknown, nil},
		"none of a node that never reported":     {Both, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, corev1.ConditionTrue, nil},
	} {
		t.Run(name, func(t *testing.T) {
			objs := world(tc.lost, tc.other)
			c := newClient(t, objs)
			d := &Deleter{Client: c, Events: events.NewFakeRecorder(100), Log: slog.New(slog.DiscardHandler), Driver: driver, Policy: tc.policy, Latency: 90 * time.Second, Now: func() time.Time { return now }}
			for range 2 { // a pass that follows finds nothing more
				if err := d.Pass(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got := gone(t, c, objs); !slices.Equal(got, tc.want) {
				t.Errorf("gone are %v, want %v", got, tc.want)
			}
		})
	}
}

// newClient knows the field that pods are listed by.
func newClient(t *testing.T, objs []client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objs...).
		WithIndex(&corev1.Pod{}, "spec.nodeName", func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).Build()
}

// gone are the pods that are not there any more. Each has lost its attachment, and no other has.
func gone(t *testing.T, c client.Client, objs []client.Object) []string {
	t.Helper()
	var out []string
	for _, o := range objs {
		switch o.(type) {
		case *corev1.Pod:
			if client.IgnoreNotFound(c.Get(t.Context(), client.ObjectKeyFromObject(o), &corev1.Pod{})) != nil {
				t.Fatal("get failed")
			}
			if c.Get(t.Context(), client.ObjectKeyFromObject(o), &corev1.Pod{}) != nil {
				out = append(out, o.GetName())
			}
		}
	}
	slices.Sort(out)
	for _, o := range objs {
		if _, ok := o.(*storagev1.VolumeAttachment); !ok {
			continue
		}
		detached := c.Get(t.Context(), client.ObjectKeyFromObject(o), &storagev1.VolumeAttachment{}) != nil
		if pod := strings.TrimPrefix(o.GetName(), "va-"); detached != slices.Contains(out, pod) {
			t.Errorf("attachment of %s detached: %t", pod, detached)
		}
	}
	return out
}

func TestParseNamesThePolicies(t *testing.T) {
	if p, err := Parse("delete-statefulset-pod"); err != nil || p != StatefulSet {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := Parse("delete-pods"); err == nil || !strings.Contains(err.Error(), string(Both)) {
		t.Errorf("an unknown policy: %v", err)
	}
}
