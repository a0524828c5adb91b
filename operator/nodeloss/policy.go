package nodeloss

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Policy says whose pods are deleted.
type Policy string

// Policies, with the names of the original.
const (
	None        Policy = "no-delete-pod"
	Deployment  Policy = "delete-deployment-pod"
	StatefulSet Policy = "delete-statefulset-pod"
	Both        Policy = "delete-both-statefulset-and-deployment-pod"
)

// Parse reads a policy.
func Parse(s string) (Policy, error) {
	all := []Policy{None, StatefulSet, Deployment, Both}
	if p := Policy(s); slices.Contains(all, p) {
		return p, nil
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = string(p)
	}
	return "", fmt.Errorf("%q is not one of %s", s, strings.Join(names, ", "))
}

func (p Policy) statefulSets() bool { return p == StatefulSet || p == Both }
func (p Policy) deployments() bool  { return p == Deployment || p == Both }

// controller is what made an object, or the zero value.
func controller(o metav1.Object) metav1.OwnerReference {
	if ref := metav1.GetControllerOf(o); ref != nil {
		return *ref
	}
	return metav1.OwnerReference{}
}

func isApps(ref metav1.OwnerReference, kind string) bool {
	return ref.Kind == kind && strings.HasPrefix(ref.APIVersion, appsv1.GroupName+"/")
}

// singleWriter reports whether a claim belongs to one node at a time.
func singleWriter(c *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(c.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteOnce || m == corev1.ReadWriteOncePod
	})
}
