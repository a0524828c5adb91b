package main

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"
)

// parseBytes reads a size as Kubernetes writes it: 60G, 64Gi, 1000.
func parseBytes(flag, text string) (uint64, error) {
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fmt.Errorf("--%s: %q is no size: write bytes, or a number with G or Gi", flag, text)
	}
	n, exact := q.AsInt64()
	if !exact || n < 0 {
		return 0, fmt.Errorf("--%s: %q is out of range", flag, text)
	}
	return uint64(n), nil
}
