package diskmap

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

func TestUsableSpaceIsBoundByTheLargestNodes(t *testing.T) {
	for _, c := range []struct {
		name       string
		sizes      []int64 // ascending
		two, three int64
	}{
		{"no node", nil, 0, 0},
		{"one node mirrors nothing", []int64{10}, 0, 0},
		{"two equal nodes", []int64{10, 10}, 10, 0},
		{"a large node beside a small one", []int64{10, 100}, 10, 0},
		{"three equal nodes", []int64{10, 10, 10}, 15, 10},
		{"one large node", []int64{10, 10, 100}, 20, 10},
		{"two large nodes", []int64{10, 100, 100}, 105, 10},
		{"four nodes", []int64{10, 10, 10, 30}, 30, 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			if two, three := usable2(c.sizes), usable3(c.sizes); two != c.two || three != c.three {
				t.Errorf("usable %d at 2 replicas and %d at 3, want %d and %d", two, three, c.two, c.three)
			}
		})
	}
}

func cluster() *v1alpha1.IOMeshCluster {
	return &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "iomesh", UID: "u"}, Spec: v1alpha1.IOMeshClusterSpec{DiskDeploymentMode: v1alpha1.AllFlash}}
}

func device(name string) v1alpha1.BlockDevice {
	return v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BlockDeviceSpec{Node: "n1", Path: "/dev/sdb", Identity: v1alpha1.Identity{Serial: name, SizeBytes: 100}},
		Status: v1alpha1.BlockDeviceStatus{Eligible: true, State: v1alpha1.DeviceActive}}
}

func TestAPlanIsRefusedWhenADiskHasChanged(t *testing.T) {
	devices := []v1alpha1.BlockDevice{device("bd-1")}
	p, err := Make(cluster(), devices, Choice{MountType: v1alpha1.DataStoreWithJournal, AllEligible: true})
	if err != nil || len(p.Takes) != 1 {
		t.Fatal(p, err)
	}
	if err := p.Verify(devices); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		change     func(*v1alpha1.BlockDevice)
	}{
		{"gone", "disappeared", func(d *v1alpha1.BlockDevice) { d.Name = "bd-2" }},
		{"another device", "another device", func(d *v1alpha1.BlockDevice) { d.Spec.Identity.Serial = "other" }},
		{"formatted", "content", func(d *v1alpha1.BlockDevice) { d.Spec.Identity.Filesystem = "xfs" }},
		{"claimed by somebody", "not eligible", func(d *v1alpha1.BlockDevice) { d.Spec.Claim = &v1alpha1.Claim{} }},
		{"mounted", "not eligible", func(d *v1alpha1.BlockDevice) { d.Status.Eligible = false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := []v1alpha1.BlockDevice{*devices[0].DeepCopy()}
			c.change(&now[0])
			if err := p.Verify(now); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestChoicesThatMakeNoSense(t *testing.T) {
	mapped := cluster()
	mapped.Spec.Chunk.DeviceMap = map[v1alpha1.MountType]v1alpha1.DeviceSelection{v1alpha1.DataStoreWithJournal: {Selector: metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}
	for _, c := range []struct {
		name, want string
		cluster    *v1alpha1.IOMeshCluster
		choice     Choice
	}{
		{"nothing chosen", "exactly one", cluster(), Choice{MountType: v1alpha1.DataStoreWithJournal}},
		{"two ways at once", "exactly one", cluster(), Choice{MountType: v1alpha1.DataStoreWithJournal, AllEligible: true, Selector: "a=b"}},
		{"a broken selector", "--selector", cluster(), Choice{MountType: v1alpha1.DataStoreWithJournal, Selector: "a=(b"}},
		{"an unknown mount type", "mount type", cluster(), Choice{MountType: "fast", AllEligible: true}},
		{"a hybrid mount type in a flash cluster with disks", "cannot change", mapped, Choice{MountType: v1alpha1.DataStore, AllEligible: true}},
		{"single disks beside a live selector", "mapped by the selector", mapped, Choice{MountType: v1alpha1.DataStoreWithJournal, AllEligible: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Make(c.cluster, []v1alpha1.BlockDevice{device("bd-1")}, c.choice); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestPlanningChangesNoDevice(t *testing.T) {
	devices := []v1alpha1.BlockDevice{device("bd-1")}
	if _, err := Make(cluster(), devices, Choice{MountType: v1alpha1.DataStoreWithJournal, AllEligible: true}); err != nil {
		t.Fatal(err)
	}
	if len(devices[0].Labels) != 0 {
		t.Error("the caller's device was labelled")
	}
}
