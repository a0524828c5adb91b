package v1alpha1

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
)

// DeviceType is the kernel's kind of block device, in the original's words.
//
// +kubebuilder:validation:Enum=disk;partition;loop;lvm;crypt;dm;mpath;sparse
type DeviceType string

// Device types.
const (
	TypeDisk      DeviceType = "disk"
	TypePartition DeviceType = "partition"
	TypeLoop      DeviceType = "loop"
	TypeLVM       DeviceType = "lvm"
	TypeCrypt     DeviceType = "crypt"
	TypeDM        DeviceType = "dm"
	TypeMultipath DeviceType = "mpath"
	TypeSparse    DeviceType = "sparse"
)

// DriveType is the medium.
//
// +kubebuilder:validation:Enum=HDD;SSD;NVMe;loop;Unknown
type DriveType string

// Drive types.
const (
	DriveHDD     DriveType = "HDD"
	DriveSSD     DriveType = "SSD"
	DriveNVMe    DriveType = "NVMe"
	DriveLoop    DriveType = "loop"
	DriveUnknown DriveType = "Unknown"
)

// Identity tells a device from every other, and from itself with other content.
type Identity struct {
	// +optional
	Serial string `json:"serial,omitempty"`
	// +optional
	WWN string `json:"wwn,omitempty"`
	// +optional
	Model string `json:"model,omitempty"`
	// +optional
	Vendor string `json:"vendor,omitempty"`
	// SizeBytes of the device.
	// +kubebuilder:validation:Minimum=0
	SizeBytes int64 `json:"sizeBytes"`
	// Size is sizeBytes for people.
	// +optional
	Size string `json:"size,omitempty"`
	// +optional
	DeviceType DeviceType `json:"deviceType,omitempty"`
	// +optional
	DriveType DriveType `json:"driveType,omitempty"`
	// LogicalBlockBytes is the smallest unit of I/O.
	// +optional
	LogicalBlockBytes int32 `json:"logicalBlockBytes,omitempty"`
	// BackingFile of a loop device: it has no serial, so this is its identity.
	// +optional
	BackingFile string `json:"backingFile,omitempty"`
	// PartitionUUID of a partition (PARTUUID).
	// +optional
	PartitionUUID string `json:"partitionUUID,omitempty"`

	// PartitionTable: gpt, dos or empty.
	// +optional
	PartitionTable string `json:"partitionTable,omitempty"`
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	Partitions []Partition `json:"partitions,omitempty"`
	// Filesystem or RAID signature found: ext4, xfs, LVM2_member, linux_raid_member, … "unknown" for a device whose first or
	// last MiB is not zero and not understood. Empty for a blank device and one with only an IOMesh superblock.
	// +optional
	Filesystem string `json:"filesystem,omitempty"`
	// +optional
	FilesystemUUID string `json:"filesystemUUID,omitempty"`
	// Superblock of an IOMesh cluster found on the device.
	// +optional
	Superblock *SuperblockRef `json:"superblock,omitempty"`
}

// Partition is one partition of a device.
type Partition struct {
	Number    int32 `json:"number"`
	SizeBytes int64 `json:"sizeBytes"`
	// +optional
	UUID string `json:"uuid,omitempty"`
	// +optional
	Filesystem string `json:"filesystem,omitempty"`
}

// SuperblockRef says whose disk a device is.
type SuperblockRef struct {
	ClusterID string `json:"clusterID"`
	DiskID    string `json:"diskID"`
}

// Fingerprint is a hash of what never changes about a device: serial, WWN, model, vendor, size, backing file and partition
// UUID. The kernel's name is not in it. Equal fingerprints mean the same hardware only if HasStableID says so.
func (i *Identity) Fingerprint() string {
	h := sha256.New()
	field(h, "serial", i.Serial)
	field(h, "wwn", i.WWN)
	field(h, "model", i.Model)
	field(h, "vendor", i.Vendor)
	field(h, "size", strconv.FormatInt(i.SizeBytes, 10))
	field(h, "backing", i.BackingFile)
	field(h, "partuuid", i.PartitionUUID)
	return "h1:" + hex.EncodeToString(h.Sum(nil)[:16])
}

// HasStableID reports whether something in the identity is unique to the device.
func (i *Identity) HasStableID() bool {
	return i.Serial != "" || i.WWN != "" || i.BackingFile != "" || i.PartitionUUID != ""
}

// ContentFingerprint is a hash of what was found on the device: partition table, partitions, signatures, superblock.
func (i *Identity) ContentFingerprint() string {
	h := sha256.New()
	field(h, "table", i.PartitionTable)
	for _, p := range i.Partitions {
		field(h, "partition", fmt.Sprintf("%d %d %s %s", p.Number, p.SizeBytes, p.UUID, p.Filesystem))
	}
	field(h, "filesystem", i.Filesystem)
	field(h, "filesystemUUID", i.FilesystemUUID)
	if i.Superblock != nil {
		field(h, "superblock", i.Superblock.ClusterID+" "+i.Superblock.DiskID)
	}
	return "c1:" + hex.EncodeToString(h.Sum(nil)[:16])
}

// Blank reports whether nothing was found on the device.
func (i *Identity) Blank() bool {
	return i.PartitionTable == "" && len(i.Partitions) == 0 && i.Filesystem == "" && i.Superblock == nil
}

// field hashes a name and a value with their lengths, so that no two different identities give the same bytes.
func field(h hash.Hash, name, value string) {
	fmt.Fprintf(h, "%s=%d:%s\n", name, len(value), value)
}
