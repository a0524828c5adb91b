package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Phase is the one word about a cluster's life.
//
// +kubebuilder:validation:Enum=Installing;Ready;Degraded;Error;Deleting
type Phase string

// Phases.
const (
	PhaseInstalling Phase = "Installing" // never been Ready; the conditions say what is waited for
	PhaseReady      Phase = "Ready"      // everything wished for is there and healthy
	PhaseDegraded   Phase = "Degraded"   // serves, with less than wished for
	PhaseError      Phase = "Error"      // some volume does not serve, or the wish cannot be fulfilled without a change of it
	PhaseDeleting   Phase = "Deleting"
)

// HealthState is the health of data, in the words of the data path.
//
// +kubebuilder:validation:Enum=OK;Degraded;AtRisk;Unavailable;Unknown
type HealthState string

// Health states, best first. Unknown: the metadata members do not answer.
const (
	HealthOK          HealthState = "OK"
	HealthDegraded    HealthState = "Degraded"    // fewer replicas than wanted, still more than the minimum
	HealthAtRisk      HealthState = "AtRisk"      // one more fault would stop or lose data
	HealthUnavailable HealthState = "Unavailable" // some data does not serve
	HealthUnknown     HealthState = "Unknown"
)

// Condition types of an IOMeshCluster.
const (
	ConditionReady         = "Ready"         // True: volumes can be created, attached and used; without a device map: disks can be mapped
	ConditionProgressing   = "Progressing"   // True: the operator is changing something, and says what it waits for
	ConditionDegraded      = "Degraded"      // True: something wished for is missing or sick
	ConditionDevicesMapped = "DevicesMapped" // True: every disk that the device map selects is claimed and active
)

// IOMeshClusterStatus is the view. Everything but hosts is written by the operator.
type IOMeshClusterStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Health of the data, from the metadata members.
	// +optional
	Health HealthState `json:"health,omitempty"`
	// +optional
	HealthReason string `json:"healthReason,omitempty"`
	// NextStep is what to do about it, empty when nothing.
	// +optional
	NextStep string `json:"nextStep,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ClusterID is generated once; disks and certificates carry it.
	// +optional
	ClusterID string `json:"clusterID,omitempty"`
	// Image that the operator rolls out now.
	// +optional
	Image string `json:"image,omitempty"`
	// TaskInProcess is the operator's running task, empty when none.
	// +optional
	TaskInProcess string `json:"taskInProcess,omitempty"`
	// UpdatingNode is the node whose chunk is being updated: the operator has put it into maintenance mode and ends that mode
	// when the new chunk serves. Written before the first step, so that another operator can finish.
	// +optional
	UpdatingNode string `json:"updatingNode,omitempty"`
	// Columns are the strings of kubectl get.
	// +optional
	Columns Columns `json:"columns,omitempty"`

	// ReadyReplicas counts ready pods per component: meta, chunk, node, attach.
	// +optional
	ReadyReplicas map[string]int32 `json:"readyReplicas,omitempty"`
	// RunningImages maps pods to the image that they run: shows the progress of a rolling update.
	// +optional
	RunningImages RunningImages `json:"runningImages,omitempty"`
	// AttachedDevices are the disks that the cluster uses.
	// +listType=atomic
	// +optional
	AttachedDevices []AttachedDevice `json:"attachedDevices,omitempty"`

	// +listType=map
	// +listMapKey=name
	// +optional
	Nodes []NodeStatus `json:"nodes,omitempty"`
	// Hosts is what the agent of each node says of its host; written by the agents.
	// +listType=map
	// +listMapKey=node
	// +optional
	Hosts []HostStatus `json:"hosts,omitempty"`
	// +optional
	Resync ResyncStatus `json:"resync,omitempty"`
	// Tasks of the data path: rebuilds, drains, moves; at most 32.
	// +listType=atomic
	// +optional
	Tasks []TaskStatus `json:"tasks,omitempty"`
	// +optional
	Volumes VolumeCounts `json:"volumes,omitempty"`
	// +optional
	Summary Summary `json:"summary,omitempty"`
	// MetaAsOf is the time of the metadata members' answer that this status tells of.
	// +optional
	MetaAsOf *metav1.Time `json:"metaAsOf,omitempty"`
}

// Columns are strings for people.
type Columns struct {
	// +optional
	Nodes string `json:"nodes,omitempty"`
	// +optional
	Disks string `json:"disks,omitempty"`
	// +optional
	Capacity string `json:"capacity,omitempty"`
	// +optional
	Used string `json:"used,omitempty"`
	// +optional
	Resync string `json:"resync,omitempty"`
}

// RunningImages maps pod names to images.
type RunningImages struct {
	// +optional
	Chunk map[string]string `json:"chunk,omitempty"`
	// +optional
	Meta map[string]string `json:"meta,omitempty"`
}

// AttachedDevice is one used disk, in the original's form.
type AttachedDevice struct {
	// Device is the BlockDevice's name.
	Device    string    `json:"device"`
	MountType MountType `json:"mountType"`
	NodeName  string    `json:"nodeName"`
	// UUID of the disk in the cluster; empty until it is formatted.
	// +optional
	UUID string `json:"uuid,omitempty"`
	// State: Pending (claimed, not yet used), Active, Draining, Drained, Stalled, Failed, Missing.
	// +optional
	State string `json:"state,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// +optional
	UsedBytes int64 `json:"usedBytes,omitempty"`
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
}

