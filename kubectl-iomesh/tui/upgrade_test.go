package tui

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

// fleet is three nodes with everything, and a fourth that only uses volumes.
type fleet struct {
	cluster *v1alpha1.IOMeshCluster
	pods    []corev1.Pod
	data    *storagedv1.ClusterStatus
	dataErr error
	target  string // image
}

const oldImage, newImage = "iomesh/iomesh:v1", "iomesh/iomesh:v2"

func newFleet() *fleet {
	f := &fleet{target: newImage, cluster: &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "iomesh", Namespace: "iomesh-system"}},
		data: &storagedv1.ClusterStatus{Volumes: 12}}
	pod := func(part, node, image string) {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "iomesh-" + part + "-" + node, Labels: map[string]string{"app.kubernetes.io/component": part}},
			Spec:   corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: part, Image: image}}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: part, Ready: true}}}}
		f.pods = append(f.pods, p)
	}
	for _, n := range []string{"worker-1", "worker-2", "worker-3"} {
		pod("chunk", n, oldImage)
		pod("meta", n, oldImage)
		f.data.Nodes = append(f.data.Nodes, &storagedv1.Node{Name: n, State: "Online", Mode: "active", OwnedVolumes: 4})
	}
	for _, n := range []string{"worker-1", "worker-2", "worker-3", "worker-4"} {
		pod("node", n, oldImage)
	}
	return f
}

// set gives the pods of a node, of one part or all (""), an image.
func (f *fleet) set(node, part string, edit func(*corev1.Pod)) *fleet {
	for i := range f.pods {
		p := &f.pods[i]
		if p.Spec.NodeName == node && (part == "" || p.Labels["app.kubernetes.io/component"] == part) {
			edit(p)
		}
	}
	return f
}

func onNew(p *corev1.Pod) { p.Spec.Containers[0].Image = newImage }

func onOld(p *corev1.Pod) { p.Spec.Containers[0].Image = oldImage }

func (f *fleet) updated(nodes ...string) *fleet {
	for _, n := range nodes {
		f.set(n, "", onNew)
	}
	return f
}

func (f *fleet) state() *report.Upgrade {
	return report.BuildUpgrade(f.cluster, f.pods, f.data, f.dataErr, f.target)
}

func upgradeModel(f *fleet, width, height int) *Upgrade {
	clock := now
	m := NewUpgrade(context.Background(), func(context.Context) (*report.Upgrade, error) { return f.state(), nil }, UpgradeActions{}, func() time.Time { return clock })
	m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	m.Update(m.read())
	return m
}

func pressUpgrade(m *Upgrade, keys ...string) (quit bool) {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		if k == "down" {
			msg = tea.KeyPressMsg{Code: tea.KeyDown}
		}
		_, cmd := m.Update(msg)
		if cmd == nil {
			continue
		}
		switch out := cmd().(type) {
		case tea.QuitMsg:
			return true
		default:
			m.Update(out)
		}
	}
	return false
}

func TestUpgradeScreens(t *testing.T) {
	moving := func() *fleet {
		f := newFleet().updated("worker-1", "worker-4")
		f.cluster.Status.UpdatingNode, f.cluster.Status.TaskInProcess = "worker-2", "2 of 3 chunks run the new version; update of node worker-2: 3 volumes still move to other owners"
		f.data.Nodes[1].Mode, f.data.Nodes[1].OwnedVolumes = "maintenance", 3
		return f
	}
	returning := func() *fleet {
		f := newFleet().updated("worker-1", "worker-2", "worker-4")
		f.cluster.Status.UpdatingNode, f.cluster.Status.TaskInProcess = "worker-2", "update of node worker-2: ending its maintenance mode"
		f.data.Nodes[1].Mode, f.data.Nodes[1].OwnedVolumes = "maintenance", 0
		f.data.VolumesDegraded, f.data.ResyncBytesLeft, f.data.ResyncBytesPerSecond = 5, 3<<30, 100<<20
		return f
	}
	stuck := func() *fleet {
		f := newFleet()
		f.set("worker-1", "chunk", func(p *corev1.Pod) {
			onNew(p)
			p.Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "chunk", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}}}
		})
		f.cluster.Status.UpdatingNode, f.cluster.Status.TaskInProcess = "worker-1", "the chunk of node worker-1 is not ready"
		f.data.Nodes[0].State = "Offline"
		f.data.VolumesDegraded, f.data.VolumesUnavailable = 8, 1
		return f
	}
	paused := func() *fleet {
		f := newFleet().updated("worker-1", "worker-4")
		f.cluster.Annotations = map[string]string{v1alpha1.AnnotationPauseUpdate: "freeze until Monday"}
		f.cluster.Status.TaskInProcess = "2 chunks are to be updated; the update is paused (freeze until Monday): kubectl iomesh upgrade --resume"
		return f
	}
	silent := func() *fleet {
		f := moving()
		f.data, f.dataErr = nil, errors.New("ask the block service: none of 3 meta pods is ready")
		return f
	}
	lost := func(m *Upgrade, _ *fleet) {
		m.now = func() time.Time { return now.Add(42 * time.Second) }
		m.Update(upgradeRead{err: errors.New("dial tcp 10.0.0.1:6443: connect: connection refused")})
	}
	for _, c := range []struct {
		name          string
		width, height int
		fleet         *fleet
		act           func(*Upgrade, *fleet)
	}{
		{"upgrade-start-80x24", 80, 24, newFleet(), nil},
		{"upgrade-moving-80x24", 80, 24, moving(), nil},
		{"upgrade-moving-200x60", 200, 60, moving(), nil},
		{"upgrade-returning-80x24", 80, 24, returning(), nil},
		{"upgrade-stuck-80x24", 80, 24, stuck(), nil},
		{"upgrade-stuck-200x60", 200, 60, stuck(), nil},
		{"upgrade-paused-80x24", 80, 24, paused(), func(m *Upgrade, _ *fleet) { pressUpgrade(m, "down") }},
		{"upgrade-done-80x24", 80, 24, newFleet().updated("worker-1", "worker-2", "worker-3", "worker-4"), nil},
		{"upgrade-silent-80x24", 80, 24, silent(), nil},
		{"upgrade-rollback-80x24", 80, 24, moving(), func(m *Upgrade, _ *fleet) { pressUpgrade(m, "b") }},
		{"upgrade-help-80x24", 80, 24, newFleet(), func(m *Upgrade, _ *fleet) { pressUpgrade(m, "?") }},
		{"upgrade-eta-80x24", 80, 24, newFleet(), func(m *Upgrade, f *fleet) {
			m.now = func() time.Time { return now.Add(40 * time.Second) }
			f.updated("worker-1")
			m.Update(m.read())
		}},
		{"upgrade-stale-80x24", 80, 24, moving(), lost},
		{"upgrade-stale-200x60", 200, 60, moving(), lost},
		{"upgrade-narrow-60x12", 60, 12, moving(), nil},
		{"upgrade-too-small-40x10", 40, 10, moving(), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := upgradeModel(c.fleet, c.width, c.height)
			if c.act != nil {
				c.act(m, c.fleet)
			}
			golden(t, c.name, m.Render(), c.width, c.height)
		})
	}
}

