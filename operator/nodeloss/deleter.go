package nodeloss

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Client is what is needed of the API server. Reads have to be of all namespaces.
type Client interface {
	client.Reader
	Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error
}

// Deleter is the goroutine. All fields are required.
type Deleter struct {
	Client Client
	Events events.EventRecorder
	Log    *slog.Logger
	// Driver is the name of the CSI driver whose volumes are fenced.
	Driver string
	Policy Policy
	// Latency is how long a node is not Ready before its pods are deleted.
	Latency time.Duration
	Now     func() time.Time
}

// every is how often the nodes are looked at: short against any sensible latency.
const every = 5 * time.Second

// NeedLeaderElection makes the manager run it in the leader only.
func (*Deleter) NeedLeaderElection() bool { return true }

// Start looks at the nodes until ctx ends.
func (d *Deleter) Start(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := d.Pass(ctx); err != nil && ctx.Err() == nil {
			d.Log.Warn("pods of lost nodes were not all deleted; tried again soon", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Pass looks at all nodes once. While no node is Ready nothing is deleted: there would be no place to go, and the trouble is likely our own.
func (d *Deleter) Pass(ctx context.Context) error {
	if d.Policy == None {
		return nil
	}
	var nodes corev1.NodeList
	if err := d.Client.List(ctx, &nodes); err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	lost := slices.DeleteFunc(slices.Clone(nodes.Items), func(n corev1.Node) bool {
		ready, since := readiness(&n)
		return ready || d.Now().Sub(since) < d.Latency
	})
	anyReady := slices.ContainsFunc(nodes.Items, func(n corev1.Node) bool { ready, _ := readiness(&n); return ready })
	if len(lost) == 0 || !anyReady {
		return nil
	}
	var errs []error
	for i := range lost {
		if err := d.node(ctx, &lost[i]); err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", lost[i].Name, err))
		}
	}
	return errors.Join(errs...)
}

// readiness is the node's Ready condition and since when it is so. A node that never reported is not lost.
func readiness(n *corev1.Node) (ready bool, since time.Time) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
		}
	}
	return true, time.Time{}
}

func (d *Deleter) node(ctx context.Context, n *corev1.Node) error {
	var pods corev1.PodList
	if err := d.Client.List(ctx, &pods, client.MatchingFields{"spec.nodeName": n.Name}); err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var doomed []*corev1.Pod
	volumes := map[string]bool{}
	for i := range pods.Items {
		p := &pods.Items[i]
		kind, err := d.wanted(ctx, p)
		if err != nil {
			return err
		}
		if !kind {
			continue
		}
		pvs, err := d.volumes(ctx, p)
		if err != nil {
			return err
		}
		if len(pvs) == 0 {
			continue
		}
		doomed = append(doomed, p)
		for _, pv := range pvs {
			volumes[pv] = true
		}
	}
	if len(doomed) == 0 {
		return nil
	}
	if err := d.detach(ctx, n.Name, volumes); err != nil {
		return err
	}
	var errs []error
	for _, p := range doomed {
		d.Log.Info("deleting a pod of a lost node", "node", n.Name, "namespace", p.Namespace, "pod", p.Name, "policy", string(d.Policy))
		d.Events.Eventf(p, n, corev1.EventTypeWarning, "NodeLost", "Delete",
			"node %s is not Ready for more than %s; the pod is deleted by podDeletePolicy %s, its volumes refuse the node", n.Name, d.Latency, d.Policy)
		// The very pod that was looked at, not a successor of the same name.
		err := d.Client.Delete(ctx, p, client.GracePeriodSeconds(0), client.Preconditions{UID: &p.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("delete pod %s/%s: %w", p.Namespace, p.Name, err))
		}
	}
	return errors.Join(errs...)
}

// wanted reports whether the policy is about a pod of this kind.
func (d *Deleter) wanted(ctx context.Context, p *corev1.Pod) (bool, error) {
	owner := controller(p)
	switch {
	case isApps(owner, "StatefulSet"):
		return d.Policy.statefulSets(), nil
	case isApps(owner, "ReplicaSet") && d.Policy.deployments():
		var rs appsv1.ReplicaSet
		err := d.Client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: owner.Name}, &rs)
		if apierrors.IsNotFound(err) {
			return false, nil // nobody would make another pod
		}
		if err != nil {
			return false, fmt.Errorf("get ReplicaSet %s/%s: %w", p.Namespace, owner.Name, err)
		}
		return isApps(controller(&rs), "Deployment"), nil
	}
	return false, nil
}

// volumes are the PersistentVolumes of a pod that are ours and for one node at a time.
func (d *Deleter) volumes(ctx context.Context, p *corev1.Pod) ([]string, error) {
	var out []string
	for _, v := range p.Spec.Volumes {
		name := ""
		switch {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = p.Name + "-" + v.Name // as the ephemeral volume controller names it
		default:
			continue
		}
		var claim corev1.PersistentVolumeClaim
		if err := d.Client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: name}, &claim); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return nil, fmt.Errorf("get claim %s/%s: %w", p.Namespace, name, err)
		}
		if claim.Spec.VolumeName == "" || !singleWriter(&claim) {
			continue
		}
		var pv corev1.PersistentVolume
		if err := d.Client.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &pv); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return nil, fmt.Errorf("get volume %s: %w", claim.Spec.VolumeName, err)
		}
		if pv.Spec.CSI != nil && pv.Spec.CSI.Driver == d.Driver {
			out = append(out, pv.Name)
		}
	}
	return out, nil
}

// detach deletes the attachments of volumes to a node; the driver then takes the grants away.
func (d *Deleter) detach(ctx context.Context, node string, volumes map[string]bool) error {
	var list storagev1.VolumeAttachmentList
	if err := d.Client.List(ctx, &list); err != nil {
		return fmt.Errorf("list attachments: %w", err)
	}
	for i := range list.Items {
		a := &list.Items[i]
		pv := a.Spec.Source.PersistentVolumeName
		if a.Spec.Attacher != d.Driver || a.Spec.NodeName != node || pv == nil || !volumes[*pv] || a.DeletionTimestamp != nil {
			continue
		}
		if err := d.Client.Delete(ctx, a, client.Preconditions{UID: &a.UID}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete attachment of volume %s: %w", *pv, err)
		}
	}
	return nil
}
