package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Kube is the API of a real cluster. Safe for concurrent use.
type Kube struct {
	Client          dynamic.Interface
	Node, Namespace string
	Name            string // of the IOMeshCluster; "" = the oldest of the namespace
}

func (k *Kube) devices() dynamic.ResourceInterface {
	return k.Client.Resource(v1alpha1.GroupVersion.WithResource("blockdevices")).Namespace(k.Namespace)
}

func (k *Kube) clusters() dynamic.ResourceInterface {
	return k.Client.Resource(v1alpha1.GroupVersion.WithResource("iomeshclusters")).Namespace(k.Namespace)
}

func (k *Kube) selector() string { return v1alpha1.LabelNode + "=" + LabelValue(k.Node) }

// Cluster implements API.
func (k *Kube) Cluster(ctx context.Context) (*v1alpha1.IOMeshCluster, error) {
	list, err := k.clusters().List(ctx, metav1.ListOptions{})
	if missingKind(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if k.Name != "" {
		list.Items = slices.DeleteFunc(list.Items, func(u unstructured.Unstructured) bool { return u.GetName() != k.Name })
	}
	if len(list.Items) == 0 {
		return nil, nil
	}
	oldest := slices.MinFunc(list.Items, func(a, b unstructured.Unstructured) int {
		at, bt := a.GetCreationTimestamp(), b.GetCreationTimestamp()
		if c := at.Time.Compare(bt.Time); c != 0 {
			return c
		}
		return strings.Compare(a.GetName(), b.GetName())
	})
	var c v1alpha1.IOMeshCluster
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(oldest.Object, &c); err != nil {
		return nil, fmt.Errorf("decode IOMeshCluster %s: %w", oldest.GetName(), err)
	}
	return &c, nil
}

// missingKind: the CRDs are applied by the operator, which may start after the agent.
func missingKind(err error) bool { return apierrors.IsNotFound(err) || meta.IsNoMatchError(err) }

// Devices implements API.
func (k *Kube) Devices(ctx context.Context) ([]v1alpha1.BlockDevice, error) {
	list, err := k.devices().List(ctx, metav1.ListOptions{LabelSelector: k.selector()})
	if err != nil {
		return nil, err
	}
	var out []v1alpha1.BlockDevice
	for _, u := range list.Items {
		bd, err := decodeDevice(&u)
		if err != nil {
			return nil, err
		}
		if bd.Spec.Node == k.Node {
			out = append(out, *bd)
		}
	}
	return out, nil
}

// Device implements API.
func (k *Kube) Device(ctx context.Context, name string) (*v1alpha1.BlockDevice, error) {
	u, err := k.devices().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeDevice(u)
}

func decodeDevice(u *unstructured.Unstructured) (*v1alpha1.BlockDevice, error) {
	var bd v1alpha1.BlockDevice
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &bd); err != nil {
		return nil, fmt.Errorf("decode BlockDevice %s: %w", u.GetName(), err)
	}
	return &bd, nil
}

// ApplyDevice implements API.
func (k *Kube) ApplyDevice(ctx context.Context, bd *v1alpha1.BlockDevice) (*v1alpha1.BlockDevice, error) {
	spec, err := toMap(bd.Spec)
	if err != nil {
		return nil, err
	}
	delete(spec, "claim") // the operator's
	u := k.skeleton("BlockDevice", bd.Name)
	u.SetLabels(bd.Labels)
	u.Object["spec"] = spec
	got, err := k.devices().Apply(ctx, bd.Name, u, metav1.ApplyOptions{FieldManager: v1alpha1.FieldOwnerAgent, Force: true})
	if err != nil {
		return nil, fmt.Errorf("apply BlockDevice: %w", err)
	}
	return decodeDevice(got)
}

// ApplyDeviceStatus implements API.
func (k *Kube) ApplyDeviceStatus(ctx context.Context, name string, st v1alpha1.BlockDeviceStatus) error {
	m, err := toMap(st)
	if err != nil {
		return err
	}
	u := k.skeleton("BlockDevice", name)
	u.Object["status"] = m
	if _, err := k.devices().ApplyStatus(ctx, name, u, metav1.ApplyOptions{FieldManager: v1alpha1.FieldOwnerAgent, Force: true}); err != nil {
		return fmt.Errorf("apply status of BlockDevice: %w", err)
	}
	return nil
}

// ApplyHost implements API.
func (k *Kube) ApplyHost(ctx context.Context, cluster string, host v1alpha1.HostStatus) error {
	m, err := toMap(host)
	if err != nil {
		return err
	}
	u := k.skeleton("IOMeshCluster", cluster)
	u.Object["status"] = map[string]any{"hosts": []any{m}}
	_, err = k.clusters().ApplyStatus(ctx, cluster, u, metav1.ApplyOptions{FieldManager: v1alpha1.FieldOwnerAgent + "-" + k.Node, Force: true})
	return err
}

func (k *Kube) skeleton(kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Kind: kind})
	u.SetName(name)
	u.SetNamespace(k.Namespace)
	return u
}

// toMap converts by JSON, so that absent optional fields stay absent: a field that is applied is a field that is owned. Integers stay integers.
func toMap(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	return m, nil
}

// Watch calls changed after each change of the wish in this node's objects or in the cluster, until ctx ends. It returns when its watches have ended.
func (k *Kube) Watch(ctx context.Context, changed func()) {
	done := make(chan struct{}, 2)
	for _, w := range []struct {
		r    dynamic.ResourceInterface
		opts metav1.ListOptions
	}{{k.devices(), metav1.ListOptions{LabelSelector: k.selector()}}, {k.clusters(), metav1.ListOptions{}}} {
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				k.watchOnce(ctx, w.r, w.opts, changed)
				select {
				case <-ctx.Done():
				case <-time.After(2 * time.Second):
				}
			}
		}()
	}
	<-done
	<-done
}

func (k *Kube) watchOnce(ctx context.Context, r dynamic.ResourceInterface, opts metav1.ListOptions, changed func()) {
	w, err := r.Watch(ctx, opts)
	if err != nil {
		return // rounds go on by the clock; the next attempt follows
	}
	defer w.Stop()
	seen := map[types.UID]int64{}
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.ResultChan():
			if !ok {
				return
			}
			if news(seen, e) {
				changed()
			}
		}
	}
}

// news reports whether an event is about somebody's wish. A status does not raise the generation: those of block devices are the agent's own,
// and that of the cluster changes every few seconds.
func news(seen map[types.UID]int64, e watch.Event) bool {
	o, err := meta.Accessor(e.Object)
	if err != nil {
		return true // an error of the watch; a look does no harm
	}
	if e.Type == watch.Deleted {
		delete(seen, o.GetUID())
		return true
	}
	last, known := seen[o.GetUID()]
	seen[o.GetUID()] = o.GetGeneration()
	return !known || last != o.GetGeneration()
}
