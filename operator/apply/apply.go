// Package apply brings objects into the cluster by server-side apply and removes those that are no longer wished for.
//
// An Applier remembers what it applied and as which version it came back, so that an unchanged object costs no request: it
// is applied again when the wish changes, or when someone else changed the object.
package apply

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Applier applies objects in the name of one field owner. Safe for concurrent use.
type Applier struct {
	client client.Client
	owner  client.FieldOwner

	mu   sync.Mutex
	seen map[key]applied
}

type key struct {
	schema.GroupVersionKind
	types.NamespacedName
}

type applied struct {
	hash    [sha256.Size]byte
	uid     types.UID
	version string // generation where objects of the kind have one, else resourceVersion
}

// New makes an Applier that applies as owner.
func New(c client.Client, owner string) *Applier {
	return &Applier{client: c, owner: client.FieldOwner(owner), seen: map[key]applied{}}
}

// Apply makes the object as wished, taking fields over from other owners. It reports whether the object was created or
// changed. The object must carry its TypeMeta; its status is not applied.
func (a *Applier) Apply(ctx context.Context, obj client.Object) (changed bool, err error) {
	u, err := convert(obj)
	if err != nil {
		return false, err
	}
	k := key{u.GroupVersionKind(), client.ObjectKeyFromObject(u)}
	data, err := json.Marshal(u.Object)
	if err != nil {
		return false, fmt.Errorf("apply %s: %w", describe(u), err)
	}
	hash := sha256.Sum256(data)

	live, exists, err := a.live(ctx, obj)
	if err != nil {
		return false, fmt.Errorf("apply %s: %w", describe(u), err)
	}
	a.mu.Lock()
	last, known := a.seen[k]
	a.mu.Unlock()
	if exists && known && last.hash == hash && last.uid == live.GetUID() && last.version == version(live) {
		return false, nil
	}
	if err := a.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), a.owner, client.ForceOwnership); err != nil {
		return false, fmt.Errorf("apply %s: %w", describe(u), err)
	}
	a.mu.Lock()
	a.seen[k] = applied{hash, u.GetUID(), version(u)} // u now holds the answer
	a.mu.Unlock()
	return !exists || version(live) != version(u), nil
}

// live reads the object as the cache has it.
func (a *Applier) live(ctx context.Context, obj client.Object) (client.Object, bool, error) {
	live := obj.DeepCopyObject().(client.Object)
	err := a.client.Get(ctx, client.ObjectKeyFromObject(obj), live)
	if apierrors.IsNotFound(err) {
		return live, false, nil
	}
	return live, err == nil, err
}

// Prune deletes the objects of list's kind that match the options and are not in keep. It reports how many were there.
func (a *Applier) Prune(ctx context.Context, list client.ObjectList, keep func(client.Object) bool, opts ...client.ListOption) (int, error) {
	if err := a.client.List(ctx, list, opts...); err != nil {
		return 0, fmt.Errorf("list objects to remove: %w", err)
	}
	n := 0
	var firstErr error
	err := eachItem(list, func(obj client.Object) {
		if keep(obj) {
			return
		}
		n++
		if obj.GetDeletionTimestamp() != nil {
			return
		}
		if err := Delete(ctx, a.client, obj); err != nil && firstErr == nil {
			firstErr = err
		}
	})
	if err != nil {
		return n, err
	}
	return n, firstErr
}

// DeleteNow is Delete without waiting for the node on which a pod runs.
func DeleteNow(ctx context.Context, c client.Client, obj client.Object) error {
	uid := obj.GetUID()
	err := c.Delete(ctx, obj, client.Preconditions{UID: &uid}, client.GracePeriodSeconds(0))
	if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete %s %s at once: %w", obj.GetObjectKind().GroupVersionKind().Kind, obj.GetName(), err)
	}
	return nil
}

// Delete deletes exactly this object, never a successor of the same name; one that is gone already is fine.
func Delete(ctx context.Context, c client.Client, obj client.Object) error {
	uid := obj.GetUID()
	opts := []client.DeleteOption{client.PropagationPolicy(metav1.DeletePropagationBackground)}
	if uid != "" {
		opts = append(opts, client.Preconditions{UID: &uid})
	}
	err := c.Delete(ctx, obj, opts...)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %T %s: %w", obj, client.ObjectKeyFromObject(obj), err)
	}
	return nil
}

func eachItem(list client.ObjectList, f func(client.Object)) error {
	items, err := extract(list)
	if err != nil {
		return err
	}
	for _, o := range items {
		f(o)
	}
	return nil
}

// convert makes an apply configuration: the typed object without status and without what the server fills in.
func convert(obj client.Object) (*unstructured.Unstructured, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("convert %T %s: %w", obj, client.ObjectKeyFromObject(obj), err)
	}
	delete(m, "status")
	u := &unstructured.Unstructured{Object: m}
	if u.GetKind() == "" || u.GetAPIVersion() == "" {
		return nil, fmt.Errorf("apply %T %s: the object carries no kind", obj, client.ObjectKeyFromObject(obj))
	}
	prune(m)
	return u, nil
}

// prune removes nulls and the empty maps that typed objects produce for fields that were never set; applied, they would
// mean "set to nothing" and be owned.
func prune(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
		case map[string]any:
			empty := len(v) == 0
			prune(v)
			if len(v) == 0 && !empty {
				delete(m, k)
			}
		case []any:
			for _, e := range v {
				if em, ok := e.(map[string]any); ok {
					prune(em)
				}
			}
		}
	}
}

func version(obj client.Object) string {
	if g := obj.GetGeneration(); g != 0 {
		return fmt.Sprintf("g%d", g)
	}
	return obj.GetResourceVersion()
}

func describe(u *unstructured.Unstructured) string {
	return u.GetKind() + " " + client.ObjectKeyFromObject(u).String()
}

// Equal compares as the API server would: no difference between empty and absent.
func Equal(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }
