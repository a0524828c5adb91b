package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// IOMeshCluster is one storage cluster: the wish in spec, what is true in status.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=iomeshclusters,singular=iomeshcluster,shortName=iomesh,scope=Namespaced
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Health",type=string,JSONPath=`.status.health`
// +kubebuilder:printcolumn:name="Nodes",type=string,JSONPath=`.status.columns.nodes`,description="storage nodes online / wanted"
// +kubebuilder:printcolumn:name="Disks",type=string,JSONPath=`.status.columns.disks`,description="disks active / claimed"
// +kubebuilder:printcolumn:name="Capacity",type=string,JSONPath=`.status.columns.capacity`,description="raw bytes of the active disks"
// +kubebuilder:printcolumn:name="Used",type=string,JSONPath=`.status.columns.used`
// +kubebuilder:printcolumn:name="Resync",type=string,JSONPath=`.status.columns.resync`,description="bytes still to copy, and the rate"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Task",type=string,JSONPath=`.status.taskInProcess`,priority=1
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.healthReason`,priority=1
// +kubebuilder:printcolumn:name="Image",type=string,JSONPath=`.status.image`,priority=1
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 40",message="metadata.name: at most 40 characters, because names of pods and volumes are made from it"
type IOMeshCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec IOMeshClusterSpec `json:"spec"`
	// +optional
	Status IOMeshClusterStatus `json:"status,omitempty"`
}

// IOMeshClusterList is a list of clusters.
//
// +kubebuilder:object:root=true
type IOMeshClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IOMeshCluster `json:"items"`
}

// IOMeshClusterSpec is the wish.
//
// +kubebuilder:validation:XValidation:rule="self.diskDeploymentMode != 'allFlash' || !has(self.chunk.deviceMap) || self.chunk.deviceMap.all(k, k == 'dataStoreWithJournal')",message="chunk.deviceMap: with diskDeploymentMode allFlash the only mount type is dataStoreWithJournal; set diskDeploymentMode: hybridFlash to use cacheWithJournal and dataStore"
// +kubebuilder:validation:XValidation:rule="self.diskDeploymentMode != 'hybridFlash' || !has(self.chunk.deviceMap) || self.chunk.deviceMap.all(k, k != 'dataStoreWithJournal')",message="chunk.deviceMap: with diskDeploymentMode hybridFlash the mount types are cacheWithJournal and dataStore; set diskDeploymentMode: allFlash to use dataStoreWithJournal"
// +kubebuilder:validation:XValidation:rule="self.diskDeploymentMode == oldSelf.diskDeploymentMode || !has(oldSelf.chunk.deviceMap) || size(oldSelf.chunk.deviceMap) == 0",message="diskDeploymentMode: cannot change while chunk.deviceMap is not empty; remove the mount types first, wait until the disks are Unclaimed, then change it"
// +kubebuilder:validation:XValidation:rule="!has(self.redirector) || !has(self.redirector.dataCIDR) || !has(self.chunk.dataCIDR) || self.redirector.dataCIDR == self.chunk.dataCIDR",message="redirector.dataCIDR: must equal chunk.dataCIDR (or be left out)"
type IOMeshClusterSpec struct {
	// Image that holds every daemon of the cluster. Empty: the image that the operator itself runs from.
	// +optional
	Image string `json:"image,omitempty"`
	// ImagePullPolicy of every container that the operator creates.
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	// +kubebuilder:default=IfNotPresent
	// +optional
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// ImagePullSecrets for the image, in the cluster's namespace.
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// DiskDeploymentMode: hybridFlash (mount types cacheWithJournal and dataStore) or allFlash (dataStoreWithJournal).
	// +kubebuilder:default=hybridFlash
	// +optional
	DiskDeploymentMode DiskDeploymentMode `json:"diskDeploymentMode,omitempty"`

	// Attach says how nodes attach volumes: iscsi (kernel initiator), userspace (iomesh-attach: own initiator, FUSE and loop
	// device), or auto: each node by what its kernel can do; status.hosts says which and why.
	// +kubebuilder:default=auto
	// +optional
	Attach AttachMode `json:"attach,omitempty"`

	// +kubebuilder:default={}
	// +optional
	Meta MetaSpec `json:"meta,omitempty"`
	// +kubebuilder:default={}
	// +optional
	Chunk ChunkSpec `json:"chunk,omitempty"`
	// +optional
	Redirector *RedirectorSpec `json:"redirector,omitempty"`
	// Node is the placement of the DaemonSets iomesh-node and iomesh-attach: every node whose pods use volumes.
	// +optional
	Node *NodeSpec `json:"node,omitempty"`
	// Devices says which devices, beyond real disks, agents may offer.
	// +optional
	Devices *DevicesSpec `json:"devices,omitempty"`
	// Monitoring of the daemons.
	// +optional
	Monitoring *MonitoringSpec `json:"monitoring,omitempty"`
	// ReclaimPolicy says what happens to state and disks when they are released.
	// +optional
	ReclaimPolicy *ReclaimPolicySpec `json:"reclaimPolicy,omitempty"`

	// StorageClass of state volumes in the original. Accepted and ignored: meta state lies on host paths.
	// +optional
	StorageClass string `json:"storageClass,omitempty"`
	// LicenseSecretName names a licence. Accepted and ignored: there are no editions.
	// +optional
	LicenseSecretName string `json:"licenseSecretName,omitempty"`
	// PortOffset of the original. Accepted and ignored: ports are fixed.
	// +optional
	PortOffset *int32 `json:"portOffset,omitempty"`
	// Probe names a helper image of the original. Accepted and ignored.
	// +optional
	Probe *ImageSpec `json:"probe,omitempty"`
	// Toolbox names a helper image of the original. Accepted and ignored.
	// +optional
	Toolbox *ImageSpec `json:"toolbox,omitempty"`
}

// DiskDeploymentMode is the kind of disk layout of a cluster.
//
// +kubebuilder:validation:Enum=hybridFlash;allFlash
type DiskDeploymentMode string

// Disk layouts.
const (
	HybridFlash DiskDeploymentMode = "hybridFlash"
	AllFlash    DiskDeploymentMode = "allFlash"
)

// AttachMode is how a node attaches volumes.
//
// +kubebuilder:validation:Enum=auto;iscsi;userspace
type AttachMode string

// Attach modes.
const (
	AttachAuto      AttachMode = "auto"
	AttachISCSI     AttachMode = "iscsi"
	AttachUserspace AttachMode = "userspace"
)

// PodPolicy places pods.
type PodPolicy struct {
	// +optional
	Affinity *Affinity `json:"affinity,omitempty"`
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// Tolerations in addition to those that every daemon here has (node not ready, unreachable, under pressure).
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
}

// Affinity chooses nodes. podAffinity and podAntiAffinity are accepted and ignored: the operator never puts two members or
// two chunks on one node.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Affinity struct {
	// +optional
	NodeAffinity *corev1.NodeAffinity `json:"nodeAffinity,omitempty"`
}

// MetaSpec is the wish about the metadata members.
type MetaSpec struct {
	// Replicas: 1 for a trial, 3 or 5. Fixed once the cluster exists.
	// +kubebuilder:validation:Enum=1;3;5
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="meta.replicas: cannot change once the cluster exists"
	// +kubebuilder:default=3
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// Image of the original's meta. Accepted and ignored: spec.image holds every daemon.
	// +optional
	Image string `json:"image,omitempty"`
	// +optional
	PodPolicy *PodPolicy `json:"podPolicy,omitempty"`
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
}

// ChunkSpec is the wish about the data servers and their disks.
type ChunkSpec struct {
	// Replicas is the highest number of storage nodes. Absent or 0: every node that podPolicy allows and that has claimed
	// disks. Nodes that hold disks already are kept first.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// Image of the original's chunk. Accepted and ignored: spec.image holds every daemon.
	// +optional
	Image string `json:"image,omitempty"`
	// DataCIDR is the storage network: every storage node serves data on its address inside it. Absent: the node's internal IP.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self == '' || isCIDR(self)",message="chunk.dataCIDR: must be a network such as 10.234.1.0/24"
	// +optional
	DataCIDR string `json:"dataCIDR,omitempty"`
	// AccessCIDR of the original. Accepted and ignored: initiators use the data network.
	// +optional
	AccessCIDR string `json:"accessCIDR,omitempty"`
	// +optional
	PodPolicy *PodPolicy `json:"podPolicy,omitempty"`
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// Devicemanager of the original. Accepted and ignored, except that blockDeviceNamespace must be the cluster's own.
	// +optional
	DeviceManager *DeviceManagerSpec `json:"devicemanager,omitempty"`
	// DeviceMap says which disks are used and as what: cacheWithJournal, dataStore, dataStoreWithJournal. It is live: a disk
	// that appears later and matches is claimed at once; one that stops matching is drained and released.
	// +kubebuilder:validation:MaxProperties=3
	// +kubebuilder:validation:XValidation:rule="self.all(k, k in ['cacheWithJournal', 'dataStore', 'dataStoreWithJournal'])",message="chunk.deviceMap: keys are the mount types cacheWithJournal, dataStore and dataStoreWithJournal"
	// +optional
	DeviceMap map[MountType]DeviceSelection `json:"deviceMap,omitempty"`
}

// DeviceManagerSpec is accepted for the original's manifests.
type DeviceManagerSpec struct {
	// +optional
	Image string `json:"image,omitempty"`
	// +optional
	BlockDeviceNamespace string `json:"blockDeviceNamespace,omitempty"`
}

// MountType is what a disk is used as.
type MountType string

// Mount types.
const (
	// CacheWithJournal: journal of the node's dataStore disks; an SSD.
	CacheWithJournal MountType = "cacheWithJournal"
	// DataStore: data whose journal is on a cacheWithJournal disk; usually an HDD.
	DataStore MountType = "dataStore"
	// DataStoreWithJournal: data and journal on one SSD.
	DataStoreWithJournal MountType = "dataStoreWithJournal"
)

// DeviceSelection selects BlockDevices: those that match selector and are not in exclude.
//
// +kubebuilder:validation:XValidation:rule="(has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0) || (has(self.selector.matchExpressions) && size(self.selector.matchExpressions) > 0)",message="selector: must have matchLabels or matchExpressions, because an empty selector would take every disk; to mean that, use matchExpressions: [{key: iomesh.com/node, operator: Exists}]"
type DeviceSelection struct {
	// +required
	Selector metav1.LabelSelector `json:"selector"`
	// Exclude lists names of BlockDevices that are not used, although they match. Adding the name of a used one drains and releases it.
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	// +optional
	Exclude []string `json:"exclude,omitempty"`
}

// RedirectorSpec is the wish about the iSCSI front door on every node.
type RedirectorSpec struct {
	// Image of the original. Accepted and ignored: spec.image holds every daemon.
	// +optional
	Image string `json:"image,omitempty"`
	// DataCIDR must equal chunk.dataCIDR where both are given.
	// +optional
	DataCIDR string `json:"dataCIDR,omitempty"`
	// ISCSIVirtualIP of the original. Accepted and ignored: portals are the nodes' own addresses.
	// +optional
	ISCSIVirtualIP string `json:"iscsiVirtualIP,omitempty"`
	// PodPolicy of the original. Accepted and ignored: the redirector is a container of iomesh-node, see node.podPolicy.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +optional
	PodPolicy *runtime.RawExtension `json:"podPolicy,omitempty"`
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
}

// NodeSpec is the wish about the DaemonSets iomesh-node and iomesh-attach.
type NodeSpec struct {
	// PodPolicy: affinity and nodeSelector choose the nodes; tolerations: absent means every taint is tolerated.
	// +optional
	PodPolicy *PodPolicy `json:"podPolicy,omitempty"`
	// KubeletRootDir of the nodes.
	// +kubebuilder:default="/var/lib/kubelet"
	// +kubebuilder:validation:Pattern=`^/[^:]*$`
	// +kubebuilder:validation:MaxLength=255
	// +optional
	KubeletRootDir string `json:"kubeletRootDir,omitempty"`
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
}

// DevicesSpec says which devices agents may offer beyond real disks.
type DevicesSpec struct {
	// LoopBackingFiles lists, per node name, absolute paths of files whose loop devices may be used as disks (development
	// and tests). Loop devices are global to a machine, so no other loop device is ever eligible.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	LoopBackingFiles map[string]LoopFiles `json:"loopBackingFiles,omitempty"`
}

// LoopFiles are absolute paths of files behind loop devices.
//
// +kubebuilder:validation:MaxItems=64
// +kubebuilder:validation:items:MaxLength=1024
// +kubebuilder:validation:items:Pattern=`^/.+$`
// +listType=set
type LoopFiles []string

// MonitoringSpec is about metrics.
type MonitoringSpec struct {
	// ScrapeAnnotations puts prometheus.io/scrape, /port and /path on the pods, for a Prometheus that discovers pods by
	// annotation.
	// +optional
	ScrapeAnnotations bool `json:"scrapeAnnotations,omitempty"`
}

// ReclaimPolicySpec says what happens to what is released.
type ReclaimPolicySpec struct {
	// Volume: what happens to the meta members' state when the cluster is deleted. Delete erases it, Retain leaves it on the nodes.
	// +kubebuilder:validation:Enum=Delete;Retain
	// +kubebuilder:default=Delete
	// +optional
	Volume ReclaimPolicy `json:"volume,omitempty"`
	// BlockDevice: what happens to a disk that is released. Delete erases its superblock, Retain leaves it, and the disk stays Released.
	// +kubebuilder:validation:Enum=Delete;Retain
	// +kubebuilder:default=Delete
	// +optional
	BlockDevice ReclaimPolicy `json:"blockdevice,omitempty"`
}

// ReclaimPolicy is Delete or Retain.
type ReclaimPolicy string

// Reclaim policies.
const (
	ReclaimDelete ReclaimPolicy = "Delete"
	ReclaimRetain ReclaimPolicy = "Retain"
)

// ImageSpec names an image.
type ImageSpec struct {
	// +optional
	Image string `json:"image,omitempty"`
}