// NodeStatus is one storage node or meta node.
type NodeStatus struct {
	Name string `json:"name"`
	// Roles: meta, chunk.
	// +listType=atomic
	// +optional
	Roles []string `json:"roles,omitempty"`
	// State of the chunk: Online, Offline, Pending (pod not there yet).
	// +optional
	State string `json:"state,omitempty"`
	// Mode: active or maintenance.
	// +optional
	Mode string `json:"mode,omitempty"`
	// KubernetesReady is the Ready condition of the node object.
	// +optional
	KubernetesReady bool `json:"kubernetesReady,omitempty"`
	// +optional
	DataAddress string `json:"dataAddress,omitempty"`
	// +optional
	Version string `json:"version,omitempty"`
	// +optional
	Disks int32 `json:"disks,omitempty"`
	// +optional
	DisksActive int32 `json:"disksActive,omitempty"`
	// +optional
	OwnedVolumes int32 `json:"ownedVolumes,omitempty"`
	// +optional
	Sessions int32 `json:"sessions,omitempty"`
	// +optional
	LastSeen *metav1.Time `json:"lastSeen,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

// HostStatus is what a node's agent says of its host.
type HostStatus struct {
	Node string `json:"node"`
	// Attach is the mode in use on this node: iscsi or userspace.
	// +optional
	Attach AttachMode `json:"attach,omitempty"`
	// AttachReason says why.
	// +optional
	AttachReason string `json:"attachReason,omitempty"`
	// Addresses are the host's unicast IP addresses; the operator picks the one inside chunk.dataCIDR.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Addresses []string `json:"addresses,omitempty"`
	// AgentVersion of the agent that writes this.
	// +optional
	AgentVersion string `json:"agentVersion,omitempty"`
	// +optional
	LastSeen *metav1.Time `json:"lastSeen,omitempty"`
}

// ResyncStatus is the copying that is left.
type ResyncStatus struct {
	// +optional
	BytesLeft int64 `json:"bytesLeft,omitempty"`
	// +optional
	BytesPerSecond int64 `json:"bytesPerSecond,omitempty"`
}

// TaskStatus is a task of the data path.
type TaskStatus struct {
	Kind   string `json:"kind"`
	Object string `json:"object"`
	// +optional
	State string `json:"state,omitempty"`
	// +optional
	BytesDone int64 `json:"bytesDone,omitempty"`
	// +optional
	BytesTotal int64 `json:"bytesTotal,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

// VolumeCounts counts volumes by health.
type VolumeCounts struct {
	// +optional
	Total int32 `json:"total,omitempty"`
	// +optional
	Degraded int32 `json:"degraded,omitempty"`
	// +optional
	Unavailable int32 `json:"unavailable,omitempty"`
}

// Summary is the original's summary of the cluster.
type Summary struct {
	// +optional
	ChunkSummary ChunkSummary `json:"chunkSummary,omitempty"`
	// +optional
	ClusterSummary ClusterSummary `json:"clusterSummary,omitempty"`
	// +optional
	MetaSummary MetaSummary `json:"metaSummary,omitempty"`
}

// ChunkSummary lists the chunks.
type ChunkSummary struct {
	// +listType=atomic
	// +optional
	Chunks []ChunkInfo `json:"chunks,omitempty"`
}

// ChunkInfo is one chunk.
type ChunkInfo struct {
	ID int32  `json:"id"`
	IP string `json:"ip"`
	// +optional
	Node   string `json:"node,omitempty"`
	Status string `json:"status"`
	// +optional
	SpaceInfo SpaceInfo `json:"spaceInfo,omitempty"`
}

// ClusterSummary is the space of the whole.
type ClusterSummary struct {
	// +optional
	SpaceInfo SpaceInfo `json:"spaceInfo,omitempty"`
}

// SpaceInfo is in bytes. The cache numbers of the original are zero: there is no separate cache layer.
type SpaceInfo struct {
	// +optional
	TotalDataCapacity int64 `json:"totalDataCapacity,omitempty"`
	// +optional
	UsedDataSpace int64 `json:"usedDataSpace,omitempty"`
	// +optional
	ProvisionedDataSpace int64 `json:"provisionedDataSpace,omitempty"`
	// FailureDataSpace is the capacity of disks that do not serve.
	// +optional
	FailureDataSpace int64 `json:"failureDataSpace,omitempty"`
	// +optional
	TotalCacheCapacity int64 `json:"totalCacheCapacity,omitempty"`
	// +optional
	UsedCacheSpace int64 `json:"usedCacheSpace,omitempty"`
	// +optional
	DirtyCacheSpace int64 `json:"dirtyCacheSpace,omitempty"`
	// +optional
	FailureCacheSpace int64 `json:"failureCacheSpace,omitempty"`
}

// MetaSummary is the state of the metadata members.
type MetaSummary struct {
	// AliveHost lists host:port of the healthy members.
	// +listType=atomic
	// +optional
	AliveHost []string `json:"aliveHost,omitempty"`
	// +optional
	Leader string `json:"leader,omitempty"`
	// +optional
	Status string `json:"status,omitempty"`
}
