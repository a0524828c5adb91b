package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this package's kinds.
var GroupVersion = schema.GroupVersion{Group: "iomesh.com", Version: "v1alpha1"}

// Kinds, as they stand in manifests.
const (
	KindIOMeshCluster = "IOMeshCluster"
	KindBlockDevice   = "BlockDevice"
)

// AddToScheme registers the kinds of this package.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &IOMeshCluster{}, &IOMeshClusterList{}, &BlockDevice{}, &BlockDeviceList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