func TestNothingIsChangedWithoutAYes(t *testing.T) {
	f := newFleet()
	var did []string
	action := func(name string) UpgradeAction {
		return func(context.Context) (string, error) { did = append(did, name); return name + " done", nil }
	}
	m := upgradeModel(f, 80, 24)
	m.actions = UpgradeActions{Pause: action("pause"), Resume: action("resume"), Rollback: action("rollback")}
	pressUpgrade(m, "p", "n", "b", "q")
	if len(did) != 0 || m.asking != "" {
		t.Fatalf("did %v", did)
	}
	pressUpgrade(m, "p", "y")
	if strings.Join(did, " ") != "pause" || m.message != "pause done" {
		t.Fatalf("did %v, says %q", did, m.message)
	}
	f.cluster.Annotations = map[string]string{v1alpha1.AnnotationPauseUpdate: "x"}
	m.Update(m.read())
	pressUpgrade(m, "p", "y", "b", "y")
	if strings.Join(did, " ") != "pause resume rollback" {
		t.Errorf("did %v", did)
	}
	m.Update(upgradeRead{err: errors.New("gone")})
	pressUpgrade(m, "b", "y")
	if len(did) != 3 {
		t.Errorf("acted on a stale screen: %v", did)
	}
}

func TestANodeIsDoneOnlyWhenItServes(t *testing.T) {
	step := func(edit func(*fleet)) report.UpgradeStep {
		f := newFleet().updated("worker-1")
		edit(f)
		return f.state().Nodes[0].Step
	}
	for _, c := range []struct {
		name string
		edit func(*fleet)
		want report.UpgradeStep
	}{
		{"everything new and online", func(*fleet) {}, report.StepDone},
		{"its chunk is offline", func(f *fleet) { f.data.Nodes[0].State = "Offline" }, report.StepReturning},
		{"it is still in maintenance", func(f *fleet) { f.data.Nodes[0].Mode = "maintenance" }, report.StepReturning},
		{"the operator is not done with it", func(f *fleet) { f.cluster.Status.UpdatingNode = "worker-1" }, report.StepReturning},
		{"its agent is old", func(f *fleet) {
			f.set("worker-1", "node", onOld)
		}, report.StepWaiting},
		{"its member is starting", func(f *fleet) {
			f.set("worker-1", "meta", func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Ready = false })
		}, report.StepRestarting},
		{"its chunk's pod is gone", func(f *fleet) {
			f.cluster.Status.UpdatingNode = "worker-1"
			f.pods = f.pods[1:]
			f.data.Nodes[0].State = "Offline"
		}, report.StepRestarting},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := step(c.edit); got != c.want {
				t.Errorf("step %s, want %s", got, c.want)
			}
		})
	}
	f := newFleet().updated("worker-1", "worker-2", "worker-3", "worker-4")
	f.cluster.Status.UpdatingNode = "worker-3"
	if f.state().Complete {
		t.Error("complete although the operator is not done")
	}
}
