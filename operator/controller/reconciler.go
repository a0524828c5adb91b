package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/apply"
	"github.com/iomesh/iomesh/operator/placement"
)

// Storage is what the reconciler needs of the metadata members.
type Storage interface {
	Status(ctx context.Context) (*storagedv1.ClusterStatus, error)
	Volumes(ctx context.Context) ([]*storagedv1.Volume, error)
	DrainDisk(ctx context.Context, id string, cancel bool) error
	RemoveDisk(ctx context.Context, id string) error
	RemoveNode(ctx context.Context, node string) error
	SetNodeMode(ctx context.Context, node, mode string) error
}

// Connector gives access to the metadata members at endpoints (comma-separated host:port) with the credentials of a Secret.
type Connector interface {
	Connect(endpoints string, credentials *corev1.Secret) (Storage, error)
	// Joined asks the one member at endpoint whether it votes and sees a leader.
	Joined(ctx context.Context, endpoint string, credentials *corev1.Secret) (bool, error)
}

// Options of a Reconciler.
type Options struct {
	Client  client.Client
	Applier *apply.Applier
	Connect Connector
	Events  events.EventRecorder
	Log     *slog.Logger
	// Image that the operator itself runs from: the default of spec.image.
	Image string
	// Poll is how often the metadata members are asked.
	Poll time.Duration
	// Now is the clock; NewUID makes identifiers.
	Now    func() time.Time
	NewUID func() string
}

// Reconciler reconciles the clusters of one namespace.
type Reconciler struct{ Options }

// New makes a Reconciler.
func New(o Options) *Reconciler { return &Reconciler{o} }

// SetupWithManager registers the reconciler and what wakes it.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	all := handler.EnqueueRequestsFromMapFunc(r.allClusters)
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.IOMeshCluster{}, builder.WithPredicates(predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, deletion(), hosts()))).
		Owns(&corev1.Pod{}).
		Owns(&appsv1.StatefulSet{}).
		Owns(&appsv1.DaemonSet{}).
		Owns(&corev1.ConfigMap{}).
		Owns(&corev1.Secret{}).
		Owns(&policyv1.PodDisruptionBudget{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.BlockDevice{}, all).
		Watches(&corev1.Node{}, all, builder.WithPredicates(nodeChanged())).
		Complete(r)
}

func (r *Reconciler) allClusters(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.IOMeshClusterList
	if err := r.Client.List(ctx, &list); err != nil {
		return nil // the next poll comes within seconds
	}
	var out []reconcile.Request
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

// deletion passes the update that marks an object as being deleted.
func deletion() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return (e.ObjectOld.GetDeletionTimestamp() == nil) != (e.ObjectNew.GetDeletionTimestamp() == nil)
	}}
}

// hosts passes changes of what agents report of their hosts' addresses.
func hosts() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		a, ok1 := e.ObjectOld.(*v1alpha1.IOMeshCluster)
		b, ok2 := e.ObjectNew.(*v1alpha1.IOMeshCluster)
		return ok1 && ok2 && !apply.Equal(hostAddresses(a), hostAddresses(b))
	}}
}

// nodeChanged passes changes of a node that placement looks at; heartbeats are not among them.
func nodeChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		a, ok1 := e.ObjectOld.(*corev1.Node)
		b, ok2 := e.ObjectNew.(*corev1.Node)
		return !ok1 || !ok2 || placement.Ready(a) != placement.Ready(b) || !apply.Equal(a.Spec, b.Spec) || !apply.Equal(a.Labels, b.Labels) ||
			!apply.Equal(a.Status.Addresses, b.Status.Addresses)
	}}
}

// Reconcile makes one pass. It comes back after Poll whatever happens, because the metadata members send no events.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var cluster v1alpha1.IOMeshCluster
	if err := r.Client.Get(ctx, req.NamespacedName, &cluster); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	p := &pass{Reconciler: r, cluster: &cluster, log: r.Log.With("cluster", req.String())}
	if first, err := p.first(ctx); err != nil || first != "" {
		if err != nil {
			return reconcile.Result{}, err
		}
		return reconcile.Result{RequeueAfter: 10 * r.Poll}, p.refuseSecond(ctx, first)
	}
	var err error
	if cluster.DeletionTimestamp != nil {
		err = p.delete(ctx)
	} else {
		err = p.run(ctx)
	}
	var again *conflictError
	if errors.As(err, &again) {
		// The cache is behind; the next pass sees more.
		p.log.Info("another pass follows", "because", err)
		return reconcile.Result{RequeueAfter: 200 * time.Millisecond}, nil
	}
	return reconcile.Result{RequeueAfter: r.Poll}, err // controller-runtime logs it
}

// conflictError says that an object changed between look and deed.
type conflictError struct{ err error }

func (e *conflictError) Error() string { return e.err.Error() }
func (e *conflictError) Unwrap() error { return e.err }

// first returns the name of an older cluster in the namespace: only one can use the names and ports of the daemons.
func (p *pass) first(ctx context.Context) (string, error) {
	var list v1alpha1.IOMeshClusterList
	if err := p.Client.List(ctx, &list, client.InNamespace(p.cluster.Namespace)); err != nil {
		return "", fmt.Errorf("list clusters: %w", err)
	}
	for i := range list.Items {
		o := &list.Items[i]
		if o.UID == p.cluster.UID {
			continue
		}
		if older(o, p.cluster) {
			return o.Name, nil
		}
	}
	return "", nil
}

func older(a, b *v1alpha1.IOMeshCluster) bool {
	// One that was accepted keeps its place whatever the clocks say.
	if x, y := controllerutil.ContainsFinalizer(a, v1alpha1.FinalizerCluster), controllerutil.ContainsFinalizer(b, v1alpha1.FinalizerCluster); x != y {
		return x
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

func hostAddresses(c *v1alpha1.IOMeshCluster) map[string][]string {
	out := map[string][]string{}
	for _, h := range c.Status.Hosts {
		out[h.Node] = h.Addresses
	}
	return out
}
