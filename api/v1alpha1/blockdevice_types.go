package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BlockDevice is one disk of one node, as its agent sees it, and the cluster's claim on it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=blockdevices,singular=blockdevice,shortName=bd,scope=Namespaced
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Path",type=string,JSONPath=`.spec.path`
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.spec.identity.size`
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.identity.driveType`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Claim",type=string,JSONPath=`.status.claimState`
// +kubebuilder:printcolumn:name="Eligible",type=boolean,JSONPath=`.status.eligible`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.reasons[0].message`,description="first reason against using the device"
// +kubebuilder:printcolumn:name="Mount",type=string,JSONPath=`.status.claim.mountType`,priority=1
// +kubebuilder:printcolumn:name="Health",type=string,JSONPath=`.status.health`,priority=1
// +kubebuilder:printcolumn:name="FSType",type=string,JSONPath=`.spec.identity.filesystem`,priority=1
// +kubebuilder:printcolumn:name="Serial",type=string,JSONPath=`.spec.identity.serial`,priority=1
// +kubebuilder:printcolumn:name="Disk",type=string,JSONPath=`.status.diskID`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`,priority=1
type BlockDevice struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec BlockDeviceSpec `json:"spec"`
	// +optional
	Status BlockDeviceStatus `json:"status,omitempty"`
}

// BlockDeviceList is a list of block devices.
//
// +kubebuilder:object:root=true
type BlockDeviceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BlockDevice `json:"items"`
}

// BlockDeviceSpec says which device it is (agent) and who may use it (operator).
type BlockDeviceSpec struct {
	// Node is the Kubernetes node name.
	Node string `json:"node"`
	// Path is the kernel's name now, such as /dev/sdb. It may change at every start; nothing is decided by it.
	Path string `json:"path"`
	// Identity tells this device from every other and from itself with other content.
	Identity Identity `json:"identity"`
	// Claim gives the device to a cluster; written by the operator only.
	// +optional
	Claim *Claim `json:"claim,omitempty"`
}

// Claim gives a device to a cluster.
type Claim struct {
	// UID of this claim; another claim of the same device has another.
	// +kubebuilder:validation:MinLength=1
	UID string `json:"uid"`
	// ClusterRef is the IOMeshCluster.
	ClusterRef ClusterRef `json:"clusterRef"`
	// +kubebuilder:validation:Enum=cacheWithJournal;dataStore;dataStoreWithJournal
	MountType MountType `json:"mountType"`
	// Fingerprint is Identity.Fingerprint when the operator decided.
	Fingerprint string `json:"fingerprint"`
	// ContentFingerprint is Identity.ContentFingerprint when the operator decided: what the agent may find on the device
	// before it first uses it.
	// +optional
	ContentFingerprint string `json:"contentFingerprint,omitempty"`
	// Wipe allows the agent to erase what contentFingerprint names, so that the chunk finds the device blank and formats it.
	// False: the device must be blank, or carry a superblock of this cluster, which is kept.
	// +optional
	Wipe bool `json:"wipe,omitempty"`
	// ReclaimPolicy: what the agent does with the content when the claim is removed.
	// +kubebuilder:validation:Enum=Delete;Retain
	// +optional
	ReclaimPolicy ReclaimPolicy `json:"reclaimPolicy,omitempty"`
}

// ClusterRef names an IOMeshCluster in the same namespace.
type ClusterRef struct {
	Name string `json:"name"`
	// UID of the object, so that a later cluster of the same name does not inherit the claim.
	UID string `json:"uid"`
	// ClusterID that superblocks and the disk directory carry.
	ClusterID string `json:"clusterID"`
}

// DeviceState says whether the device is there.
//
// +kubebuilder:validation:Enum=Active;Inactive;Unknown
type DeviceState string

// Device states. Unknown: its agent has been silent for long (set by the operator's view, never by the agent).
const (
	DeviceActive   DeviceState = "Active"
	DeviceInactive DeviceState = "Inactive"
	DeviceUnknown  DeviceState = "Unknown"
)

// ClaimState is how far the agent is with the claim; see the package's drawing.
//
// +kubebuilder:validation:Enum=Unclaimed;Claimed;Released
type ClaimState string

// Claim states.
const (
	Unclaimed ClaimState = "Unclaimed"
	Claimed   ClaimState = "Claimed"
	Released  ClaimState = "Released"
)

// DeviceHealth is in the original's words.
//
// +kubebuilder:validation:Enum=Healthy;Unhealthy;Failing;Unknown
type DeviceHealth string

