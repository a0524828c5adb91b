package report

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/status"
)

// A pod whose volume cannot be attached, and what may be behind it.
func stuckPod() WhyFacts {
	now := time.Unix(1_800_000_000, 0)
	pv := "pv-1"
	return WhyFacts{
		Facts: Facts{Now: now, Cluster: &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "iomesh"}},
			Data: &storagedv1.ClusterStatus{Nodes: []*storagedv1.Node{{Name: "n1", State: "Online"}, {Name: "n2", State: "Online"}}, Health: storagedv1.Health_HEALTH_OK}},
		Object: status.Object{Kind: status.KindPod, Name: "db-0"}, Namespace: "shop",
		Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-0", Namespace: "shop"}, Spec: corev1.PodSpec{NodeName: "n1", Volumes: []corev1.Volume{{Name: "data",
			VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-db-0"}}}}},
			Status: corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "db", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}}},
		PVCs: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data-db-0", Namespace: "shop"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: pv}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}},
		PVs: []corev1.PersistentVolume{{ObjectMeta: metav1.ObjectMeta{Name: pv}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: DriverName, VolumeHandle: "id-1"}}}}},
		Attachments: []storagev1.VolumeAttachment{{ObjectMeta: metav1.ObjectMeta{Name: "csi-1"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}},
			Status: storagev1.VolumeAttachmentStatus{AttachError: &storagev1.VolumeError{Message: "the volume is published to n2"}}}},
		Volumes: []*storagedv1.Volume{{Id: "id-1", Name: "vol-1", OwnerNode: "n2", Status: &storagedv1.VolumeStatus{Health: storagedv1.Health_HEALTH_OK}}},
	}
}

func first(t *testing.T, f WhyFacts) string {
	t.Helper()
	w := BuildWhy(f)
	if len(w.Causes) == 0 {
		t.Fatalf("no cause: %+v", w)
	}
	return string(w.Causes[0].Code) + " " + w.Causes[0].Object.Name
}

func TestAPodThatWaitsIsExplainedByWhatIsBehindIt(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*WhyFacts)
		want string
	}{
		{"the attachment fails", func(*WhyFacts) {}, "AttachFailed data-db-0"},
		{"the owner is offline and the volume does not serve", func(f *WhyFacts) {
			f.Data.Nodes[1].State, f.Data.Health = "Offline", storagedv1.Health_HEALTH_UNAVAILABLE
			f.Data.Findings = []*storagedv1.Finding{{Code: "NodeOffline", State: storagedv1.Health_HEALTH_DEGRADED, ObjectKind: "node", Object: "n2", Reason: "nodes offline: n2"}}
			f.Volumes[0].Status.Health = storagedv1.Health_HEALTH_UNAVAILABLE
		}, "NodeOffline n2"},
		{"the metadata members are silent", func(f *WhyFacts) { f.Data, f.Volumes = nil, nil }, "MetadataSilent "},
		{"the claim has no volume", func(f *WhyFacts) {
			f.PVCs[0].Status.Phase, f.PVCs[0].Spec.VolumeName, f.Attachments = corev1.ClaimPending, "", nil
			f.Events = []corev1.Event{{Type: corev1.EventTypeWarning, Reason: "ProvisioningFailed", Message: "no space", InvolvedObject: corev1.ObjectReference{Kind: "PersistentVolumeClaim", Name: "data-db-0"}}}
		}, "ClaimPending data-db-0"},
		{"its node is not ready", func(f *WhyFacts) {
			f.Nodes = []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}}}
		}, "NodeNotReady n1"},
		{"the CSI driver of its node crashes", func(f *WhyFacts) {
			f.Pods = []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "iomesh-node-x", Labels: map[string]string{"app.kubernetes.io/component": "node"}}, Spec: corev1.PodSpec{NodeName: "n1"},
				Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "csi", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}}}}
		}, "ComponentDown iomesh-node-x"},
	} {
		f := stuckPod()
		c.edit(&f)
		if got := first(t, f); got != c.want {
			t.Errorf("%s: %s comes first, want %s", c.name, got, c.want)
		}
	}
}

func TestAHealthyPodNeedsNoExplanation(t *testing.T) {
	f := stuckPod()
	f.Attachments[0].Status = storagev1.VolumeAttachmentStatus{Attached: true}
	f.Pod.Status = corev1.PodStatus{Phase: corev1.PodRunning}
	w := BuildWhy(f)
	if w.State != "OK" || len(w.Causes) != 0 || len(w.Chain) < 4 {
		t.Errorf("%+v", w)
	}
}
