package view

import (
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/desired"
	"github.com/iomesh/iomesh/operator/devicemap"
	"github.com/iomesh/iomesh/operator/placement"
)

func readyPod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "iomesh/iomesh:v1"}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	return p
}

// healthy is a cluster of three nodes with a disk each, which has been Ready before.
func healthy() Facts {
	f := Facts{
		Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), ClusterID: "id", Image: "iomesh/iomesh:v1", ChunkPods: map[string]*corev1.Pod{},
		Cluster: &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "iomesh", UID: "u", Generation: 4}},
		Storage: &storagedv1.ClusterStatus{Health: storagedv1.Health_HEALTH_OK, TotalBytes: 24 << 30, UsedBytes: 3 << 29, Volumes: 2, Leader: "iomesh-meta-0"},
		NodeSet: &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 3, NumberReady: 3, UpdatedNumberScheduled: 3}},
	}
	f.Cluster.Status.Phase = v1alpha1.PhaseReady
	f.Cluster.Spec.Chunk.DeviceMap = map[v1alpha1.MountType]v1alpha1.DeviceSelection{v1alpha1.DataStoreWithJournal: {}}
	for i, n := range []string{"n1", "n2", "n3"} {
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		f.Nodes = append(f.Nodes, node)
		f.Members = append(f.Members, placement.Member{Ordinal: int32(i), Node: n, Address: "10.0.0.1"})
		f.MetaPods = append(f.MetaPods, *readyPod("iomesh-meta-" + n))
		f.Chunks = append(f.Chunks, desired.Chunk{Node: n, Address: "10.0.0.1"})
		f.ChunkPods[n] = readyPod("iomesh-chunk-" + n)
		f.Storage.Meta = append(f.Storage.Meta, &storagedv1.MetaMember{Name: n, Address: n + ":10100", Healthy: true})
		f.Storage.Nodes = append(f.Storage.Nodes, &storagedv1.Node{Name: n, Chunk: uint32(i + 1), State: "Online", Mode: "active", DataAddress: "10.0.0.1:10201"})
		f.Storage.Disks = append(f.Storage.Disks, &storagedv1.Disk{Id: "d" + n, Name: "bd-" + n, Node: n, Chunk: uint32(i + 1), State: "Active", SizeBytes: 8 << 30, UsedBytes: 1 << 29})
		f.Devices = append(f.Devices, v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: "bd-" + n}, Spec: v1alpha1.BlockDeviceSpec{
			Node: n, Claim: &v1alpha1.Claim{ClusterRef: v1alpha1.ClusterRef{UID: "u"}, MountType: v1alpha1.DataStoreWithJournal}}})
		f.Decision.Held = append(f.Decision.Held, "bd-"+n)
	}
	f.Decision.Selected = 3
	return f
}

// fresh is the same cluster before it was ever Ready.
func fresh() Facts {
	f := healthy()
	f.Cluster.Status.Phase = v1alpha1.PhaseInstalling
	return f
}

func nodeDown(f *Facts, i int) {
	f.Nodes[i].Status.Conditions[0].Status = corev1.ConditionUnknown
	f.Storage.Nodes[i].State = "Offline"
	f.Storage.Disks[i].State = "Missing"
	f.ChunkPods[f.Nodes[i].Name].Status.Conditions[0].Status = corev1.ConditionFalse
	f.Storage.Health, f.Storage.Reason = storagedv1.Health_HEALTH_DEGRADED, "2 volumes have lost a replica"
	f.Storage.VolumesDegraded = 2
}

