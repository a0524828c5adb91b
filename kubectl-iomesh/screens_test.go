package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

func machines() []v1alpha1.BlockDevice {
	return []v1alpha1.BlockDevice{disk("bd-1", "n1", "/dev/sdb"), disk("bd-2", "n2", "/dev/sdb"), disk("bd-3", "n3", "/dev/sdb"), disk("bd-4", "n3", "/dev/sdc"),
		disk("bd-8", "n2", "/dev/sda", unfit(v1alpha1.DeviceHealthy, "the machine's / is on it", "has 3 partitions"))}
}

// The whole of `disk map` on a real terminal: a disk fails and the API server goes away while it is open, the terminal changes its size, then the choice is
// planned, confirmed by the cluster's name, and applied.
func TestDisksAreMappedOnATerminal(t *testing.T) {
	for i, size := range sizes {
		t.Run(size.String(), func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t)
			s.set("iomeshclusters", cluster())
			s.set("blockdevices", machines())
			x := newTerminal(t, s, size, "disk", "map")
			x.golden("map-start", "/dev/sdc")
			x.Keys("?")
			x.golden("map-help", "Any key closes this")
			x.Keys("?", "a", "Down")
			x.golden("map-chosen", "[x] n3           /dev/sdc")

			failed := machines()
			unfit(v1alpha1.DeviceFailing, "self-assessment failed: no spare blocks are left")(&failed[3])
			s.set("blockdevices", failed)
			x.Keys("r")
			x.golden("map-failed", "Failing")

			s.lose()
			x.Keys("r")
			x.Shows("STALE")
			x.Keys("Enter")
			x.golden("map-stale", "wait until the cluster answers")
			s.serve()
			x.Keys("r")
			x.Until("no stale mark", func(screen string) bool { return !strings.Contains(screen, "STALE") })

			x.resize(sizes[1-i])
			x.resize(sizes[i])
			x.Keys("Down", "Space") // not n2's second, which cannot be chosen, but its first
			x.golden("map-two", "2 disks on 2 nodes")
			x.Keys("Enter")
			x.golden("map-plan", `Type "iomesh" to go on`)
			x.Keys("iomesh", "Enter")
			x.Shows("Device map of cluster iomesh applied.")
			if code := x.exitCode(); code != "0" {
				t.Errorf("exit code %s", code)
			}
			var what []string
			for _, p := range s.patched() {
				object, _, _ := strings.Cut(p, " ")
				what = append(what, object)
			}
			if want := []string{"blockdevices/bd-1", "blockdevices/bd-3", "iomeshclusters/iomesh"}; !slices.Equal(what, want) {
				t.Errorf("changed %v, want %v", s.patched(), want)
			}
		})
	}
}

func TestLeavingTheDiskMapChangesNothing(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.set("iomeshclusters", cluster())
	s.set("blockdevices", machines())
	x := newTerminal(t, s, sizes[0], "disk", "map")
	x.Shows("/dev/sdc")
	x.Keys("a", "q")
	x.Shows("Nothing was changed.")
	if code := x.exitCode(); code != "0" || len(s.patched()) != 0 {
		t.Errorf("exit code %s, changed %v", code, s.patched())
	}
}

// upgrading is an update of three nodes to v2, of which the first has been done.
func upgrading(s *apiServer, edit ...func([]corev1.Pod)) {
	var pods []corev1.Pod
	var nodes []string
	for i := range 3 {
		node, image := fmt.Sprintf("worker-%d", i+1), "iomesh/iomesh:v1"
		if i == 0 {
			image = "iomesh/iomesh:v2"
		}
		mode, owned := "active", 4
		if i == 1 {
			mode, owned = "maintenance", 3
		}
		for _, part := range []string{"chunk", "meta", "node"} {
			pods = append(pods, pod(part, node, image))
		}
		nodes = append(nodes, fmt.Sprintf(`{"name":%q,"state":"Online","mode":%q,"ownedVolumes":%d}`, node, mode, owned))
	}
	for _, e := range edit {
		e(pods)
	}
	s.set("pods", pods)
	s.answer("status", `{"health":"Healthy","volumes":12,"nodes":[`+strings.Join(nodes, ",")+`]}`)
}

