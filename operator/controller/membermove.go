package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/apply"
	"github.com/iomesh/iomesh/operator/desired"
	"github.com/iomesh/iomesh/operator/devicemap"
	"github.com/iomesh/iomesh/operator/placement"
)

// A metadata member moves off a node that is leaving by losing its directory and being taken in anew elsewhere, which the members do by themselves
// (package storaged/meta): the others remove its former self and add the new one as a learner. Everything is read from the objects, so that another
// operator, or this one after a restart, goes on where it stopped:
//
//	volume pinned to the leaving node ──▶ marked "leaving" ──▶ claim and pod deleted ──▶ volume deleted
//	volume missing ──▶ pinned to another node, marked "joining" (metaMembers) ──▶ pod made from the new list of members
//	marked "joining" ──▶ it votes ──▶ mark removed ──▶ the others restart with the new list, one after the other
//
// One member moves at a time, and only while all others are healthy and a place is known for it. While one joins, the StatefulSet does not restart the
// others: with a member less they are just a majority.

// moveMember takes the move under way one step on, or begins one.
func (p *pass) moveMember(ctx context.Context) error {
	note := func(format string, args ...any) { p.moving = append(p.moving, fmt.Sprintf(format, args...)) }
	for i := range p.volumes {
		pv := &p.volumes[i]
		m, err := desired.MetaMember(pv)
		if err != nil {
			return nil // blocked already, and said why
		}
		name := desired.MetaPodName(m.Ordinal)
		switch {
		case desired.MemberLeaves(pv):
			note("the metadata member %s leaves node %s", name, m.Node)
			return p.evictMember(ctx, pv, m)
		case desired.MemberJoins(pv):
			return p.awaitMember(ctx, pv, m, note)
		}
	}
	for i := range p.volumes {
		pv := &p.volumes[i]
		m, err := desired.MetaMember(pv)
		if err != nil || !p.leaves(m) {
			continue
		}
		if why := p.mayMove(m); why != "" {
			note("the metadata member %s is to leave node %s: %s", desired.MetaPodName(m.Ordinal), m.Node, why)
			return nil
		}
		if err := p.mark(ctx, pv, desired.MarkLeaving); err != nil {
			return err
		}
		p.event(corev1.EventTypeNormal, "MemberMoveStarted", "MoveMember", "the metadata member %s leaves node %s", desired.MetaPodName(m.Ordinal), m.Node)
		note("the metadata member %s leaves node %s", desired.MetaPodName(m.Ordinal), m.Node)
		return nil
	}
	return nil
}

// leaves reports whether a member's node is to go: it says so, or it has left Kubernetes and the member is silent.
func (p *pass) leaves(m placement.Member) bool {
	if n := p.node(m.Node); n != nil {
		return placement.Leaving(n)
	}
	healthy, known := p.memberHealth(m)
	return known && !healthy
}

func (p *pass) memberHealth(m placement.Member) (healthy, known bool) {
	for _, x := range p.status.GetMeta() {
		if x.GetName() == desired.MetaPodName(m.Ordinal) {
			return x.GetHealthy(), true
		}
	}
	return false, false
}

// mayMove says why a member must stay where it is; empty: it may go.
func (p *pass) mayMove(m placement.Member) string {
	if p.status == nil {
		return "the metadata members do not answer"
	}
	var rest []placement.Member
	for _, other := range p.members {
		if other.Ordinal == m.Ordinal {
			continue
		}
		rest = append(rest, other)
		if healthy, known := p.memberHealth(other); !known || !healthy {
			return fmt.Sprintf("the member %s is not healthy, and without it the others would be no majority", desired.MetaPodName(other.Ordinal))
		}
	}
	if len(rest) < 2 {
		return "the only metadata member cannot be moved, since nobody could take it in again"
	}
	if p.cluster.Status.UpdatingNode != "" {
		return "waiting for the update of node " + p.cluster.Status.UpdatingNode
	}
	if d := p.diskOnItsWayOut(m.Node); d != "" {
		return "the disk " + d + " leaves the node first"
	}
	if _, err := placement.Meta(p.nodes, p.cluster.Spec.Meta.PodPolicy, rest, int32(len(p.members))); err != nil {
		return "no other node can take it: " + err.Error()
	}
	return ""
}