// Device health.
const (
	DeviceHealthy       DeviceHealth = "Healthy"
	DeviceUnhealthy     DeviceHealth = "Unhealthy" // slow, or errors were counted
	DeviceFailing       DeviceHealth = "Failing"   // self-test failed, or fenced after a failed flush
	DeviceHealthUnknown DeviceHealth = "Unknown"
)

// BlockDeviceStatus is written by the agent of the device's node.
type BlockDeviceStatus struct {
	// +optional
	State DeviceState `json:"state,omitempty"`
	// +optional
	ClaimState ClaimState `json:"claimState,omitempty"`
	// Claim that the agent has acted on; kept after spec.claim has gone until the device is released.
	// +optional
	Claim *Claim `json:"claim,omitempty"`
	// Eligible: nothing speaks against giving this device to a cluster. A claimed device is not eligible.
	// +optional
	Eligible bool `json:"eligible"`
	// Reasons against it, all of them, most important first; empty iff eligible.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	Reasons []Reason `json:"reasons,omitempty"`
	// +optional
	Health DeviceHealth `json:"health,omitempty"`
	// DiskID is the disk's UUID in the cluster, from the chunk's status file.
	// +optional
	DiskID string `json:"diskID,omitempty"`
	// Usage is the chunk's view of the disk.
	// +optional
	Usage *DeviceUsage `json:"usage,omitempty"`
	// Smart is what the disk says of itself, asked every six hours; absent where it says nothing.
	// +optional
	Smart *SmartStatus `json:"smart,omitempty"`
	// Message is the last refusal or error about this device; empty when all is well.
	// +optional
	Message string `json:"message,omitempty"`
	// LastSeen is when the agent last saw the device; refreshed at least each five minutes while it is there.
	// +optional
	LastSeen *metav1.Time `json:"lastSeen,omitempty"`
}

// SmartVerdict is what a disk says of itself.
//
// +kubebuilder:validation:Enum=Unknown;Passed;Failed
type SmartVerdict string

// Verdicts.
const (
	SmartUnknown SmartVerdict = "Unknown"
	SmartPassed  SmartVerdict = "Passed"
	SmartFailed  SmartVerdict = "Failed"
)

// SmartStatus is the health that a disk reports (S.M.A.R.T., the health log of NVMe, the log pages of SCSI). What a disk does not say is absent. A
// partition has that of its disk.
type SmartStatus struct {
	// Health is the disk's verdict of itself; Failed: it expects to fail soon.
	Health SmartVerdict `json:"health"`
	// SmartSelfTestStatus is how its last self-test ended.
	SmartSelfTestStatus SmartVerdict `json:"smartSelfTestStatus"`
	// LifespanPercentage is the part of its life that is left; 0: the maker's estimate is used up.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +optional
	LifespanPercentage *int32 `json:"lifespanPercentage,omitempty"`
	// +optional
	TemperatureCelsius *int32 `json:"temperatureCelsius,omitempty"`
	// +optional
	PowerOnHours *int64 `json:"powerOnHours,omitempty"`
	// MediaErrors counts data that could not be read back (NVMe).
	// +optional
	MediaErrors *int64 `json:"mediaErrors,omitempty"`
	// ReallocatedSectors counts sectors that were replaced (ATA).
	// +optional
	ReallocatedSectors *int64 `json:"reallocatedSectors,omitempty"`
	// PendingSectors counts sectors that cannot be read now (ATA).
	// +optional
	PendingSectors *int64 `json:"pendingSectors,omitempty"`
	// Message says why either verdict is Failed, or that the disk is too hot.
	// +optional
	Message string `json:"message,omitempty"`
	// Checked is when the disk was asked.
	// +optional
	Checked *metav1.Time `json:"checked,omitempty"`
}

// Reason is one reason against using a device.
type Reason struct {
	// Code is stable, in CamelCase: HasFilesystem, HasPartitions, Mounted, InUse, ReadOnly, TooSmall, Removable, NotListed, …
	Code string `json:"code"`
	// Message names the evidence.
	Message string `json:"message"`
}

// Codes of reasons that the operator looks at.
const (
	// ReasonSuperblock: the device carries a superblock of a cluster; identity.superblock says which.
	ReasonSuperblock = "HasIOMeshSuperblock"
	// ReasonFailing: the disk reports its own failure.
	ReasonFailing = "Failing"
	// ReasonClaimed: the device belongs to a cluster already.
	ReasonClaimed = "Claimed"
)

// DeviceUsage is the chunk's view of a disk.
type DeviceUsage struct {
	// State in the chunk's words.
	// +optional
	State string `json:"state,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// +optional
	UsedBytes int64 `json:"usedBytes,omitempty"`
}
