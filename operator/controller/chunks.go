package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/apply"
	"github.com/iomesh/iomesh/operator/desired"
	"github.com/iomesh/iomesh/operator/devicemap"
	"github.com/iomesh/iomesh/operator/placement"
	"github.com/iomesh/iomesh/operator/rollout"
	"github.com/iomesh/iomesh/operator/storage"
	"github.com/iomesh/iomesh/operator/view"
)

type wish = rollout.Wish

// storageNodes takes the chunk pods one step on.
func (p *pass) storageNodes(ctx context.Context) error {
	pods := map[string]*corev1.Pod{} // wished, by node
	for _, name := range p.diskNodes() {
		w, pod, err := p.wishFor(name)
		if err != nil {
			return err
		}
		if w.Node == "" {
			continue
		}
		p.chunkWaits = append(p.chunkWaits, w)
		if pod != nil {
			pods[name] = pod
		}
	}
	in := rollout.Input{Wishes: p.chunkWaits, Status: p.status, Updating: p.cluster.Status.UpdatingNode,
		Paused:        p.cluster.Annotations[v1alpha1.AnnotationPauseUpdate],
		NeverHadDisks: p.status != nil && len(p.status.GetDisks()) == 0 && p.status.GetVolumes() == 0}
	for node, pod := range p.chunkPods {
		in.Pods = append(in.Pods, rollout.Pod{
			Node: node, Revision: pod.Labels[v1alpha1.LabelRevision], Ready: view.PodReady(pod), Deleting: pod.DeletionTimestamp != nil,
			Finished: pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded,
		})
	}
	p.plan, p.planned = rollout.Next(in), true
	if p.plan.Updating != p.cluster.Status.UpdatingNode {
		// Written down before the first deed; the deeds follow in the next pass.
		if p.plan.Updating != "" {
			p.event(corev1.EventTypeNormal, "UpdateStarted", "Update", "updating the chunk of node %s", p.plan.Updating)
		} else {
			p.event(corev1.EventTypeNormal, "UpdateFinished", "Update", "the chunk of node %s is updated", p.cluster.Status.UpdatingNode)
		}
		return nil
	}
	return p.perform(ctx, pods)
}

// perform does what the plan says.
func (p *pass) perform(ctx context.Context, pods map[string]*corev1.Pod) error {
	if p.plan.SetMode != "" {
		mode := storage.ModeActive
		if p.plan.Maintenance {
			mode = storage.ModeMaintenance
		}
		if err := p.storage.SetNodeMode(ctx, p.plan.SetMode, mode); err != nil {
			p.plan.Waiting += ": " + err.Error()
			return nil
		}
	}
	var errs []error
	for _, node := range p.plan.Delete {
		pod := p.chunkPods[node]
		if pod == nil {
			continue
		}
		errs = append(errs, apply.Delete(ctx, p.Client, pod))
		p.log.Info("deleted the chunk pod", "node", node, "waiting", p.plan.Waiting)
	}
	for _, node := range p.plan.Create {
		pod := pods[node]
		if pod == nil {
			continue
		}
		err := p.Client.Create(ctx, pod.DeepCopy(), client.FieldOwner(v1alpha1.FieldOwnerOperator))
		if err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("create the chunk pod of node %s: %w", node, err))
			continue
		}
		p.log.Info("created the chunk pod", "node", node)
	}
	return errors.Join(errs...)
}

// diskNodes lists the nodes that hold disks of this cluster, or are still giving them back, by name.
func (p *pass) diskNodes() []string {
	var names []string
	for i := range p.devices {
		d := &p.devices[i]
		if devicemap.Owns(p.cluster, d.Spec.Claim) || devicemap.Owns(p.cluster, d.Status.Claim) {
			names = append(names, d.Spec.Node)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// wishFor is the wish for a storage node and the pod that fulfils it; an empty wish: nothing can be wished for yet.
func (p *pass) wishFor(name string) (wish, *corev1.Pod, error) {
	running := p.chunkPods[name]
	// asIs keeps a running pod while its node cannot be judged.
	asIs := func(gone bool) wish {
		w := wish{Node: name, NodeGone: gone}
		if running != nil {
			w.Revision = running.Labels[v1alpha1.LabelRevision]
		}
		return w
	}
	n := p.node(name)
	if n == nil {
		return asIs(true), nil, nil
	}
	var reported []string
	for _, h := range p.cluster.Status.Hosts {
		if h.Node == name {
			reported = h.Addresses
		}
	}
	address, err := placement.DataAddress(n, reported, p.cluster.Spec.Chunk.DataCIDR)
	if err != nil {
		p.block("NoDataAddress", "%v", err)
		if running == nil {
			return wish{}, nil, nil
		}
		return asIs(false), nil, nil
	}
	c := desired.Chunk{Node: name, Address: address, Zone: n.Labels[placement.LabelZone]}
	p.chunks = append(p.chunks, c)
	pod, err := desired.ChunkPod(p.in, c)
	if err != nil {
		return wish{}, nil, err
	}
	return wish{Node: name, Revision: pod.Labels[v1alpha1.LabelRevision], Cordoned: n.Spec.Unschedulable}, pod, nil
}