func stuck(pods []corev1.Pod) {
	pods[3].Spec.Containers[0].Image = "iomesh/iomesh:v2"
	pods[3].Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "chunk",
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}}}
}

func finished(pods []corev1.Pod) {
	for i := range pods {
		pods[i].Spec.Containers[0].Image = "iomesh/iomesh:v2"
	}
}

// An upgrade followed on a real terminal: a pod that does not come up, the API server away, a pause and its end by keys, a rollback declined, the end.
func TestAnUpgradeIsFollowedOnATerminal(t *testing.T) {
	for i, size := range sizes {
		t.Run(size.String(), func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t)
			at := func(edit ...func(*v1alpha1.IOMeshCluster)) {
				s.set("iomeshclusters", cluster(append([]func(*v1alpha1.IOMeshCluster){func(c *v1alpha1.IOMeshCluster) {
					c.Spec.Image, c.Status.UpdatingNode = "iomesh/iomesh:v2", "worker-2"
					c.Status.TaskInProcess = "1 of 3 chunks run the new version; update of node worker-2: 3 volumes still move to other owners"
				}}, edit...)...))
			}
			at()
			upgrading(s)
			x := newTerminal(t, s, size, "upgrade", "--watch")
			x.golden("upgrade-moving", "all 12 volumes have all their replicas")
			x.Keys("?")
			x.golden("upgrade-help", "Any key closes this")
			x.Keys("?")

			upgrading(s, stuck)
			x.Keys("r")
			x.golden("upgrade-stuck", "ImagePullBackOff")
			s.lose()
			x.Keys("r")
			x.golden("upgrade-stale", "STALE")
			s.serve()
			upgrading(s)
			x.Keys("r")
			x.Until("no stale mark", func(screen string) bool { return !strings.Contains(screen, "STALE") })

			x.Keys("p")
			x.golden("upgrade-pause", "y/n")
			x.Keys("y")
			x.Shows("no other is begun")
			x.Keys("r")
			x.Shows("PAUSED")
			x.Keys("p")
			x.Shows("Go on with the next node.")
			x.Keys("y")
			x.Shows("The update goes on.")
			x.Keys("r")
			x.Until("no pause", func(screen string) bool { return !strings.Contains(screen, "PAUSED") })
			x.Keys("b")
			x.golden("upgrade-rollback", "y/n")
			x.Keys("n")
			x.Shows("nothing was changed")

			x.resize(sizes[1-i])
			x.resize(sizes[i])
			upgrading(s, finished)
			s.answer("status", `{"health":"Healthy","volumes":12,"nodes":[{"name":"worker-1","state":"Online","mode":"active","ownedVolumes":4},`+
				`{"name":"worker-2","state":"Online","mode":"active","ownedVolumes":4},{"name":"worker-3","state":"Online","mode":"active","ownedVolumes":4}]}`)
			at(func(c *v1alpha1.IOMeshCluster) { c.Status.UpdatingNode, c.Status.TaskInProcess = "", "" })
			x.Keys("r")
			x.Shows("DONE")
			x.Keys("Down") // clears what was said last
			x.golden("upgrade-done", "DONE")
			x.Keys("q")
			if code := x.exitCode(); code != "0" {
				t.Errorf("exit code %s", code)
			}
			if p := s.patched(); len(p) != 2 || !strings.Contains(p[0], v1alpha1.AnnotationPauseUpdate) || !strings.Contains(p[1], "null") {
				t.Errorf("changed %v, want a pause and its end", p)
			}
		})
	}
}

func TestAnUpgradeThatIsLeftGoesOn(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.set("iomeshclusters", cluster(func(c *v1alpha1.IOMeshCluster) { c.Spec.Image = "iomesh/iomesh:v2" }))
	upgrading(s)
	x := newTerminal(t, s, sizes[0], "upgrade", "--watch")
	x.Shows("worker-3")
	x.Keys("q")
	x.Shows("The update goes on by itself.")
	if code := x.exitCode(); code != "130" {
		t.Errorf("exit code %s, want that of an interruption", code)
	}
}
