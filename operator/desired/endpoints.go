package desired

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Endpoints is the ConfigMap that clients of the cluster read.
func Endpoints(in Input) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: in.meta(v1alpha1.ConfigMapEndpoints, ComponentMeta),
		Data: map[string]string{
			v1alpha1.EndpointsKeyMeta:    in.MetaEndpoints(),
			v1alpha1.EndpointsKeyCluster: in.ClusterID,
		},
	}
}
