package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/apply"
	"github.com/iomesh/iomesh/operator/desired"
)

const ns = "iomesh-system"

// world is a Kubernetes API with, in turn(), everything around the operator: kubelets, workload controllers, agents, chunks
// and metadata members, each doing its next step.
type world struct {
	t       *testing.T
	c       client.Client
	r       *Reconciler
	storage *members
	events  []string
	now     time.Time
	uid     int
	// agentsAway stops the agents.
	agentsAway bool
	// most missing chunk pods seen at once since the first was ready
	missingMost int
	// changes that a process of the operator makes before it is killed, 0 = it lives; deaths so far
	changes, deaths int
}

// members is the metadata members' side.
type members struct {
	silent  bool
	volumes []*storagedv1.Volume
	modes   map[string]string
	disks   map[string]*storagedv1.Disk
	nodes   map[string]*storagedv1.Node
	calls   []string
	meta    []*storagedv1.MetaMember
	joined  map[string]bool // by endpoint
	life    *life
}

func (m *members) Connect(string, *corev1.Secret) (Storage, error) { return m, nil }

func (m *members) Joined(_ context.Context, endpoint string, _ *corev1.Secret) (bool, error) {
	return m.joined[endpoint], nil
}

func (m *members) Status(context.Context) (*storagedv1.ClusterStatus, error) {
	if m.silent {
		return nil, errors.New("connection refused")
	}
	st := &storagedv1.ClusterStatus{Health: storagedv1.Health_HEALTH_OK, Volumes: uint32(len(m.volumes)), Leader: "iomesh-meta-0", Meta: m.meta}
	for _, name := range sortedKeys(m.nodes) {
		n := m.nodes[name]
		n.Mode = "active"
		if mode := m.modes[name]; mode != "" {
			n.Mode = mode
		}
		if n.State != "Online" {
			st.Health, st.Reason = storagedv1.Health_HEALTH_DEGRADED, name+" is away"
		}
		st.Nodes = append(st.Nodes, n)
	}
	for _, id := range sortedKeys(m.disks) {
		st.Disks = append(st.Disks, m.disks[id])
	}
	return st, nil
}

func (m *members) Volumes(context.Context) ([]*storagedv1.Volume, error) {
	if m.silent {
		return nil, errors.New("connection refused")
	}
	return m.volumes, nil
}

func (m *members) DrainDisk(_ context.Context, id string, cancel bool) error {
	m.calls = append(m.calls, fmt.Sprintf("drain %s %v", id, cancel))
	if s := m.disks[id].State; s == diskFailed || s == diskRemoved {
		return fmt.Errorf("disk %s is %s: its replicas are rebuilt elsewhere already", id, s)
	}
	return m.life.change(func() error {
		m.disks[id].State = diskDraining
		if cancel {
			m.disks[id].State = diskActive
		}
		return nil
	})
}

func (m *members) RemoveDisk(_ context.Context, id string) error {
	m.calls = append(m.calls, "remove "+id)
	return m.life.change(func() error { delete(m.disks, id); return nil })
}

func (m *members) RemoveNode(_ context.Context, node string) error {
	m.calls = append(m.calls, "forget "+node)
	return m.life.change(func() error { delete(m.nodes, node); return nil })
}

func (m *members) SetNodeMode(_ context.Context, node, mode string) error {
	m.calls = append(m.calls, mode+" "+node)
	return m.life.change(func() error { m.modes[node] = mode; return nil })
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Eventf records events.
func (w *world) Eventf(_, _ runtime.Object, kind, reason, _, note string, args ...any) {
	w.events = append(w.events, kind+" "+reason+" "+fmt.Sprintf(note, args...))
}

func newWorld(t *testing.T, nodes int) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	// Only what is used: the fake client looks through the whole scheme at every write.
	if err := errors.Join(corev1.AddToScheme(scheme), appsv1.AddToScheme(scheme), policyv1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), storage: &members{modes: map[string]string{}, disks: map[string]*storagedv1.Disk{}, nodes: map[string]*storagedv1.Node{}}}
	w.c = fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(serverSide(scheme)).WithTypeConverters(managedfields.NewDeducedTypeConverter()).
		WithStatusSubresource(&v1alpha1.IOMeshCluster{}, &v1alpha1.BlockDevice{}, &corev1.Pod{}, &appsv1.DaemonSet{}, &appsv1.StatefulSet{}, &corev1.Node{}).Build()
	w.r = New(Options{
		Client: w.c, Applier: apply.New(w.c, v1alpha1.FieldOwnerOperator), Connect: w.storage, Events: w, Log: slog.New(slog.DiscardHandler),
		Image: "iomesh/iomesh:v1", Poll: time.Second, Now: func() time.Time { return w.now },
		NewUID: func() string { w.uid++; return fmt.Sprintf("00000000-0000-0000-0000-%012d", w.uid) },
	})
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.0.0.%d", i+1)}}
		w.must(w.c.Create(t.Context(), n))
		d := &v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: "bd-" + name, Namespace: ns, Labels: map[string]string{v1alpha1.LabelNode: name}}}
		d.Spec = v1alpha1.BlockDeviceSpec{Node: name, Path: "/dev/sdb", Identity: v1alpha1.Identity{Serial: name, SizeBytes: 8 << 30}}
		w.must(w.c.Create(t.Context(), d))
	}
	return w
}

