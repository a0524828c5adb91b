package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
)

// NamespaceDefault is where IOMesh is installed when nobody says otherwise.
const NamespaceDefault = "iomesh-system"

// Labels of pods, as the operator sets them.
const (
	labelComponent  = "app.kubernetes.io/component"
	labelPartOf     = "app.kubernetes.io/part-of"
	ComponentMeta   = "meta"
	ComponentChunk  = "chunk"
	ComponentNode   = "node"
	ComponentAttach = "attach"
)

// Link is a connection to one Kubernetes cluster.
type Link struct {
	Config  *rest.Config
	Core    kubernetes.Interface
	Dynamic dynamic.Interface
	// Namespace of IOMesh; given says whether the user named it.
	Namespace string
	Given     bool
	// Run runs a command in a container; replaced by tests.
	Run Runner
}

// Open reads the kubeconfig. It does not reach the cluster yet.
func Open(flags *genericclioptions.ConfigFlags) (*Link, error) {
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, fault.Failed(err, "give --kubeconfig, or set KUBECONFIG", "read the kubeconfig")
	}
	config.QPS, config.Burst = 50, 100
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fault.Failed(err, "", "use the kubeconfig")
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fault.Failed(err, "", "use the kubeconfig")
	}
	l := &Link{Config: config, Core: core, Dynamic: dyn, Namespace: NamespaceDefault}
	if flags.Namespace != nil && *flags.Namespace != "" {
		l.Namespace, l.Given = *flags.Namespace, true
	}
	l.Run = &podRunner{config: config, core: core}
	return l, nil
}

// reachTimeout bounds the first contact, so that an address without an answer is told within seconds.
const reachTimeout = 10 * time.Second

// Reach makes the first contact and returns the server's version.
func (l *Link) Reach(ctx context.Context) (string, error) {
	type answer struct {
		version string
		err     error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := l.Core.Discovery().ServerVersion()
		if err != nil {
			done <- answer{err: err}
			return
		}
		done <- answer{version: v.GitVersion}
	}()
	timer := time.NewTimer(reachTimeout)
	defer timer.Stop()
	select {
	case a := <-done:
		if a.err != nil {
			return "", fault.Failed(a.err, "is the cluster up? check --kubeconfig, --context and the network", "cannot reach the Kubernetes API at %s", l.host())
		}
		return a.version, nil
	case <-timer.C:
		return "", fault.Failed(nil, "is the cluster up? check --kubeconfig, --context and the network", "cannot reach the Kubernetes API at %s: no answer within %s", l.host(), reachTimeout)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (l *Link) host() string {
	if l.Config == nil {
		return "(unknown)"
	}
	return l.Config.Host
}

func (l *Link) clusters() dynamic.NamespaceableResourceInterface {
	return l.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("iomeshclusters"))
}

// Devices is the API of BlockDevices in the namespace.
func (l *Link) Devices() dynamic.ResourceInterface {
	return l.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("blockdevices")).Namespace(l.Namespace)
}

// Clusters is the API of IOMeshClusters in the namespace.
func (l *Link) Clusters() dynamic.ResourceInterface { return l.clusters().Namespace(l.Namespace) }

// Cluster finds the IOMeshCluster: in the namespace that the user named, otherwise the only one anywhere, whose namespace is then used for
// everything else.
func (l *Link) Cluster(ctx context.Context) (*v1alpha1.IOMeshCluster, error) {
	var list *unstructured.UnstructuredList
	var err error
	if l.Given {
		list, err = l.Clusters().List(ctx, metav1.ListOptions{})
	} else {
		list, err = l.clusters().List(ctx, metav1.ListOptions{})
		if apierrors.IsForbidden(err) {
			list, err = l.Clusters().List(ctx, metav1.ListOptions{})
		}
	}
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return nil, NotInstalled("the kind IOMeshCluster is unknown to this cluster")
	}
	if err != nil {
		return nil, fault.API(err, "look for the IOMeshCluster")
	}
	switch {
	case len(list.Items) == 0 && l.Given:
		return nil, NotInstalled("no IOMeshCluster in namespace " + l.Namespace)
	case len(list.Items) == 0:
		return nil, NotInstalled("no IOMeshCluster in any namespace")
	case len(list.Items) > 1:
		var names []string
		for _, u := range list.Items {
			names = append(names, u.GetNamespace()+"/"+u.GetName())
		}
		return nil, fault.Usage("there are %d IOMeshClusters (%v): choose one with -n NAMESPACE", len(names), names)
	}
	var c v1alpha1.IOMeshCluster
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[0].Object, &c); err != nil {
		return nil, fmt.Errorf("decode IOMeshCluster %s: %w", list.Items[0].GetName(), err)
	}
	l.Namespace = c.Namespace
	return &c, nil
}

// ErrNotInstalled is what errors.Is finds in the errors of NotInstalled.
var ErrNotInstalled = errors.New("IOMesh is not installed here")

type notInstalled struct{ told error }

func (e notInstalled) Error() string        { return e.told.Error() }
func (e notInstalled) Unwrap() error        { return e.told }
func (e notInstalled) Is(target error) bool { return target == ErrNotInstalled }

// NotInstalled is the error of a cluster without IOMesh.
func NotInstalled(evidence string) error {
	return notInstalled{fault.Failed(nil, "install it with: kubectl iomesh install", "%v: %s", ErrNotInstalled, evidence)}
}

// ListDevices returns all BlockDevices of the namespace.
func (l *Link) ListDevices(ctx context.Context) ([]v1alpha1.BlockDevice, error) {
	list, err := l.Devices().List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return nil, NotInstalled("the kind BlockDevice is unknown to this cluster")
	}
	if err != nil {
		return nil, fault.API(err, "list BlockDevices in namespace %s", l.Namespace)
	}
	out := make([]v1alpha1.BlockDevice, len(list.Items))
	for i := range list.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &out[i]); err != nil {
			return nil, fmt.Errorf("decode BlockDevice %s: %w", list.Items[i].GetName(), err)
		}
	}
	return out, nil
}

// Pods returns the namespace's pods of IOMesh, of one component or of all ("").
func (l *Link) Pods(ctx context.Context, component string) ([]corev1.Pod, error) {
	selector := labelPartOf + "=iomesh"
	if component != "" {
		selector += "," + labelComponent + "=" + component
	}
	pods, err := l.Core.CoreV1().Pods(l.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fault.API(err, "list pods in namespace %s", l.Namespace)
	}
	return pods.Items, nil
}

// Component is the part that a pod is.
func Component(p *corev1.Pod) string { return p.Labels[labelComponent] }
