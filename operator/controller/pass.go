package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/desired"
	"github.com/iomesh/iomesh/operator/devicemap"
	"github.com/iomesh/iomesh/operator/placement"
	"github.com/iomesh/iomesh/operator/rollout"
	"github.com/iomesh/iomesh/operator/view"
)

// pass is the state of one pass over one cluster.
type pass struct {
	*Reconciler
	cluster *v1alpha1.IOMeshCluster
	log     *slog.Logger

	// observed
	nodes     []corev1.Node
	devices   []v1alpha1.BlockDevice
	volumes   []corev1.PersistentVolume // state of the metadata members
	metaPods  []corev1.Pod
	chunkPods map[string]*corev1.Pod // by node
	nodeSet   *appsv1.DaemonSet
	attachSet *appsv1.DaemonSet

	// decided
	clusterID  string
	members    []placement.Member
	complete   bool // members are all there
	in         desired.Input
	storage    Storage
	status     *storagedv1.ClusterStatus
	statusErr  error
	decision   devicemap.Decision
	draining   []string
	moving     []string // metadata members, in words
	plan       rollout.Plan
	planned    bool // plan was made in this pass
	chunks     []desired.Chunk
	chunkWaits []rollout.Wish
	blocked    []view.Problem
	deleting   *view.Problem
}

// run makes a pass over a cluster that is to exist.
func (p *pass) run(ctx context.Context) error {
	if !controllerutil.ContainsFinalizer(p.cluster, v1alpha1.FinalizerCluster) {
		patch := client.MergeFromWithOptions(p.cluster.DeepCopy(), client.MergeFromWithOptimisticLock{})
		controllerutil.AddFinalizer(p.cluster, v1alpha1.FinalizerCluster)
		if err := p.Client.Patch(ctx, p.cluster, patch); err != nil {
			return fmt.Errorf("add finalizer to cluster %s: %w", p.cluster.Name, err)
		}
	}
	if err := p.observe(ctx); err != nil {
		return err
	}
	err := p.steps(ctx)
	// The status is written whatever failed: it is what people look at.
	return errors.Join(err, p.writeStatus(ctx))
}

func (p *pass) steps(ctx context.Context) error {
	if err := p.identity(ctx); err != nil {
		return err
	}
	if p.clusterID == "" {
		return nil // blocked, and said why
	}
	if err := p.metaMembers(ctx); err != nil {
		return err
	}
	if !p.complete {
		return nil
	}
	if err := p.certificates(ctx); err != nil {
		return err
	}
	if err := p.workloads(ctx); err != nil {
		return err
	}
	p.connect(ctx)
	// From here on one step's failure does not keep the others from theirs: a disk that cannot be drained is no reason not to
	// start a chunk.
	return errors.Join(p.deviceMap(ctx), p.moveMember(ctx), p.storageNodes(ctx), p.budgets(ctx), p.forgetNodes(ctx))
}

// observe reads what there is from the cache.
func (p *pass) observe(ctx context.Context) error {
	ns := client.InNamespace(p.cluster.Namespace)
	var nodes corev1.NodeList
	var devices v1alpha1.BlockDeviceList
	var volumes corev1.PersistentVolumeList
	var pods corev1.PodList
	for what, err := range map[string]error{
		"nodes":              p.Client.List(ctx, &nodes),
		"block devices":      p.Client.List(ctx, &devices, ns),
		"persistent volumes": p.Client.List(ctx, &volumes, client.MatchingLabels(desired.VolumeSelector(p.cluster.Namespace, p.cluster.Name))),
		"pods":               p.Client.List(ctx, &pods, ns, client.MatchingLabels{v1alpha1.LabelCluster: p.cluster.Name}),
	} {
		if err != nil {
			return fmt.Errorf("list %s: %w", what, err)
		}
	}
	p.nodes, p.devices, p.volumes = nodes.Items, devices.Items, volumes.Items
	p.chunkPods = map[string]*corev1.Pod{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		switch desired.ComponentOf(pod) {
		case desired.ComponentMeta:
			p.metaPods = append(p.metaPods, *pod)
		case desired.ComponentChunk:
			p.chunkPods[desired.ChunkNode(pod)] = pod
		}
	}
	p.image()
	var err error
	if p.nodeSet, err = daemonSet(ctx, p, desired.NodeName); err != nil {
		return err
	}
	p.attachSet, err = daemonSet(ctx, p, desired.AttachName)
	return err
}

func (p *pass) image() {
	p.in = desired.Input{Cluster: p.cluster, Image: p.cluster.Spec.Image}
	if p.in.Image == "" {
		p.in.Image = p.Image
	}
}

func daemonSet(ctx context.Context, p *pass, name string) (*appsv1.DaemonSet, error) {
	var ds appsv1.DaemonSet
	err := p.Client.Get(ctx, client.ObjectKey{Namespace: p.cluster.Namespace, Name: name}, &ds)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get DaemonSet %s: %w", name, err)
	}
	return &ds, nil
}

func (p *pass) block(reason, format string, args ...any) {
	p.blocked = append(p.blocked, view.Problem{Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (p *pass) node(name string) *corev1.Node {
	for i := range p.nodes {
		if p.nodes[i].Name == name {
			return &p.nodes[i]
		}
	}
	return nil
}
