package devicemap

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

const clusterID = "11111111-2222-3333-4444-555555555555"

func cluster(edit func(*v1alpha1.IOMeshClusterSpec)) *v1alpha1.IOMeshCluster {
	c := &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "iomesh", UID: "uid-1"}}
	c.Spec.DiskDeploymentMode = v1alpha1.AllFlash
	c.Spec.Chunk.DeviceMap = map[v1alpha1.MountType]v1alpha1.DeviceSelection{
		v1alpha1.DataStoreWithJournal: {Selector: metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelDriverType: "SSD"}}},
	}
	if edit != nil {
		edit(&c.Spec)
	}
	return c
}

type edit func(*v1alpha1.BlockDevice)

// device is an eligible SSD "bd-<node>-<n>".
func device(node string, n int, edits ...edit) v1alpha1.BlockDevice {
	d := v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{
		Name:   fmt.Sprintf("bd-%s-%d", node, n),
		Labels: map[string]string{v1alpha1.LabelDriverType: "SSD", v1alpha1.LabelNode: node},
	}}
	d.Spec = v1alpha1.BlockDeviceSpec{Node: node, Path: fmt.Sprintf("/dev/sd%c", 'a'+n),
		Identity: v1alpha1.Identity{Serial: d.Name, SizeBytes: 1 << 40}}
	d.Status = v1alpha1.BlockDeviceStatus{State: v1alpha1.DeviceActive, ClaimState: v1alpha1.Unclaimed, Eligible: true}
	for _, e := range edits {
		e(&d)
	}
	return d
}

func ineligible(code, message string) edit {
	return func(d *v1alpha1.BlockDevice) {
		d.Status.Eligible = false
		d.Status.Reasons = append(d.Status.Reasons, v1alpha1.Reason{Code: code, Message: message})
	}
}

func claimedBy(uid string, mountType v1alpha1.MountType) edit {
	return func(d *v1alpha1.BlockDevice) {
		c := &v1alpha1.Claim{UID: "old", ClusterRef: v1alpha1.ClusterRef{Name: "c-" + uid, UID: uid}, MountType: mountType}
		d.Spec.Claim, d.Status.Claim, d.Status.ClaimState = c, c, v1alpha1.Claimed
		d.Status.Eligible, d.Status.Reasons = false, []v1alpha1.Reason{{Code: v1alpha1.ReasonClaimed, Message: "belongs to a cluster"}}
	}
}

func superblock(id string) edit {
	return func(d *v1alpha1.BlockDevice) {
		d.Spec.Identity.Superblock = &v1alpha1.SuperblockRef{ClusterID: id, DiskID: "d"}
		ineligible(v1alpha1.ReasonSuperblock, "has a superblock of the cluster "+id)(d)
	}
}

// describe writes a decision as lines: claim, hold, release, find.
func describe(d Decision) string {
	var b strings.Builder
	for _, c := range d.Claims {
		fmt.Fprintf(&b, "claim %s %s\n", c.Device, c.Claim.MountType)
	}
	for _, h := range d.Held {
		fmt.Fprintf(&b, "hold %s\n", h)
	}
	for _, r := range d.Releases {
		fmt.Fprintf(&b, "release %s: %s\n", r.Device, r.Reason)
	}
	for _, f := range d.Findings {
		fmt.Fprintf(&b, "find %s: %s\n", f.Device, f.Reason)
	}
	return b.String()
}