// cluster creates an IOMeshCluster.
func (w *world) cluster(name string, edit func(*v1alpha1.IOMeshCluster)) {
	w.t.Helper()
	c := &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns, UID: types.UID("uid-" + name), Generation: 1}}
	c.Spec.DiskDeploymentMode = v1alpha1.AllFlash
	c.Spec.Meta.Replicas = 3
	c.Spec.Chunk.DeviceMap = map[v1alpha1.MountType]v1alpha1.DeviceSelection{v1alpha1.DataStoreWithJournal: {
		Selector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: v1alpha1.LabelNode, Operator: metav1.LabelSelectorOpExists}}}}}
	if edit != nil {
		edit(c)
	}
	w.must(w.c.Create(w.t.Context(), c))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) get(name string) *v1alpha1.IOMeshCluster {
	w.t.Helper()
	c := &v1alpha1.IOMeshCluster{}
	w.must(w.c.Get(w.t.Context(), client.ObjectKey{Namespace: ns, Name: name}, c))
	return c
}

func (w *world) device(name string) *v1alpha1.BlockDevice {
	w.t.Helper()
	d := &v1alpha1.BlockDevice{}
	w.must(w.c.Get(w.t.Context(), client.ObjectKey{Namespace: ns, Name: name}, d))
	return d
}

// pass lets the operator reconcile once and then everyone else do a step.
func (w *world) pass(name string) {
	w.t.Helper()
	w.now = w.now.Add(time.Second)
	_, err := w.r.Reconcile(w.t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: ns, Name: name}})
	if w.storage.life != nil && w.storage.life.dead {
		err = nil // whatever it was about to say
		w.restart()
	}
	w.must(err)
	w.turn()
}

// until reconciles until the condition holds, at most 60 times.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for range 60 {
		if holds() {
			return
		}
		w.pass("iomesh")
	}
	c := &v1alpha1.IOMeshCluster{}
	_ = w.c.Get(w.t.Context(), client.ObjectKey{Namespace: ns, Name: "iomesh"}, c)
	w.t.Fatalf("never came to: %s\nphase %s, conditions %+v\nevents:\n%s", what, c.Status.Phase, c.Status.Conditions, strings.Join(w.events, "\n"))
}

func (w *world) turn() {
	w.t.Helper()
	ctx := w.t.Context()
	w.statefulSet(ctx)
	w.daemonSets(ctx)
	w.kubelets(ctx)
	if !w.agentsAway {
		w.agents(ctx)
	}
	w.chunks(ctx)
}

// statefulSet makes the metadata members' pods and claims.
func (w *world) statefulSet(ctx context.Context) {
	var sts appsv1.StatefulSet
	if err := w.c.Get(ctx, client.ObjectKey{Namespace: ns, Name: desired.MetaName}, &sts); err != nil {
		var pods corev1.PodList
		w.must(w.c.List(ctx, &pods, client.InNamespace(ns)))
		for i := range pods.Items {
			if desired.ComponentOf(&pods.Items[i]) == desired.ComponentMeta {
				w.must(w.c.Delete(ctx, &pods.Items[i]))
			}
		}
		return
	}
	for i := range *sts.Spec.Replicas {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: desired.MetaPodName(i), Namespace: ns, Labels: sts.Spec.Template.Labels}, Spec: sts.Spec.Template.Spec}
		pvc := sts.Spec.VolumeClaimTemplates[0].DeepCopy()
		pvc.ObjectMeta = metav1.ObjectMeta{Name: desired.MetaClaimName(i), Namespace: ns, Labels: pvc.Labels}
		for _, o := range []client.Object{pod, pvc} {
			if err := w.c.Create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
				w.t.Fatal(err)
			}
		}
		w.bind(ctx, pod.Name, pvc.Name, desired.MetaVolumeName(ns, "iomesh", i))
	}
}

