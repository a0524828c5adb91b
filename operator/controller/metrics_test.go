package controller

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

func TestMetricsTellWhatTheObjectsSay(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	cluster := &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}, Status: v1alpha1.IOMeshClusterStatus{
		Phase: v1alpha1.PhaseDegraded, Health: v1alpha1.HealthAtRisk, Conditions: []metav1.Condition{{Type: "Ready", Status: "True", Reason: "Serving"}}}}
	device := &v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "ns"}, Status: v1alpha1.BlockDeviceStatus{State: v1alpha1.DeviceActive, ClaimState: v1alpha1.Claimed}}
	elsewhere := &v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "other"}, Status: v1alpha1.BlockDeviceStatus{ClaimState: v1alpha1.Claimed}}
	c := NewCollector(fake.NewClientBuilder().WithScheme(scheme).WithObjects(cluster, device, elsewhere).WithStatusSubresource(cluster, device, elsewhere).Build(), "ns")
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"iomesh_operator_cluster_condition c Serving Ready": 1, "iomesh_operator_cluster_health c AtRisk": 1, "iomesh_operator_cluster_phase c Degraded": 1,
		"iomesh_operator_devices Claimed": 1, "iomesh_operator_devices Unclaimed": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s = %v (there: %v), want %v; have %v", name, v, ok, want, got)
		}
	}
}
