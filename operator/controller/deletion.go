package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/certs"
	"github.com/iomesh/iomesh/operator/desired"
	"github.com/iomesh/iomesh/operator/devicemap"
	"github.com/iomesh/iomesh/operator/placement"
	"github.com/iomesh/iomesh/operator/view"
)

// cleanPatience is how long a node may take to erase its directories before the deletion goes on without it.
const cleanPatience = 90 * time.Second

// delete makes a pass over a cluster that is to go. Each step is finished before the next begins, and each finds out from
// what exists whether it is finished, so that a deletion goes on where it stopped:
//
//	volumes     refuse while any exists, or while it cannot be known
//	disks       remove the claims; the agents erase and release
//	workloads   chunk pods, DaemonSets, StatefulSet
//	hosts       erase the directories on every node
//	objects     BlockDevices, claims and volumes of state, the pods that erased; then the finalizer, and the rest goes with its owner
func (p *pass) delete(ctx context.Context) error {
	if !controllerutil.ContainsFinalizer(p.cluster, v1alpha1.FinalizerCluster) {
		return nil
	}
	if err := p.observe(ctx); err != nil {
		return err
	}
	if err := p.recall(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) (bool, error){p.noVolumes, p.releaseAll, p.removeWorkloads, p.cleanHosts, p.removeObjects} {
		done, err := step(ctx)
		if err != nil || !done {
			if p.deleting == nil {
				p.wait("Deleting", "working")
			}
			return errors.Join(err, p.writeStatus(ctx))
		}
	}
	patch := client.MergeFromWithOptions(p.cluster.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(p.cluster, v1alpha1.FinalizerCluster)
	if err := p.Client.Patch(ctx, p.cluster, patch); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the finalizer of cluster %s: %w", p.cluster.Name, err)
	}
	p.log.Info("the cluster is deleted")
	return nil
}

