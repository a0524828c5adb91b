package view

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/desired"
	"github.com/iomesh/iomesh/operator/devicemap"
	"github.com/iomesh/iomesh/operator/placement"
)

// Facts are what a status is computed from.
type Facts struct {
	Now       time.Time
	Cluster   *v1alpha1.IOMeshCluster // with its last status
	ClusterID string
	Image     string

	// Storage is the answer of the metadata members, nil when there is none; then StorageErr says why.
	Storage    *storagedv1.ClusterStatus
	StorageErr error

	Nodes   []corev1.Node
	Devices []v1alpha1.BlockDevice

	Members  []placement.Member
	Chunks   []desired.Chunk // wanted
	MetaPods []corev1.Pod
	// ChunkPods by node.
	ChunkPods map[string]*corev1.Pod
	NodeSet   *appsv1.DaemonSet // nil: does not exist
	AttachSet *appsv1.DaemonSet // nil: does not exist or is not wanted

	Decision devicemap.Decision
	// Draining says of devices on their way out how far they are.
	Draining []string
	// Moving says how far metadata members are that change their node.
	Moving []string
	// Waiting is what the chunk rollout waits for.
	Waiting string
	// Updating is the node whose chunk is being updated.
	Updating string
	// Outdated counts chunk pods of another revision.
	Outdated int

	// Blocked is why the wish cannot be fulfilled without someone's doing: no suitable nodes, bad addresses, a broken
	// selector. In order of weight.
	Blocked []Problem
	// Deleting is what deletion waits for; set iff the object is being deleted.
	Deleting *Problem
}

// Problem is a condition's reason and message.
type Problem struct {
	Reason  string
	Message string
}

// everReady reports whether the cluster has been Ready before: then what is missing is a fault and no longer installation.
func (f *Facts) everReady() bool {
	p := f.Cluster.Status.Phase
	return p != "" && p != v1alpha1.PhaseInstalling
}
