package desired

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/placement"
)

// Input is what objects are built from.
type Input struct {
	Cluster   *v1alpha1.IOMeshCluster
	ClusterID string
	// Image of the cluster's daemons: spec.image, or the operator's own.
	Image string
	// Meta are all metadata members, by ordinal.
	Meta []placement.Member
	// MetaJoining: one of them has a new place and does not vote yet.
	MetaJoining bool
	// Chunks are the storage nodes.
	Chunks []Chunk
	// ChunkBudget is how many chunk pods an eviction must leave, and why.
	ChunkBudget Budget
}

// Chunk is a storage node.
type Chunk struct {
	Node    string
	Address string // in the storage network
	Zone    string
}

// Budget is a number of pods that must stay, and the reason in words.
type Budget struct {
	MinAvailable int32
	Reason       string
}

// Labels that every object carries.
const (
	labelName      = "app.kubernetes.io/name"
	labelPartOf    = "app.kubernetes.io/part-of"
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelComponent = "app.kubernetes.io/component"
)

// Components, as their pods are labelled.
const (
	ComponentMeta   = "meta"
	ComponentChunk  = "chunk"
	ComponentNode   = "node"
	ComponentAttach = "attach"
	ComponentClean  = "clean"
)

// ManagedBy is the value of app.kubernetes.io/managed-by on everything that the operator makes.
const ManagedBy = "iomesh-operator"

// Labels of a component's objects.
func Labels(cluster, component string) map[string]string {
	return map[string]string{
		labelName: "iomesh", labelPartOf: "iomesh", labelManagedBy: ManagedBy,
		labelComponent: component, v1alpha1.LabelCluster: cluster,
	}
}

// Selector of a component's pods: the part of Labels that never changes.
func Selector(cluster, component string) map[string]string {
	return map[string]string{labelComponent: component, v1alpha1.LabelCluster: cluster}
}

// meta of an object in the cluster's namespace, owned by the cluster's object.
func (in Input) meta(name, component string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Namespace: in.Cluster.Namespace, Labels: Labels(in.Cluster.Name, component), OwnerReferences: Owner(in.Cluster),
	}
}

// MetaEndpoints is the list of host:port that clients of meta use.
func (in Input) MetaEndpoints() string { return MetaEndpoints(in.Meta) }

// MetaEndpoints is the list of host:port of the members.
func MetaEndpoints(members []placement.Member) string {
	sorted := slices.Clone(members)
	slices.SortFunc(sorted, func(a, b placement.Member) int { return int(a.Ordinal) - int(b.Ordinal) })
	parts := make([]string, 0, len(sorted))
	for _, m := range sorted {
		parts = append(parts, hostPort(m.Address, PortMetaGRPC))
	}
	return strings.Join(parts, ",")
}

func (in Input) pullPolicy() corev1.PullPolicy {
	if in.Cluster.Spec.ImagePullPolicy != "" {
		return in.Cluster.Spec.ImagePullPolicy
	}
	return corev1.PullIfNotPresent
}

// attachMode of the cluster, with its default.
func (in Input) attachMode() v1alpha1.AttachMode {
	if in.Cluster.Spec.Attach == "" {
		return v1alpha1.AttachAuto
	}
	return in.Cluster.Spec.Attach
}

func hostPort(host string, port int32) string {
	if strings.Contains(host, ":") {
		return fmt.Sprintf("[%s]:%d", host, port)
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// Owner is the reference that makes an object go with the cluster's object.
func Owner(c *v1alpha1.IOMeshCluster) []metav1.OwnerReference {
	return []metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: v1alpha1.KindIOMeshCluster,
		Name: c.Name, UID: c.UID, Controller: ptr(true), BlockOwnerDeletion: ptr(true),
	}}
}

// Ours selects everything that the operator makes for a cluster.
func Ours(cluster string) map[string]string {
	return map[string]string{labelManagedBy: ManagedBy, v1alpha1.LabelCluster: cluster}
}

// ComponentOf is the component that an object is labelled as.
func ComponentOf(obj metav1.Object) string { return obj.GetLabels()[labelComponent] }