func TestStatus(t *testing.T) {
	type want struct {
		phase                          v1alpha1.Phase
		ready, progressing, degraded   string // reason, with "!" before it when the condition is False
		mapped                         string
		text                           []string // all of these stand in the conditions' messages
		nodes, disks, capacity, resync string
	}
	none := want{phase: v1alpha1.PhaseReady, ready: "Serving", progressing: "!Idle", degraded: "!AsWished", mapped: "AllActive", nodes: "3/3", disks: "3/3", capacity: "24GiB"}
	with := func(edit func(*want)) want { w := none; edit(&w); return w }
	for _, tc := range []struct {
		name string
		base func() Facts
		edit func(*Facts)
		want want
	}{
		{"all is well", healthy, nil, none},
		{"an installation ends in Ready", fresh, nil, none},
		{"too few nodes for the metadata members", fresh, func(f *Facts) {
			f.Storage, f.Members, f.MetaPods, f.Chunks, f.ChunkPods, f.Devices, f.Decision = nil, nil, nil, nil, nil, nil, devicemap.Decision{}
			f.Blocked = []Problem{{"WaitingForNodes", "meta.replicas is 3 and only 1 nodes are suitable"}}
		}, want{phase: v1alpha1.PhaseInstalling, ready: "!WaitingForNodes", progressing: "WaitingForNodes", degraded: "WaitingForNodes", mapped: "!NoDevices",
			nodes: "?/0", disks: "?/0", text: []string{"only 1 nodes are suitable"}}},
		{"a metadata pod that cannot pull its image is named", fresh, func(f *Facts) {
			f.Storage, f.StorageErr = nil, errors.New("connection refused")
			f.MetaPods[0].Status.Conditions = nil
			f.MetaPods[0].Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "meta", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "not found"}}}}
		}, want{phase: v1alpha1.PhaseInstalling, ready: "!MetaUnavailable", progressing: "WaitingForMeta", degraded: "!AsWished", mapped: "!NotAllActive",
			nodes: "?/3", disks: "?/3", text: []string{"2 of 3 pods ready", "iomesh-meta-n1", "ImagePullBackOff: not found"}}},
		{"after installation without a device map it says what to do", fresh, func(f *Facts) {
			f.Cluster.Spec.Chunk.DeviceMap, f.Chunks, f.ChunkPods, f.Decision = nil, nil, nil, devicemap.Decision{}
			f.Storage.Nodes, f.Storage.Disks, f.Storage.TotalBytes, f.Storage.Volumes = nil, nil, 0, 0
			for i := range f.Devices {
				f.Devices[i].Spec.Claim = nil
			}
		}, want{phase: v1alpha1.PhaseReady, ready: "ReadyForDisks", progressing: "!Idle", degraded: "!AsWished", mapped: "!NoDeviceMap",
			nodes: "0/0", disks: "0/0", capacity: "0B", text: []string{"kubectl iomesh disk map"}}},
		{"no selected device is eligible: the reasons are told", fresh, func(f *Facts) {
			f.Chunks, f.ChunkPods = nil, nil
			f.Decision = devicemap.Decision{Selected: 1, Findings: []devicemap.Finding{{Device: "bd-x", Node: "n1", Path: "/dev/sdx", Reason: "is not eligible: has an ext4 filesystem"}}}
			f.Storage.Nodes, f.Storage.Disks, f.Storage.TotalBytes, f.Storage.Volumes = nil, nil, 0, 0
			for i := range f.Devices {
				f.Devices[i].Spec.Claim = nil
			}
		}, want{phase: v1alpha1.PhaseInstalling, ready: "!NoDisks", progressing: "!Idle", degraded: "!AsWished", mapped: "!NotAllUsable",
			nodes: "0/0", disks: "0/0", capacity: "0B", text: []string{"bd-x (/dev/sdx on n1) is not eligible: has an ext4 filesystem"}}},
		{"a selector that matches nothing", healthy, func(f *Facts) { f.Decision.Selected = 0 },
			with(func(w *want) { w.mapped = "!NothingSelected"; w.text = []string{"selects none of the 3"} })},
		{"claimed disks that no chunk uses yet are waited for", fresh, func(f *Facts) {
			f.Storage.Disks, f.Storage.TotalBytes = nil, 0
			f.Devices[0].Status.Message = "identity changed: serial A was B"
		}, want{phase: v1alpha1.PhaseInstalling, ready: "!WaitingForDisks", progressing: "PreparingDisks", degraded: "!AsWished", mapped: "!NotAllActive",
			nodes: "3/3", disks: "0/3", capacity: "0B", text: []string{"identity changed: serial A was B"}}},
		{"the first disks of a cluster that was ready for them are no fault", healthy, func(f *Facts) {
			f.Storage.Disks, f.Storage.Nodes, f.Storage.TotalBytes = nil, nil, 0
		}, want{phase: v1alpha1.PhaseInstalling, ready: "!NoChunks", progressing: "PreparingDisks", degraded: "!AsWished", mapped: "!NotAllActive",
			nodes: "0/3", disks: "0/3", capacity: "0B"}},
		{"a chunk pod that does not start is named", fresh, func(f *Facts) {
			p := f.ChunkPods["n2"]
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "Insufficient memory"}}
			f.Storage.Nodes, f.Storage.Disks = append(f.Storage.Nodes[:1], f.Storage.Nodes[2]), append(f.Storage.Disks[:1], f.Storage.Disks[2])
		}, with(func(w *want) {
			w.progressing, w.mapped, w.nodes, w.disks = "WaitingForChunks", "!NotAllActive", "2/3", "2/3"
			w.text = []string{"2 of 3 chunks are ready; waiting for n2", "Insufficient memory"}
		})},
		{"a node is lost", healthy, func(f *Facts) { nodeDown(f, 1) }, with(func(w *want) {
			w.phase, w.degraded, w.progressing, w.mapped, w.nodes, w.disks = v1alpha1.PhaseDegraded, "DataNotHealthy", "WaitingForChunks", "!NotAllActive", "2/3", "2/3"
			w.text = []string{"2 volumes have lost a replica", "the chunk of node n2 is offline: the Kubernetes node is not ready", "disk bd-n2 on node n2 is missing"}
		})},
		{"it comes back and copies", healthy, func(f *Facts) {
			f.Storage.Health, f.Storage.Reason = storagedv1.Health_HEALTH_DEGRADED, "resync"
			f.Storage.ResyncBytesLeft, f.Storage.ResyncBytesPerSecond = 5<<20, 1<<20
		}, with(func(w *want) {
			w.phase, w.degraded, w.resync = v1alpha1.PhaseDegraded, "DataNotHealthy", "5MiB (1MiB/s)"
		})},
		{"data is unavailable", healthy, func(f *Facts) {
			f.Storage.Health, f.Storage.Reason, f.Storage.NextStep = storagedv1.Health_HEALTH_UNAVAILABLE, "volume v needs disk d", "bring node n1 back"
		}, with(func(w *want) {
			w.phase, w.ready, w.degraded = v1alpha1.PhaseError, "!DataUnavailable", "DataNotHealthy"
			w.text = []string{"volume v needs disk d. bring node n1 back"}
		})},
		{"the metadata members fall silent", healthy, func(f *Facts) { f.Storage, f.StorageErr = nil, errors.New("deadline exceeded") },
			want{phase: v1alpha1.PhaseError, ready: "!MetaUnavailable", progressing: "WaitingForMeta", degraded: "MetaUnavailable", mapped: "!NotAllActive",
				nodes: "?/3", disks: "?/3", text: []string{"deadline exceeded"}}},
		{"a sick metadata member", healthy, func(f *Facts) { f.Storage.Meta[2].Healthy, f.Storage.Meta[2].Message = false, "no space left" },
			with(func(w *want) {
				w.phase, w.degraded, w.text = v1alpha1.PhaseDegraded, "MetaMemberDown", []string{"no space left"}
			})},
		{"maintenance is told", healthy, func(f *Facts) { f.Storage.Nodes[0].Mode = "maintenance" },
			with(func(w *want) { w.phase, w.degraded = v1alpha1.PhaseDegraded, "Maintenance" })},
		{"the operator's own update is no degradation", healthy, func(f *Facts) {
			f.Storage.Nodes[0].Mode, f.Updating, f.Outdated, f.Waiting = "maintenance", "n1", 2, "update of node n1: moving volumes"
		}, with(func(w *want) {
			w.progressing, w.text = "UpdatingChunks", []string{"1 of 3 chunks run the new version; update of node n1: moving volumes"}
		})},
		{"a failed disk", healthy, func(f *Facts) { f.Storage.Disks[0].State, f.Storage.Disks[0].Message = "Failed", "write error" },
			with(func(w *want) {
				w.phase, w.degraded, w.mapped, w.disks, w.text = v1alpha1.PhaseDegraded, "DiskFailed", "!NotAllActive", "2/3", []string{"disk bd-n1 on node n1 is failed: write error"}
			})},
		{"a broken selector", healthy, func(f *Facts) { f.Blocked = []Problem{{"BadDeviceMap", "chunk.deviceMap.x.selector: bad"}} },
			with(func(w *want) { w.phase, w.degraded, w.mapped = v1alpha1.PhaseDegraded, "BadDeviceMap", "!BadDeviceMap" })},
		{"deletion refused", healthy, func(f *Facts) {
			now := metav1.NewTime(f.Now)
			f.Cluster.DeletionTimestamp = &now
			f.Deleting = &Problem{"VolumesExist", "2 volumes exist: a, b"}
		}, with(func(w *want) {
			w.phase, w.ready, w.progressing, w.text = v1alpha1.PhaseDeleting, "!Deleting", "VolumesExist", []string{"2 volumes exist: a, b"}
		})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tc.base()
			if tc.edit != nil {
				tc.edit(&f)
			}
			st := Status(f)
			if st.Phase != tc.want.phase {
				t.Errorf("phase %s, want %s", st.Phase, tc.want.phase)
			}
			var all []string
			for kind, reason := range map[string]string{v1alpha1.ConditionReady: tc.want.ready, v1alpha1.ConditionProgressing: tc.want.progressing,
				v1alpha1.ConditionDegraded: tc.want.degraded, v1alpha1.ConditionDevicesMapped: tc.want.mapped} {
				c := meta.FindStatusCondition(st.Conditions, kind)
				got := c.Reason
				if c.Status == metav1.ConditionFalse {
					got = "!" + got
				}
				if got != reason {
					t.Errorf("condition %s is %s (%s), want %s", kind, got, c.Message, reason)
				}
				if c.Message == "" || c.ObservedGeneration != 4 {
					t.Errorf("condition %s lacks a message or the generation: %+v", kind, c)
				}
				all = append(all, c.Message)
			}
			for _, text := range tc.want.text {
				if !strings.Contains(strings.Join(all, "\n"), text) {
					t.Errorf("no condition says %q:\n%s", text, strings.Join(all, "\n"))
				}
			}
			w := v1alpha1.Columns{Nodes: tc.want.nodes, Disks: tc.want.disks, Capacity: tc.want.capacity, Used: st.Columns.Used, Resync: tc.want.resync}
			if st.Columns != w {
				t.Errorf("columns %+v, want %+v", st.Columns, w)
			}
		})
	}
}

