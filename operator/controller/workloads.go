package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/apply"
	"github.com/iomesh/iomesh/operator/desired"
	"github.com/iomesh/iomesh/operator/placement"
	"github.com/iomesh/iomesh/operator/rollout"
)

// metaMembers reads where the members are pinned and, before the first start, decides it.
func (p *pass) metaMembers(ctx context.Context) error {
	var pinned []placement.Member
	for i := range p.volumes {
		m, err := desired.MetaMember(&p.volumes[i])
		if err != nil {
			p.block("BadMemberVolume", "%v", err)
			return nil
		}
		pinned = append(pinned, m)
		p.in.MetaJoining = p.in.MetaJoining || desired.MemberJoins(&p.volumes[i])
		if err := p.freeVolume(ctx, &p.volumes[i]); err != nil {
			return err
		}
	}
	replicas := p.cluster.Spec.Meta.Replicas
	if replicas == 0 {
		replicas = 3
	}
	members, err := placement.Meta(p.nodes, p.cluster.Spec.Meta.PodPolicy, pinned, replicas)
	p.members, p.in.Meta = members, members
	if err != nil {
		p.members = pinned
		p.block("WaitingForNodes", "%v", err)
		return nil
	}
	if len(members) > len(pinned) {
		volumes := desired.MetaVolumes(p.in)
		if len(pinned) > 0 {
			volumes = p.newPlaces(pinned, members)
		}
		for _, pv := range volumes {
			if err := p.Client.Create(ctx, pv, client.FieldOwner(v1alpha1.FieldOwnerOperator)); err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("create persistent volume %s: %w", pv.Name, err)
			}
		}
		// The volumes are the truth about places: go on when they can be read back.
		p.members = nil
		return &conflictError{fmt.Errorf("pinned the metadata members to their nodes")}
	}
	p.complete = true
	for _, m := range members {
		if n := p.node(m.Node); n != nil {
			if ip, ok := placement.InternalAddress(n); ok && ip != m.Address {
				p.block("MemberAddressChanged", "node %s of the metadata member %s had the address %s and now has %s: give it its old address back",
					m.Node, desired.MetaPodName(m.Ordinal), m.Address, ip)
			}
		}
	}
	return nil
}

// newPlaces are the volumes of the members that have none: another node than before takes them. The first start, if it was interrupted between two
// volumes, looks the same, and is as well served.
func (p *pass) newPlaces(pinned, members []placement.Member) []*corev1.PersistentVolume {
	var out []*corev1.PersistentVolume
	for _, m := range members {
		if !slices.ContainsFunc(pinned, func(x placement.Member) bool { return x.Ordinal == m.Ordinal }) {
			p.event(corev1.EventTypeNormal, "MemberPlaced", "MoveMember", "the metadata member %s gets its place on node %s", desired.MetaPodName(m.Ordinal), m.Node)
			out = append(out, desired.MetaVolumeElsewhere(p.in, m, p.NewUID()))
		}
	}
	return out
}

// freeVolume lets a member's volume be claimed again after its claim was deleted by hand: the state on the node is still there.
func (p *pass) freeVolume(ctx context.Context, pv *corev1.PersistentVolume) error {
	if desired.MemberLeaves(pv) || pv.DeletionTimestamp != nil || pv.Status.Phase != corev1.VolumeReleased || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == "" {
		return nil
	}
	patch := client.MergeFromWithOptions(pv.DeepCopy(), client.MergeFromWithOptimisticLock{})
	pv.Spec.ClaimRef.UID, pv.Spec.ClaimRef.ResourceVersion = "", ""
	if err := p.Client.Patch(ctx, pv, patch); err != nil {
		return fmt.Errorf("free persistent volume %s: %w", pv.Name, err)
	}
	return nil
}

// workloads applies everything whose shape depends on the wish and the members only.
func (p *pass) workloads(ctx context.Context) error {
	objects := []client.Object{desired.Endpoints(p.in), desired.Meta(p.in), desired.Node(p.in)}
	if desired.WantsAttach(p.in) {
		objects = append(objects, desired.Attach(p.in))
	}
	for _, o := range objects {
		changed, err := p.Applier.Apply(ctx, o)
		if err != nil {
			return err
		}
		if changed {
			p.log.Info("applied", "kind", o.GetObjectKind().GroupVersionKind().Kind, "name", o.GetName())
		}
	}
	if !desired.WantsAttach(p.in) && p.attachSet != nil {
		// Its pods carry the block devices of running pods, so it goes only when nothing is attached any more.
		if err := p.removeAttach(ctx); err != nil {
			return err
		}
	}
	return nil
}

// removeAttach deletes the attacher's DaemonSet once no volume has a session.
func (p *pass) removeAttach(ctx context.Context) error {
	st := p.cluster.Status
	for _, n := range st.Nodes {
		if n.Sessions > 0 {
			p.block("AttachInUse", "attach is iscsi now, and the DaemonSet %s is kept until no volume is attached: node %s serves %d sessions", desired.AttachName, n.Name, n.Sessions)
			return nil
		}
	}
	return apply.Delete(ctx, p.Client, p.attachSet)
}

// budgets applies the disruption budgets.
func (p *pass) budgets(ctx context.Context) error {
	p.in.Chunks = p.chunks
	p.in.ChunkBudget.MinAvailable, p.in.ChunkBudget.Reason = rollout.MinAvailable(p.status, len(p.chunks), p.plan.Updating)
	keep := map[string]bool{}
	for _, b := range desired.Budgets(p.in) {
		keep[b.Name] = true
		if _, err := p.Applier.Apply(ctx, b); err != nil {
			return err
		}
	}
	_, err := p.Applier.Prune(ctx, &policyv1.PodDisruptionBudgetList{}, func(o client.Object) bool { return keep[o.GetName()] },
		client.InNamespace(p.cluster.Namespace), p.ours())
	return err
}

// ours matches the objects that the operator made for this cluster.
func (p *pass) ours() client.MatchingLabels {
	return client.MatchingLabels(maps.Clone(desired.Ours(p.cluster.Name)))
}

// connect asks the metadata members for the status. Their silence is an answer, too.
func (p *pass) connect(ctx context.Context) {
	credentials, err := p.secret(ctx, v1alpha1.SecretControllerTLS)
	if err == nil && credentials == nil {
		err = fmt.Errorf("secret %s does not exist yet", v1alpha1.SecretControllerTLS)
	}
	if err != nil {
		p.statusErr = err
		return
	}
	p.storage, err = p.Connect.Connect(desired.MetaEndpoints(p.members), credentials)
	if err != nil {
		p.statusErr = err
		return
	}
	p.status, p.statusErr = p.storage.Status(ctx)
	if p.statusErr == nil && p.status.GetClusterId() != "" && p.status.GetClusterId() != p.clusterID {
		p.statusErr = fmt.Errorf("the metadata members are of the cluster %s, this is %s", p.status.GetClusterId(), p.clusterID)
		p.status = nil
	}
	if p.statusErr != nil {
		p.status = nil
	}
}