func TestDecide(t *testing.T) {
	dswj := v1alpha1.DataStoreWithJournal
	hybrid := func(s *v1alpha1.IOMeshClusterSpec) {
		s.DiskDeploymentMode = v1alpha1.HybridFlash
		s.Chunk.DeviceMap = map[v1alpha1.MountType]v1alpha1.DeviceSelection{
			v1alpha1.CacheWithJournal: {Selector: metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelDriverType: "SSD"}}},
			v1alpha1.DataStore:        {Selector: metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelNode: "n1"}}},
		}
	}
	for _, tc := range []struct {
		name    string
		cluster *v1alpha1.IOMeshCluster
		devices []v1alpha1.BlockDevice
		want    string
	}{
		{"eligible devices that match are claimed, by node and name", cluster(nil),
			[]v1alpha1.BlockDevice{device("n2", 0), device("n1", 1), device("n1", 0)},
			"claim bd-n1-0 dataStoreWithJournal\nclaim bd-n1-1 dataStoreWithJournal\nclaim bd-n2-0 dataStoreWithJournal\n"},
		{"a device that does not match is nobody's business", cluster(nil),
			[]v1alpha1.BlockDevice{device("n1", 0, func(d *v1alpha1.BlockDevice) { d.Labels[v1alpha1.LabelDriverType] = "HDD" })}, ""},
		{"an excluded device is not claimed",
			cluster(func(s *v1alpha1.IOMeshClusterSpec) {
				sel := s.Chunk.DeviceMap[dswj]
				sel.Exclude = []string{"bd-n1-0"}
				s.Chunk.DeviceMap[dswj] = sel
			}), []v1alpha1.BlockDevice{device("n1", 0)}, ""},
		{"an ineligible device is never claimed and every reason is told", cluster(nil),
			[]v1alpha1.BlockDevice{device("n1", 0, ineligible("HasFilesystem", "has an ext4 filesystem"), ineligible("Mounted", "is mounted on /"))},
			"find bd-n1-0: is not eligible: has an ext4 filesystem; is mounted on /\n"},
		{"a device that its agent has not judged is waited for", cluster(nil),
			[]v1alpha1.BlockDevice{device("n1", 0, func(d *v1alpha1.BlockDevice) { d.Status.Eligible = false })},
			"find bd-n1-0: has not been judged by its agent yet\n"},
		{"a device that is gone is not claimed", cluster(nil),
			[]v1alpha1.BlockDevice{device("n1", 0, func(d *v1alpha1.BlockDevice) { d.Status.State = v1alpha1.DeviceInactive })},
			"find bd-n1-0: is not active (state \"Inactive\")\n"},
		{"a device without anything unique is not claimed", cluster(nil),
			[]v1alpha1.BlockDevice{device("n1", 0, func(d *v1alpha1.BlockDevice) { d.Spec.Identity.Serial = "" })},
			"find bd-n1-0: has neither serial, WWN, backing file nor partition UUID: it could not be told from another device\n"},
		{"another cluster's device is left alone", cluster(nil),
			[]v1alpha1.BlockDevice{device("n1", 0, claimedBy("uid-2", dswj))},
			"find bd-n1-0: is claimed by the cluster c-uid-2 (uid-2); if that cluster is gone, remove spec.claim\n"},
		{"a held device is kept", cluster(nil), []v1alpha1.BlockDevice{device("n1", 0, claimedBy("uid-1", dswj))}, "hold bd-n1-0\n"},
		{"a held device that went away is kept: it may come back", cluster(nil),
			[]v1alpha1.BlockDevice{device("n1", 0, claimedBy("uid-1", dswj), func(d *v1alpha1.BlockDevice) { d.Status.State = v1alpha1.DeviceInactive })},
			"hold bd-n1-0\n"},
		{"a held device that is excluded is released",
			cluster(func(s *v1alpha1.IOMeshClusterSpec) {
				sel := s.Chunk.DeviceMap[dswj]
				sel.Exclude = []string{"bd-n1-0"}
				s.Chunk.DeviceMap[dswj] = sel
			}), []v1alpha1.BlockDevice{device("n1", 0, claimedBy("uid-1", dswj))},
			"release bd-n1-0: no longer selected by chunk.deviceMap\n"},
		{"all held devices are released when the map becomes empty",
			cluster(func(s *v1alpha1.IOMeshClusterSpec) { s.Chunk.DeviceMap = nil }),
			[]v1alpha1.BlockDevice{device("n1", 0, claimedBy("uid-1", dswj)), device("n2", 0)},
			"release bd-n1-0: no longer selected by chunk.deviceMap\n"},
		{"a device that is still being released is not claimed again", cluster(nil),
			[]v1alpha1.BlockDevice{device("n1", 0, claimedBy("uid-1", dswj), func(d *v1alpha1.BlockDevice) { d.Spec.Claim = nil; d.Status.ClaimState = v1alpha1.Released })},
			"find bd-n1-0: is still being released by its agent\n"},
		{"a disk of this cluster that comes back is claimed with its data", cluster(nil),
			[]v1alpha1.BlockDevice{device("n3", 0, superblock(clusterID))}, "claim bd-n3-0 dataStoreWithJournal\n"},
		{"a disk of another cluster is not", cluster(nil),
			[]v1alpha1.BlockDevice{device("n3", 0, superblock("other"))},
			"find bd-n3-0: is not eligible: has a superblock of the cluster other\n"},
		{"a disk of this cluster that is in use otherwise is not", cluster(nil),
			[]v1alpha1.BlockDevice{device("n3", 0, superblock(clusterID), ineligible("InUse", "is held open"))},
			"find bd-n3-0: is not eligible: has a superblock of the cluster " + clusterID + "; is held open\n"},
		{"a device that two mount types select is not claimed", cluster(hybrid), []v1alpha1.BlockDevice{device("n1", 0), device("n2", 0)},
			"claim bd-n2-0 cacheWithJournal\n" +
				"find bd-n1-0: is selected by cacheWithJournal and dataStore: a device has one mount type, so narrow a selector or use exclude\n"},
		{"a held device stays when a second selector comes to match it", cluster(hybrid),
			[]v1alpha1.BlockDevice{device("n1", 0, claimedBy("uid-1", v1alpha1.DataStore))}, "hold bd-n1-0\n"},
		{"a device whose mount type changes is released first", cluster(hybrid),
			[]v1alpha1.BlockDevice{device("n2", 0, claimedBy("uid-1", v1alpha1.DataStore))},
			"release bd-n2-0: selected as cacheWithJournal now, claimed as dataStore\n"},
		{"nodes that the policy forbids are told", cluster(nil), []v1alpha1.BlockDevice{device("forbidden", 0)},
			"find bd-forbidden-0: is on a node that is forbidden\n"},
		{"chunk.replicas keeps the nodes that hold disks and adds others by name",
			cluster(func(s *v1alpha1.IOMeshClusterSpec) { s.Chunk.Replicas = 2 }),
			[]v1alpha1.BlockDevice{device("n1", 0), device("n2", 0), device("n3", 0, claimedBy("uid-1", dswj)), device("n3", 1)},
			"claim bd-n1-0 dataStoreWithJournal\nclaim bd-n3-1 dataStoreWithJournal\nhold bd-n3-0\n" +
				"find bd-n2-0: is on a node that is beyond chunk.replicas = 2 (storage nodes: n3, n1)\n"},
		{"a node without a usable device does not count for chunk.replicas",
			cluster(func(s *v1alpha1.IOMeshClusterSpec) { s.Chunk.Replicas = 1 }),
			[]v1alpha1.BlockDevice{device("n1", 0, ineligible("Mounted", "is mounted")), device("n2", 0)},
			"claim bd-n2-0 dataStoreWithJournal\nfind bd-n1-0: is on a node that is beyond chunk.replicas = 1 (storage nodes: n2)\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := Decide(Input{
				Cluster: tc.cluster, ClusterID: clusterID, Devices: tc.devices,
				NodeAllowed: func(n string) (bool, string) { return n != "forbidden", "is forbidden" },
				NewUID:      func() string { return "new" },
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(d); got != tc.want {
				t.Errorf("decided\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

func TestAClaimCarriesTheIdentityThatWasSeen(t *testing.T) {
	dev := device("n1", 0)
	c := cluster(func(s *v1alpha1.IOMeshClusterSpec) {
		s.ReclaimPolicy = &v1alpha1.ReclaimPolicySpec{BlockDevice: v1alpha1.ReclaimRetain}
	})
	d, err := Decide(Input{Cluster: c, ClusterID: clusterID, Devices: []v1alpha1.BlockDevice{dev},
		NodeAllowed: func(string) (bool, string) { return true, "" }, NewUID: func() string { return "new" }})
	if err != nil || len(d.Claims) != 1 {
		t.Fatalf("%v, %d claims", err, len(d.Claims))
	}
	got := d.Claims[0].Claim
	want := v1alpha1.Claim{UID: "new", ClusterRef: v1alpha1.ClusterRef{Name: "iomesh", UID: "uid-1", ClusterID: clusterID},
		MountType: v1alpha1.DataStoreWithJournal, Fingerprint: dev.Spec.Identity.Fingerprint(),
		ContentFingerprint: dev.Spec.Identity.ContentFingerprint(), ReclaimPolicy: v1alpha1.ReclaimRetain}
	if got != want {
		t.Errorf("claim %+v, want %+v", got, want)
	}
}

func TestABrokenSelectorReleasesNothing(t *testing.T) {
	for name, sel := range map[string]metav1.LabelSelector{
		"an unknown operator": {MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}},
		"an empty selector":   {},
	} {
		c := cluster(func(s *v1alpha1.IOMeshClusterSpec) {
			s.Chunk.DeviceMap = map[v1alpha1.MountType]v1alpha1.DeviceSelection{v1alpha1.DataStoreWithJournal: {Selector: sel}}
		})
		d, err := Decide(Input{Cluster: c, ClusterID: clusterID,
			Devices:     []v1alpha1.BlockDevice{device("n1", 0, claimedBy("uid-1", v1alpha1.DataStoreWithJournal))},
			NodeAllowed: func(string) (bool, string) { return true, "" }, NewUID: func() string { return "new" }})
		if err == nil || !strings.Contains(err.Error(), "chunk.deviceMap.dataStoreWithJournal.selector") {
			t.Errorf("%s: error %v does not name the selector", name, err)
		}
		if len(d.Releases)+len(d.Claims) != 0 {
			t.Errorf("%s: decided %+v", name, d)
		}
	}
}