func TestTheOriginalsSummary(t *testing.T) {
	f := healthy()
	f.Storage.Disks[2].State = "Failed"
	st := Status(f)
	s := st.Summary
	if n := len(s.ChunkSummary.Chunks); n != 3 {
		t.Fatalf("%d chunks", n)
	}
	if c := s.ChunkSummary.Chunks[0]; c.ID != 1 || c.IP != "10.0.0.1" || c.Status != "Online" || c.SpaceInfo.TotalDataCapacity != 8<<30 || c.SpaceInfo.UsedDataSpace != 1<<29 {
		t.Errorf("first chunk %+v", c)
	}
	if c := s.ChunkSummary.Chunks[2].SpaceInfo; c.FailureDataSpace != 8<<30 || c.TotalDataCapacity != 0 {
		t.Errorf("a failed disk counts as %+v", c)
	}
	if m := s.MetaSummary; m.Leader != "iomesh-meta-0" || len(m.AliveHost) != 3 || m.Status != "OK" {
		t.Errorf("meta %+v", m)
	}
	if len(st.RunningImages.Chunk) != 3 || st.RunningImages.Meta["iomesh-meta-n1"] != "iomesh/iomesh:v1" {
		t.Errorf("running images %+v", st.RunningImages)
	}
	// The last known numbers stay, dated, while nobody answers.
	f.Cluster.Status = st
	f.Storage = nil
	later := Status(f)
	if later.Summary.ClusterSummary != s.ClusterSummary || later.MetaAsOf == nil || !later.MetaAsOf.Equal(st.MetaAsOf) {
		t.Errorf("the last known summary was lost: %+v as of %v", later.Summary.ClusterSummary, later.MetaAsOf)
	}
	if later.Health != v1alpha1.HealthAtRisk || later.Summary.MetaSummary.Status != "Unknown" {
		t.Errorf("health %s, meta %s with nobody answering", later.Health, later.Summary.MetaSummary.Status)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0B", 1023: "1023B", 1024: "1KiB", 1536: "1.50KiB", 24 << 30: "24GiB", 3 << 29: "1.50GiB",
		1<<40 - 1: "1.00TiB", 12345678901: "11.5GiB", 123456789012: "115GiB", 1 << 60: "1EiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
}