func (p *pass) wait(reason, format string, args ...any) {
	p.deleting = &view.Problem{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// recall reads what is still there of identity and members, making nothing.
func (p *pass) recall(ctx context.Context) error {
	secret, err := p.secret(ctx, v1alpha1.SecretCA)
	if err != nil {
		return err
	}
	if secret != nil {
		if a, err := certs.LoadAuthority(secret); err == nil {
			p.clusterID = a.Cluster()
		}
	}
	for i := range p.volumes {
		if m, err := desired.MetaMember(&p.volumes[i]); err == nil {
			p.members = append(p.members, m)
		}
	}
	p.in.ClusterID, p.in.Meta = p.clusterID, p.members
	return nil
}

func (p *pass) lossAccepted() bool {
	return p.cluster.Annotations[v1alpha1.AnnotationAcceptLoss] == p.cluster.Name
}

// held lists the devices that the cluster holds, or has not finished giving back.
func (p *pass) held() (claimed, releasing []*v1alpha1.BlockDevice) {
	for i := range p.devices {
		d := &p.devices[i]
		switch {
		case devicemap.Owns(p.cluster, d.Spec.Claim):
			claimed = append(claimed, d)
		case devicemap.Owns(p.cluster, d.Status.Claim):
			releasing = append(releasing, d)
		}
	}
	return claimed, releasing
}

// noVolumes refuses while volumes exist. Once the claims are gone the question is settled and not asked again: the members
// may already be on their way out.
func (p *pass) noVolumes(ctx context.Context) (bool, error) {
	claimed, _ := p.held()
	if len(claimed) == 0 || p.lossAccepted() {
		return true, nil
	}
	accept := fmt.Sprintf("to give all data up: kubectl annotate iomesh %s %s=%s", p.cluster.Name, v1alpha1.AnnotationAcceptLoss, p.cluster.Name)
	p.connect(ctx)
	var volumes []*storagedv1.Volume
	err := p.statusErr
	if err == nil {
		volumes, err = p.storage.Volumes(ctx)
	}
	if err != nil {
		p.wait("MetaUnavailable", "cannot find out whether volumes exist: %v. Bring the metadata members back, or, %s", err, accept)
		return false, nil
	}
	if len(volumes) == 0 {
		return true, nil
	}
	names := make([]string, 0, len(volumes))
	for _, v := range volumes {
		names = append(names, v.GetName())
	}
	slices.Sort(names)
	list := strings.Join(names[:min(len(names), 10)], ", ")
	if len(names) > 10 {
		list += fmt.Sprintf(" and %d more", len(names)-10)
	}
	p.wait("VolumesExist", "%d volumes exist: %s. Delete their PersistentVolumeClaims (and PersistentVolumes with reclaim policy Retain) first, or, %s", len(names), list, accept)
	return false, nil
}

// releaseAll removes the claims and waits for the agents.
func (p *pass) releaseAll(ctx context.Context) (bool, error) {
	claimed, releasing := p.held()
	for _, d := range claimed {
		if err := p.applyClaim(ctx, d.Name, nil); err != nil {
			return false, err
		}
		if d.Status.Claim != nil {
			releasing = append(releasing, d)
		}
	}
	var waiting []string
	for _, d := range releasing {
		n := p.node(d.Spec.Node)
		if n == nil || p.lossAccepted() && !placement.Ready(n) {
			continue // nobody is there to release it
		}
		text := d.Name + " on " + d.Spec.Node
		if !placement.Ready(n) {
			text += " (the node is not ready: start it, or delete the node object if it is gone for good)"
		}
		if d.Status.Message != "" {
			text += ": " + d.Status.Message
		}
		waiting = append(waiting, text)
	}
	if len(waiting) > 0 {
		p.wait("ReleasingDisks", "waiting for the agents to erase %d disks: %s", len(waiting), strings.Join(waiting, "; "))
		return false, nil
	}
	return true, nil
}

// removeWorkloads deletes what runs and waits until nothing runs on any node that can say so.
func (p *pass) removeWorkloads(ctx context.Context) (bool, error) {
	ns := client.InNamespace(p.cluster.Namespace)
	none := func(client.Object) bool { return false }
	isClean := func(o client.Object) bool { return desired.ComponentOf(o) == desired.ComponentClean }
	left := 0
	for _, list := range []client.ObjectList{&appsv1.DaemonSetList{}, &appsv1.StatefulSetList{}, &policyv1.PodDisruptionBudgetList{}} {
		n, err := p.Applier.Prune(ctx, list, none, ns, p.ours())
		if err != nil {
			return false, err
		}
		left += n
	}
	var pods corev1.PodList
	if _, err := p.Applier.Prune(ctx, &pods, isClean, ns, p.ours()); err != nil {
		return false, err
	}
	var waiting []string
	for i := range pods.Items {
		pod := &pods.Items[i]
		if isClean(pod) {
			continue
		}
		if n := p.node(pod.Spec.NodeName); pod.Spec.NodeName != "" && (n == nil || !placement.Ready(n)) {
			continue // its node cannot confirm the end; the pod goes when it returns
		}
		waiting = append(waiting, pod.Name)
	}
	if left > 0 || len(waiting) > 0 {
		p.wait("RemovingWorkloads", "waiting for the pods to end: %s", strings.Join(waiting, ", "))
		return false, nil
	}
	return true, nil
}

// cleanHosts erases the directories of every node that answers. It is done when what removeObjects removes after it has gone: the pods that
// cleaned may then be gone too.
func (p *pass) cleanHosts(ctx context.Context) (bool, error) {
	if len(p.devices) == 0 && len(p.volumes) == 0 {
		return true, nil
	}
	keepMeta := p.cluster.Spec.ReclaimPolicy != nil && p.cluster.Spec.ReclaimPolicy.Volume == v1alpha1.ReclaimRetain
	var waiting []string
	for i := range p.nodes {
		n := &p.nodes[i]
		if !placement.Ready(n) {
			continue
		}
		want := desired.CleanPod(p.in, n.Name, keepMeta)
		var pod corev1.Pod
		err := p.Client.Get(ctx, client.ObjectKeyFromObject(want), &pod)
		if apierrors.IsNotFound(err) {
			if err := p.Client.Create(ctx, want, client.FieldOwner(v1alpha1.FieldOwnerOperator)); err != nil && !apierrors.IsAlreadyExists(err) {
				return false, fmt.Errorf("create the pod that cleans node %s: %w", n.Name, err)
			}
			waiting = append(waiting, n.Name)
			continue
		}
		if err != nil {
			return false, fmt.Errorf("get the pod that cleans node %s: %w", n.Name, err)
		}
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
		case p.Now().Sub(pod.CreationTimestamp.Time) > cleanPatience:
			p.event(corev1.EventTypeWarning, "HostNotCleaned", "Delete", "node %s did not erase %s within %s: erase it by hand", n.Name, desired.HostStateDir, cleanPatience)
		default:
			waiting = append(waiting, n.Name)
		}
	}
	if len(waiting) > 0 {
		p.wait("CleaningHosts", "erasing %s on the nodes %s", desired.HostStateDir, strings.Join(waiting, ", "))
		return false, nil
	}
	return true, nil
}

// removeObjects deletes what does not go with the cluster's object by itself.
func (p *pass) removeObjects(ctx context.Context) (bool, error) {
	ns := client.InNamespace(p.cluster.Namespace)
	none := func(client.Object) bool { return false }
	others := func(o client.Object) bool {
		d, ok := o.(*v1alpha1.BlockDevice)
		return ok && d.Spec.Claim != nil && !devicemap.Owns(p.cluster, d.Spec.Claim)
	}
	if _, err := p.Applier.Prune(ctx, &v1alpha1.BlockDeviceList{}, others, ns); err != nil {
		return false, err
	}
	if _, err := p.Applier.Prune(ctx, &corev1.PersistentVolumeClaimList{}, none, ns, p.ours()); err != nil {
		return false, err
	}
	left, err := p.Applier.Prune(ctx, &corev1.PersistentVolumeList{}, none,
		client.MatchingLabels(desired.VolumeSelector(p.cluster.Namespace, p.cluster.Name)))
	if err != nil {
		return false, err
	}
	if left > 0 {
		p.wait("RemovingObjects", "waiting for %d persistent volumes of state to go", left)
		return false, nil
	}
	_, err = p.Applier.Prune(ctx, &corev1.PodList{}, none, ns, p.ours())
	return err == nil, err
}