// bind joins a member's claim to its volume, as the volume controller does, and puts the pod where the volume is.
func (w *world) bind(ctx context.Context, podName, claimName, volumeName string) {
	var pv corev1.PersistentVolume
	var pvc corev1.PersistentVolumeClaim
	var pod corev1.Pod
	if w.c.Get(ctx, client.ObjectKey{Name: volumeName}, &pv) != nil {
		return
	}
	w.must(w.c.Get(ctx, client.ObjectKey{Namespace: ns, Name: claimName}, &pvc))
	w.must(w.c.Get(ctx, client.ObjectKey{Namespace: ns, Name: podName}, &pod))
	if pvc.UID == "" {
		w.uid++
		pvc.UID = types.UID(fmt.Sprintf("claim-%d", w.uid))
	}
	if ref := pv.Spec.ClaimRef; ref.UID == "" {
		ref.UID = pvc.UID
		w.must(w.c.Update(ctx, &pv))
		pvc.Spec.VolumeName = pv.Name
		w.must(w.c.Update(ctx, &pvc))
	} else if ref.UID != pvc.UID {
		w.must(w.c.Update(ctx, &pvc))
		return
	}
	if m, err := desired.MetaMember(&pv); err == nil && pod.Spec.NodeName == "" {
		pod.Spec.NodeName = m.Node
		w.must(w.c.Update(ctx, &pod))
	}
}

func (w *world) daemonSets(ctx context.Context) {
	var list appsv1.DaemonSetList
	w.must(w.c.List(ctx, &list, client.InNamespace(ns)))
	for i := range list.Items {
		ds := &list.Items[i]
		ds.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: 3, NumberReady: 3, UpdatedNumberScheduled: 3, ObservedGeneration: ds.Generation}
		w.must(w.c.Status().Update(ctx, ds))
	}
}

// kubelets start every pod on a ready node.
func (w *world) kubelets(ctx context.Context) {
	var pods corev1.PodList
	w.must(w.c.List(ctx, &pods, client.InNamespace(ns)))
	chunks, wanted := 0, map[string]bool{}
	for i := range pods.Items {
		p := &pods.Items[i]
		if desired.ComponentOf(p) == desired.ComponentChunk {
			chunks++
		}
		p.Status.Phase = corev1.PodRunning
		if desired.ComponentOf(p) == desired.ComponentClean {
			p.Status.Phase = corev1.PodSucceeded
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		w.must(w.c.Status().Update(ctx, p))
	}
	for _, d := range w.storage.disks {
		wanted[d.Node] = true
	}
	w.missingMost = max(w.missingMost, len(wanted)-chunks)
}

// agents judge devices and honour claims.
func (w *world) agents(ctx context.Context) {
	var list v1alpha1.BlockDeviceList
	w.must(w.c.List(ctx, &list, client.InNamespace(ns)))
	for i := range list.Items {
		d := &list.Items[i]
		d.Status.State = v1alpha1.DeviceActive
		d.Status.Claim = d.Spec.Claim.DeepCopy()
		d.Status.Eligible, d.Status.Reasons, d.Status.ClaimState = true, nil, v1alpha1.Unclaimed
		if d.Spec.Claim != nil {
			d.Status.Eligible, d.Status.ClaimState = false, v1alpha1.Claimed
			d.Status.Reasons = []v1alpha1.Reason{{Code: v1alpha1.ReasonClaimed, Message: "belongs to a cluster"}}
		} else if disk := w.storage.disks["disk-"+d.Name]; disk != nil {
			disk.State = diskMissing
		}
		w.must(w.c.Status().Update(ctx, d))
	}
}

// chunks register, and use the disks that agents handed over.
func (w *world) chunks(ctx context.Context) {
	var pods corev1.PodList
	w.must(w.c.List(ctx, &pods, client.InNamespace(ns)))
	running := map[string]bool{}
	for i := range pods.Items {
		if desired.ComponentOf(&pods.Items[i]) == desired.ComponentChunk {
			running[desired.ChunkNode(&pods.Items[i])] = true
		}
	}
	for name := range running {
		if w.storage.nodes[name] == nil {
			w.storage.nodes[name] = &storagedv1.Node{Name: name, Chunk: uint32(len(w.storage.nodes) + 1)}
		}
	}
	for name, n := range w.storage.nodes {
		n.State = "Offline"
		if running[name] {
			n.State = "Online"
		}
	}
	var list v1alpha1.BlockDeviceList
	w.must(w.c.List(ctx, &list, client.InNamespace(ns)))
	for i := range list.Items {
		d := &list.Items[i]
		id := "disk-" + d.Name
		if d.Status.Claim != nil && running[d.Spec.Node] && w.storage.disks[id] == nil {
			w.storage.disks[id] = &storagedv1.Disk{Id: id, Name: d.Name, Node: d.Spec.Node, State: diskActive, SizeBytes: 8 << 30}
		}
	}
}

func (w *world) exists(obj client.Object, name string) bool {
	w.t.Helper()
	key := client.ObjectKey{Namespace: ns, Name: name}
	if _, ok := obj.(*corev1.PersistentVolume); ok {
		key.Namespace = ""
	}
	err := w.c.Get(w.t.Context(), key, obj)
	if err != nil && !apierrors.IsNotFound(err) {
		w.t.Fatal(err)
	}
	return err == nil
}

func (w *world) said(part string) bool {
	return slices.ContainsFunc(w.events, func(e string) bool { return strings.Contains(e, part) })
}