// diskOnItsWayOut is a disk that a living node is giving back, or is to; empty: none. All chunks restart with the list of members that a move
// changes, and a chunk that restarts while its disk is given back no longer knows that disk: the agent notices after two minutes only.
func (p *pass) diskOnItsWayOut(node string) string {
	if n := p.node(node); n == nil || !placement.Ready(n) {
		return ""
	}
	for _, r := range p.decision.Releases {
		if r.Node == node {
			return r.Device
		}
	}
	for i := range p.devices {
		d := &p.devices[i]
		if d.Spec.Node == node && d.Spec.Claim == nil && devicemap.Owns(p.cluster, d.Status.Claim) {
			return d.Name
		}
	}
	return ""
}

// evictMember removes a member from its node. Its claim goes first: a pod that the StatefulSet makes at once in the place of the deleted one finds no
// claim to use there. Its volume goes last, because the mark on it is what is known of the move.
func (p *pass) evictMember(ctx context.Context, pv *corev1.PersistentVolume, m placement.Member) error {
	var claim corev1.PersistentVolumeClaim
	err := p.Client.Get(ctx, client.ObjectKey{Namespace: p.cluster.Namespace, Name: desired.MetaClaimName(m.Ordinal)}, &claim)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get the claim of the metadata member %s: %w", desired.MetaPodName(m.Ordinal), err)
	}
	held := err == nil && claim.Spec.VolumeName == pv.Name // otherwise there is none, or the StatefulSet has made the next one
	if held && claim.DeletionTimestamp == nil {
		if err := apply.Delete(ctx, p.Client, &claim); err != nil {
			return err
		}
	}
	n := p.node(m.Node)
	for i := range p.metaPods {
		pod := &p.metaPods[i]
		if pod.Name != desired.MetaPodName(m.Ordinal) || pod.Spec.NodeName != m.Node {
			continue
		}
		remove := apply.Delete
		switch {
		case n == nil || !placement.Ready(n):
			// Nobody is there to say that it ended. It may run on, which is harmless: the others remove it from the vote.
			remove = apply.DeleteNow
		case pod.DeletionTimestamp != nil:
			continue
		}
		if err := remove(ctx, p.Client, pod); err != nil {
			return err
		}
	}
	if held {
		return nil
	}
	return apply.Delete(ctx, p.Client, pv)
}

// awaitMember waits until a member that has come to a new node votes.
func (p *pass) awaitMember(ctx context.Context, pv *corev1.PersistentVolume, m placement.Member, note func(string, ...any)) error {
	name := desired.MetaPodName(m.Ordinal)
	list := "--members=" + desired.MemberList(p.members)
	for i := range p.metaPods {
		pod := &p.metaPods[i]
		if pod.Name != name || pod.DeletionTimestamp != nil || pod.Spec.NodeName != "" && pod.Spec.NodeName != m.Node {
			continue
		}
		if len(pod.Spec.Containers) > 0 && !slices.ContainsFunc(pod.Spec.Containers[0].Command, func(arg string) bool {
			return arg == list || strings.HasPrefix(arg, list+" ")
		}) {
			// Made from the list of before, in which it has its old address.
			note("the metadata member %s is started anew on node %s", name, m.Node)
			return apply.Delete(ctx, p.Client, pod)
		}
	}
	joined, err := p.storageJoined(ctx, m)
	if err != nil || !joined {
		why := "it does not vote yet"
		if err != nil {
			why = err.Error()
		}
		note("the metadata member %s joins on node %s: %s", name, m.Node, why)
		return nil
	}
	if err := p.mark(ctx, pv, ""); err != nil {
		return err
	}
	p.event(corev1.EventTypeNormal, "MemberMoved", "MoveMember", "the metadata member %s votes on node %s; the others restart with its address", name, m.Node)
	return nil
}

// storageJoined asks the member itself.
func (p *pass) storageJoined(ctx context.Context, m placement.Member) (bool, error) {
	credentials, err := p.secret(ctx, v1alpha1.SecretControllerTLS)
	if err != nil || credentials == nil {
		return false, err
	}
	return p.Connect.Joined(ctx, desired.MetaEndpoints([]placement.Member{m}), credentials)
}

// mark writes how far a member's move is.
func (p *pass) mark(ctx context.Context, pv *corev1.PersistentVolume, mark string) error {
	patch := client.MergeFromWithOptions(pv.DeepCopy(), client.MergeFromWithOptimisticLock{})
	desired.MarkMember(pv, mark)
	if err := p.Client.Patch(ctx, pv, patch); err != nil {
		return fmt.Errorf("mark persistent volume %s: %w", pv.Name, err)
	}
	return nil
}
