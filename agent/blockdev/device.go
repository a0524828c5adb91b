package blockdev

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/iomesh/iomesh/agent/signature"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Type is the kind of a block device; those that can become BlockDevice objects have the words of v1alpha1.DeviceType.
type Type string

// Types of devices.
const (
	Disk      Type = "disk"
	Partition Type = "partition"
	Loop      Type = "loop"
	LVM       Type = "lvm"
	Crypt     Type = "crypt"
	DM        Type = "dm"
	MPath     Type = "mpath"
	RAID      Type = "raid"
	Memory    Type = "memory"  // ram, zram
	Optical   Type = "optical" // CD and floppy drives
	Network   Type = "network" // nbd, rbd, drbd
)

// Key is what a device says of itself, as far as the name of its object is made from it; see the package comment.
type Key struct {
	WWN             string `json:"wwn,omitempty"`
	Serial          string `json:"serial,omitempty"`
	Vendor          string `json:"vendor,omitempty"`
	Model           string `json:"model,omitempty"`
	PartitionNumber uint32 `json:"partitionNumber,omitempty"`
	PartitionUUID   string `json:"partitionUUID,omitempty"`
	BackingFile     string `json:"backingFile,omitempty"` // loop devices
	Node            string `json:"node,omitempty"`        // where the identity holds on one machine only
	BusPath         string `json:"busPath,omitempty"`     // only where there is nothing better
}

// Stable reports whether the identity survives a restart and a move to another port.
func (k Key) Stable() bool {
	return k.WWN != "" || k.Serial != "" || k.BackingFile != "" || k.PartitionUUID != ""
}

// Name returns the name of the BlockDevice object: a DNS label, the same for the same identity for ever.
func (k Key) Name() string {
	h := sha256.New()
	number := ""
	if k.PartitionNumber > 0 {
		number = fmt.Sprint(k.PartitionNumber)
	}
	for _, s := range []string{k.WWN, k.Serial, k.Vendor, k.Model, number, k.PartitionUUID, k.BackingFile, k.Node, k.BusPath} {
		// Length before content: no two identities give the same bytes.
		fmt.Fprintf(h, "%d:%s;", len(s), s)
	}
	return "bd-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// On returns the key bound to one machine, for the case that two machines report the same one.
func (k Key) On(node string) Key {
	k.Node = node
	return k
}

// Mount is one place a device, or something on it, is mounted at.
type Mount struct {
	Path   string `json:"path"`
	Fstype string `json:"fstype,omitempty"`
}

// Device is one block device as the last scan saw it.
type Device struct {
	KernelName string `json:"kernelName"` // "sda": valid until the next scan
	Path       string `json:"path"`       // "/dev/sda"
	Major      uint32 `json:"major"`
	Minor      uint32 `json:"minor"`
	DiskSeq    uint64 `json:"diskSeq,omitempty"` // kernel's number of this attachment; 0 where the kernel has none

	Type      Type               `json:"type"`
	Drive     v1alpha1.DriveType `json:"drive"`
	Transport string             `json:"transport,omitempty"` // nvme, sata, sas, usb, virtio, iscsi
	Key       Key                `json:"key"`
	Firmware  string             `json:"firmware,omitempty"`

	SizeBytes          uint64 `json:"sizeBytes"`
	LogicalBlockBytes  uint32 `json:"logicalBlockBytes"`
	PhysicalBlockBytes uint32 `json:"physicalBlockBytes"`
	ReadOnly           bool   `json:"readOnly,omitempty"`
	Removable          bool   `json:"removable,omitempty"`

	Parent     string    `json:"parent,omitempty"`  // kernel name of the disk of a partition
	Partitions []*Device `json:"-"`                 // of a disk, by number
	Holders    []string  `json:"holders,omitempty"` // devices built on this one
	Slaves     []string  `json:"slaves,omitempty"`  // devices this one is built on
	Mounts     []Mount   `json:"mounts,omitempty"`  // of the device itself
	Swap       bool      `json:"swap,omitempty"`    // in use as swap now

	Signatures []signature.Found `json:"signatures,omitempty"`
	// ReadError says why the device's content is not, or not wholly, known. Such a device is never taken for empty.
	ReadError string `json:"readError,omitempty"`
}

// vendorOwn is what our own LUNs say as vendor (SPC INQUIRY).
const vendorOwn = "IOMESH"

// OwnVolume reports whether the device is a volume of IOMesh that is attached to this node, or a partition of one.
func (d *Device) OwnVolume() bool {
	return d.Key.Vendor == vendorOwn || strings.HasPrefix(d.Key.BackingFile, "/run/iomesh/")
}

// Name is the name of the device's BlockDevice object.
func (d *Device) Name() string { return d.Key.Name() }

// Identity is the device in the words of the BlockDevice object: what never changes, and what was found on it.
func (d *Device) Identity() v1alpha1.Identity {
	id := v1alpha1.Identity{
		Serial: d.Key.Serial, WWN: d.Key.WWN, Model: d.Key.Model, Vendor: d.Key.Vendor,
		SizeBytes: int64(d.SizeBytes), Size: SizeText(d.SizeBytes),
		DeviceType: v1alpha1.DeviceType(d.Type), DriveType: d.Drive, LogicalBlockBytes: int32(d.LogicalBlockBytes),
		BackingFile: d.Key.BackingFile, PartitionUUID: d.Key.PartitionUUID,
	}
	for _, f := range d.Signatures {
		switch {
		case f.Usage == signature.PartitionTable:
			id.PartitionTable = higherTable(id.PartitionTable, f.Kind)
		case f.Kind == signature.KindIOMesh:
			if id.Superblock == nil || id.Superblock.ClusterID == "" {
				id.Superblock = &v1alpha1.SuperblockRef{ClusterID: f.UUID, DiskID: f.DiskID}
			}
		case !strings.Contains(","+id.Filesystem+",", ","+f.Kind+","):
			// Several at once (remains of an earlier file system) are all named, so that the content's fingerprint covers each.
			id.Filesystem = strings.TrimPrefix(id.Filesystem+","+f.Kind, ",")
			id.FilesystemUUID = strings.TrimPrefix(id.FilesystemUUID+","+f.UUID, ",")
		}
	}
	if d.ReadError != "" {
		// What cannot be read is not blank.
		id.Filesystem = strings.TrimPrefix(id.Filesystem+",unreadable", ",")
	}
	for _, p := range d.Partitions {
		pid := p.Identity()
		id.Partitions = append(id.Partitions, v1alpha1.Partition{
			Number: int32(p.Key.PartitionNumber), SizeBytes: int64(p.SizeBytes), UUID: p.Key.PartitionUUID, Filesystem: pid.Filesystem,
		})
		if len(id.Partitions) == 128 {
			break
		}
	}
	return id
}

// higherTable: a GPT comes with a protective DOS table, which is not worth a word.
func higherTable(a, b string) string {
	if a == "gpt" || b == "gpt" {
		return "gpt"
	}
	return b
}

// SizeText is a size in binary units for people: "8.0Gi".
func SizeText(n uint64) string {
	units := []string{"B", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%s", v, units[i])
}

// cleanWords removes what hardware pads its strings with. Everything that is not printable ASCII goes: these strings end in labels,
// tables and terminals.
func cleanWords(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
