package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/apply"
	"github.com/iomesh/iomesh/operator/view"
)

// writeStatus computes the status, says its changes as events, and applies it if it differs from what is there.
func (p *pass) writeStatus(ctx context.Context) error {
	st := view.Status(view.Facts{
		Now: p.Now(), Cluster: p.cluster, ClusterID: p.knownClusterID(), Image: p.in.Image,
		Storage: p.status, StorageErr: p.statusErr,
		Nodes: p.nodes, Devices: p.devices, Members: p.members, Chunks: p.chunks,
		MetaPods: p.metaPods, ChunkPods: p.chunkPods, NodeSet: p.nodeSet, AttachSet: p.attachSet,
		Decision: p.decision, Draining: p.draining, Moving: p.moving, Waiting: p.plan.Waiting, Updating: p.updating(), Outdated: p.plan.Outdated,
		Blocked: p.blocked, Deleting: p.deleting,
	})
	p.announce(&st)
	return p.applyStatus(ctx, &st)
}

// updating is the node to record; a pass that did not come as far as the chunks keeps what is recorded.
func (p *pass) updating() string {
	if !p.planned {
		return p.cluster.Status.UpdatingNode
	}
	return p.plan.Updating
}

// knownClusterID never forgets: a lost Secret must not look like a cluster that was never installed.
func (p *pass) knownClusterID() string {
	if p.clusterID != "" {
		return p.clusterID
	}
	return p.cluster.Status.ClusterID
}

func (p *pass) applyStatus(ctx context.Context, st *v1alpha1.IOMeshClusterStatus) error {
	old := p.cluster.Status.DeepCopy()
	old.Hosts = nil
	if apply.Equal(normal(*old), normal(*st)) {
		return nil
	}
	// A merge patch and not an apply: with apply, a group of fields that loses its last one, as resync does when nothing is left to copy,
	// becomes null, which the schema refuses, and no status would ever be written again.
	fresh := p.cluster.DeepCopy()
	fresh.Status = *st.DeepCopy()
	fresh.Status.Hosts = p.cluster.Status.Hosts // the agents'
	err := p.Client.Status().Patch(ctx, fresh, client.MergeFrom(p.cluster), client.FieldOwner(v1alpha1.FieldOwnerOperator))
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the status of cluster %s: %w", p.cluster.Name, err)
	}
	return nil
}

// normal brings a status into the form in which it comes back from the API server: times to the second, empty as absent.
func normal(st v1alpha1.IOMeshClusterStatus) map[string]any {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&st)
	if err != nil {
		return nil // not comparable: written again
	}
	return m
}

// announce says changes of phase and conditions as events.
func (p *pass) announce(st *v1alpha1.IOMeshClusterStatus) {
	old := &p.cluster.Status
	if old.Phase != st.Phase && st.Phase != "" {
		kind := corev1.EventTypeNormal
		if st.Phase == v1alpha1.PhaseDegraded || st.Phase == v1alpha1.PhaseError {
			kind = corev1.EventTypeWarning
		}
		from := string(old.Phase)
		if from == "" {
			from = "nothing"
		}
		p.event(kind, "Phase"+string(st.Phase), "Reconcile", "%s, was %s. %s", st.Phase, from, phaseReason(st))
	}
	for _, c := range st.Conditions {
		before := meta.FindStatusCondition(old.Conditions, c.Type)
		if before != nil && before.Status == c.Status && before.Reason == c.Reason {
			continue
		}
		kind := corev1.EventTypeNormal
		if c.Type == v1alpha1.ConditionDegraded && c.Status == metav1.ConditionTrue {
			kind = corev1.EventTypeWarning
		}
		if before == nil && c.Status == metav1.ConditionFalse && c.Type == v1alpha1.ConditionDegraded {
			continue
		}
		p.event(kind, c.Reason, "Reconcile", "%s is %s: %s", c.Type, c.Status, c.Message)
	}
}

func phaseReason(st *v1alpha1.IOMeshClusterStatus) string {
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionDegraded} {
		c := meta.FindStatusCondition(st.Conditions, kind)
		if c != nil && (c.Status == metav1.ConditionTrue) == (kind == v1alpha1.ConditionDegraded) {
			return c.Message
		}
	}
	return ""
}

// event says something about the cluster's object. Notes are bounded by the API at 1 KiB.
func (p *pass) event(kind, reason, action, format string, args ...any) {
	note := fmt.Sprintf(format, args...)
	if len(note) > 1000 {
		note = note[:1000] + "…"
	}
	p.Events.Eventf(p.cluster, nil, kind, reason, action, "%s", note)
}

// refuseSecond says on a second cluster of the namespace that it is not looked at.
func (p *pass) refuseSecond(ctx context.Context, first string) error {
	st := p.cluster.Status.DeepCopy()
	st.Hosts = nil
	st.Phase = v1alpha1.PhaseError
	st.ObservedGeneration = p.cluster.Generation
	meta.SetStatusCondition(&st.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "AnotherCluster", ObservedGeneration: p.cluster.Generation,
		LastTransitionTime: metav1.NewTime(p.Now()),
		Message:            fmt.Sprintf("the namespace %s belongs to the cluster %s: one cluster per namespace. Delete this object, or create it in another namespace with an operator of its own", p.cluster.Namespace, first),
	})
	p.announce(st)
	return p.applyStatus(ctx, st)
}
