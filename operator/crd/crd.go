// Package crd brings the cluster's definitions of our kinds to the operator's version. Helm installs definitions and never
// updates them.
package crd

import (
	"context"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// established is how long the API server may take to serve a kind.
const established = 30 * time.Second

// Apply applies the definitions by server-side apply as owner and waits until the API server serves them.
func Apply(ctx context.Context, c client.Client, owner string, crds []*apiextensionsv1.CustomResourceDefinition) error {
	for _, crd := range crds {
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(crd)
		if err != nil {
			return fmt.Errorf("definition %s: %w", crd.Name, err)
		}
		delete(m, "status")
		unstructured.RemoveNestedField(m, "metadata", "creationTimestamp")
		u := &unstructured.Unstructured{Object: m}
		if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(owner), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply definition %s: %w", crd.Name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, established)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for _, crd := range crds {
		for {
			var live apiextensionsv1.CustomResourceDefinition
			err := c.Get(ctx, client.ObjectKey{Name: crd.Name}, &live)
			if err == nil && serves(&live) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("definition %s is not served within %s: %w", crd.Name, established, context.Cause(ctx))
			case <-tick.C:
			}
		}
	}
	return nil
}

func serves(crd *apiextensionsv1.CustomResourceDefinition) bool {
	for _, c := range crd.Status.Conditions {
		if c.Type == apiextensionsv1.Established {
			return c.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}
