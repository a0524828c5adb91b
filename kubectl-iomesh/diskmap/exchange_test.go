package diskmap

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

func TestAReplacementIsFoundAgainHoweverFarItHasCome(t *testing.T) {
	claim := func(uid string) *v1alpha1.Claim {
		return &v1alpha1.Claim{UID: uid, ClusterRef: v1alpha1.ClusterRef{Name: "iomesh", UID: "uid-1"}, MountType: v1alpha1.DataStoreWithJournal}
	}
	disk := func(name string) v1alpha1.BlockDevice {
		return v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BlockDeviceSpec{Node: "n1", Path: "/dev/" + name, Identity: v1alpha1.Identity{SizeBytes: 1 << 30}},
			Status: v1alpha1.BlockDeviceStatus{State: v1alpha1.DeviceActive, Eligible: true, ClaimState: v1alpha1.Unclaimed}}
	}
	for _, c := range []struct {
		name string
		set  func(older, newer, spare *v1alpha1.BlockDevice)
		out  bool   // the old disk is excluded from the map
		want string // "": it must be named
	}{
		{"nothing has been chosen, and two disks could be", func(*v1alpha1.BlockDevice, *v1alpha1.BlockDevice, *v1alpha1.BlockDevice) {}, false, ""},
		{"it was chosen", func(_, newer, _ *v1alpha1.BlockDevice) {
			newer.Annotations = map[string]string{AnnotationReplaces: "old/c"}
		}, false, "new"},
		{"it was taken before the old one was excluded", func(_, newer, _ *v1alpha1.BlockDevice) {
			newer.Annotations, newer.Spec.Claim = map[string]string{AnnotationReplaces: "old/c"}, claim("n")
			newer.Status.Eligible, newer.Status.ClaimState = false, v1alpha1.Claimed
		}, false, "new"},
		{"the old one has left, and is eligible again", func(older, newer, _ *v1alpha1.BlockDevice) {
			newer.Annotations, newer.Spec.Claim = map[string]string{AnnotationReplaces: "old/c"}, claim("n")
			newer.Status.Eligible, newer.Status.ClaimState = false, v1alpha1.Claimed
			older.Spec.Claim, older.Status.Eligible, older.Status.ClaimState = nil, true, v1alpha1.Unclaimed
		}, true, "new"},
		{"the old one is in use again, and is replaced another time", func(older, newer, _ *v1alpha1.BlockDevice) {
			newer.Annotations, newer.Spec.Claim = map[string]string{AnnotationReplaces: "old/c"}, claim("n")
			newer.Status.Eligible, newer.Status.ClaimState = false, v1alpha1.Claimed
			older.Spec.Claim = claim("later")
		}, false, "spare"},
		{"another disk was replaced by it", func(_, newer, _ *v1alpha1.BlockDevice) {
			newer.Annotations = map[string]string{AnnotationReplaces: "other/c"}
		}, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			devices := []v1alpha1.BlockDevice{disk("old"), disk("new"), disk("spare")}
			devices[0].Spec.Claim, devices[0].Status.Eligible, devices[0].Status.ClaimState = claim("c"), false, v1alpha1.Claimed
			c.set(&devices[0], &devices[1], &devices[2])
			cluster := &v1alpha1.IOMeshCluster{Spec: v1alpha1.IOMeshClusterSpec{Chunk: v1alpha1.ChunkSpec{DeviceMap: map[v1alpha1.MountType]v1alpha1.DeviceSelection{v1alpha1.DataStoreWithJournal: {}}}}}
			if c.out {
				cluster.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal] = v1alpha1.DeviceSelection{Exclude: []string{"old"}}
			}
			if got, err := Substitute(cluster, devices, "old"); got != c.want || (err != nil) != (c.want == "") {
				t.Errorf("%q, error %v; want %q", got, err, c.want)
			}
		})
	}
}
