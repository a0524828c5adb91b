package controller

import (
	"context"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// serverSide does server-side apply as far as the operator relies on it: maps are merged, everything else is replaced, and
// of the fields that the operator applied before, those it leaves out are removed. The fake client's own apply takes unknown
// kinds as a whole.
func serverSide(scheme *runtime.Scheme) interceptor.Funcs {
	return interceptor.Funcs{
		Apply: func(ctx context.Context, c client.WithWatch, obj runtime.ApplyConfiguration, _ ...client.ApplyOption) error {
			u, err := configuration(obj)
			if err != nil {
				return err
			}
			live, err := scheme.New(u.GroupVersionKind())
			if err != nil {
				return err
			}
			target := live.(client.Object)
			err = c.Get(ctx, client.ObjectKeyFromObject(u), target)
			if apierrors.IsNotFound(err) {
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, target); err != nil {
					return err
				}
				if err := c.Create(ctx, target); err != nil {
					return err
				}
				return answer(target, u)
			}
			if err != nil {
				return err
			}
			m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(target)
			if err != nil {
				return err
			}
			if u.GetKind() == "BlockDevice" {
				unstructured.RemoveNestedField(m, "spec", "claim") // all that the operator owns
			}
			merge(m, u.Object)
			return update(ctx, c, target, m, u, func(o client.Object) error { return c.Update(ctx, o) })
		},
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, obj runtime.ApplyConfiguration, _ ...client.SubResourceApplyOption) error {
			u, err := configuration(obj)
			if err != nil {
				return err
			}
			live, err := scheme.New(u.GroupVersionKind())
			if err != nil {
				return err
			}
			target := live.(client.Object)
			if err := c.Get(ctx, client.ObjectKeyFromObject(u), target); err != nil {
				return err
			}
			m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(target)
			if err != nil {
				return err
			}
			hosts, found, _ := unstructured.NestedSlice(m, "status", "hosts")
			m["status"] = u.Object["status"]
			if found {
				_ = unstructured.SetNestedSlice(m, hosts, "status", "hosts")
			}
			return update(ctx, c, target, m, u, func(o client.Object) error { return c.SubResource(sub).Update(ctx, o) })
		},
	}
}

func configuration(obj runtime.ApplyConfiguration) (*unstructured.Unstructured, error) {
	f := reflect.ValueOf(obj).Elem().FieldByName("Unstructured")
	u, ok := f.Interface().(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("apply configuration %T", obj)
	}
	return u, nil
}

func update(_ context.Context, _ client.Client, target client.Object, m map[string]any, u *unstructured.Unstructured, write func(client.Object) error) error {
	before := target.DeepCopyObject()
	next := reflect.New(reflect.TypeOf(target).Elem()).Interface().(client.Object)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(m, next); err != nil {
		return err
	}
	if reflect.DeepEqual(before, next) {
		return answer(target, u)
	}
	if err := write(next); err != nil {
		return err
	}
	return answer(next, u)
}

func answer(obj client.Object, u *unstructured.Unstructured) error {
	kind := u.GroupVersionKind()
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return err
	}
	u.Object = m
	u.SetGroupVersionKind(kind)
	return nil
}

func merge(dst, src map[string]any) {
	for k, v := range src {
		d, ok1 := dst[k].(map[string]any)
		s, ok2 := v.(map[string]any)
		if ok1 && ok2 {
			merge(d, s)
			continue
		}
		dst[k] = v
	}
}
