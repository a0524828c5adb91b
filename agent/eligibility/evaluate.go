package eligibility

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/signature"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Codes of reasons. ReasonClaimed and ReasonSuperblock of package v1alpha1 belong to them.
const (
	SystemDisk        = "SystemDisk"
	OwnVolume         = "OwnVolume"
	Mounted           = "Mounted"
	InUse             = "InUse"
	HasPartitions     = "HasPartitions"
	HasFilesystem     = "HasFilesystem"
	HasPartitionTable = "HasPartitionTable"
	UnknownContent    = "UnknownContent"
	Unreadable        = "Unreadable"
	NotListed         = "NotListed"
	NoIdentity        = "NoIdentity"
	DuplicateIdentity = "DuplicateIdentity"
	ReadOnly          = "ReadOnly"
	Removable         = "Removable"
	TooSmall          = "TooSmall"
	BlockSize         = "BlockSize"
	UnsuitableType    = "UnsuitableType"
)

// Default sizes below which a device is not worth using.
const (
	MinDiskBytesDefault = 60_000_000_000
	MinLoopBytesDefault = 1 << 30
)

// Policy is what the administrator decides about devices of a node.
type Policy struct {
	MinDiskBytes uint64 // disks, partitions and multipath devices
	MinLoopBytes uint64 // listed loop devices
	// LoopBackingFiles are the files whose loop devices may be used on this node.
	LoopBackingFiles []string
	// DuplicateOf maps a device's kernel name to who else has the same identity ("/dev/sdb", "node worker-2").
	DuplicateOf map[string]string
}

// systemPaths are mount points without which the machine or its kubelet does not live.
var systemPaths = []string{"/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/etc", "/opt", "/home", "/tmp", "/run", "/var/lib", "/var/lib/kubelet",
	"/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/etcd", "/var/lib/iomesh", "/var/log"}

// Listed reports whether a device is one that the agent publishes: real disks, their partitions, multipath devices, and listed loop devices. The
// others of a machine (memory disks, optical drives, mapped devices, snap's loops) are shown by the agent on request only.
func (p *Policy) Listed(d *blockdev.Device) bool {
	switch d.Type {
	case blockdev.Disk, blockdev.Partition, blockdev.MPath:
		return d.SizeBytes > 0
	case blockdev.Loop:
		return p.loopListed(d)
	}
	return false
}

func (p *Policy) loopListed(d *blockdev.Device) bool {
	return d.Key.BackingFile != "" && slices.ContainsFunc(p.LoopBackingFiles, func(f string) bool {
		return filepath.Clean(f) == d.Key.BackingFile
	})
}

// Evaluate returns every reason against using d; all is the scan that d is from. The result is empty for an eligible device.
func (p *Policy) Evaluate(d *blockdev.Device, all []*blockdev.Device) []v1alpha1.Reason {
	var rs reasons
	tree := newTree(all)
	if path := tree.systemPath(d); path != "" {
		rs.add(SystemDisk, "the machine's %s is on it", path)
	}
	if d.OwnVolume() {
		rs.add(OwnVolume, "it is a volume of IOMesh attached to this node")
	}
	p.use(&rs, d)
	content(&rs, d)
	p.suitability(&rs, d)
	return rs
}

// Blocking returns those reasons that no claim overrides: somebody uses the device, or it must not be used. The others are about what is on
// it, which a claim may allow to erase, or about taste.
func Blocking(all []v1alpha1.Reason) []v1alpha1.Reason {
	var out []v1alpha1.Reason
	for _, r := range all {
		switch r.Code {
		case SystemDisk, OwnVolume, Mounted, InUse, Unreadable, NotListed, NoIdentity, DuplicateIdentity, ReadOnly, UnsuitableType, BlockSize:
			out = append(out, r)
		}
	}
	return out
}

type reasons []v1alpha1.Reason

// reasonsMax is the bound of status.reasons.
const reasonsMax = 32

func (rs *reasons) add(code, format string, args ...any) {
	if len(*rs) < reasonsMax {
		*rs = append(*rs, v1alpha1.Reason{Code: code, Message: fmt.Sprintf(format, args...)})
	}
}

// use is about who has the device now.
func (p *Policy) use(rs *reasons, d *blockdev.Device) {
	for i, m := range d.Mounts {
		if i == 3 {
			rs.add(Mounted, "and at %d more places", len(d.Mounts)-i)
			break
		}
		rs.add(Mounted, "mounted at %s (%s)", m.Path, m.Fstype)
	}
	if d.Swap {
		rs.add(InUse, "in use as swap")
	}
	if len(d.Holders) > 0 {
		rs.add(InUse, "in use by %s", strings.Join(d.Holders, ", "))
	}
	for _, part := range d.Partitions {
		switch {
		case len(part.Mounts) > 0:
			rs.add(InUse, "its partition %s is mounted at %s", part.KernelName, part.Mounts[0].Path)
		case len(part.Holders) > 0:
			rs.add(InUse, "its partition %s is in use by %s", part.KernelName, strings.Join(part.Holders, ", "))
		case part.Swap:
			rs.add(InUse, "its partition %s is in use as swap", part.KernelName)
		}
	}
	if n := len(d.Partitions); n > 0 {
		rs.add(HasPartitions, "has %s", count(n, "partition"))
	}
}

// content is about what is on the device.
func content(rs *reasons, d *blockdev.Device) {
	seen := map[string]bool{}
	for _, f := range d.Signatures {
		switch {
		case f.Kind == signature.KindIOMesh:
			if f.UUID == "" {
				rs.once(seen, v1alpha1.ReasonSuperblock, f.UUID, "holds a damaged superblock of a disk of IOMesh")
			} else {
				rs.once(seen, v1alpha1.ReasonSuperblock, f.UUID, "holds a disk of cluster %s", f.UUID)
			}
		case f.Kind == signature.KindUnknown:
			rs.once(seen, UnknownContent, "", "its first or last MiB is not zero, and no known signature is there")
		case f.Usage == signature.PartitionTable:
			if f.Kind == "dos" && hasKind(d, "gpt") {
				continue // the protective table of a GPT
			}
			if len(d.Partitions) == 0 {
				rs.once(seen, HasPartitionTable, f.Kind, "has an empty %s partition table", f.Kind)
			}
		default:
			rs.once(seen, HasFilesystem, f.Kind, "holds %s", f)
		}
	}
	if d.ReadError != "" {
		rs.add(Unreadable, "its content could not be read: %s", d.ReadError)
	}
}

func (rs *reasons) once(seen map[string]bool, code, key, format string, args ...any) {
	if !seen[code+key] {
		seen[code+key] = true
		rs.add(code, format, args...)
	}
}

func hasKind(d *blockdev.Device, kind string) bool {
	return slices.ContainsFunc(d.Signatures, func(f signature.Found) bool { return f.Kind == kind })
}

// suitability is about the device itself.
func (p *Policy) suitability(rs *reasons, d *blockdev.Device) {
	minBytes := p.MinDiskBytes
	switch d.Type {
	case blockdev.Disk, blockdev.Partition, blockdev.MPath:
	case blockdev.Loop:
		minBytes = p.MinLoopBytes
		switch {
		case d.Key.BackingFile == "":
			rs.add(UnsuitableType, "an unused loop device")
		case !p.loopListed(d):
			rs.add(NotListed, "loop device of %s, which spec.devices.loopBackingFiles of the cluster does not list for this node", d.Key.BackingFile)
		}
	default:
		rs.add(UnsuitableType, "devices of type %s are not used", d.Type)
	}
	if !d.Key.Stable() {
		rs.add(NoIdentity, "it has neither serial number nor WWN, so it could not be told from others after a restart")
	}
	if other := p.DuplicateOf[d.KernelName]; other != "" {
		rs.add(DuplicateIdentity, "%s reports the same serial number and WWN", other)
	}
	if d.ReadOnly {
		rs.add(ReadOnly, "it is read-only")
	}
	if d.Removable {
		rs.add(Removable, "its medium is removable")
	}
	if d.SizeBytes < minBytes {
		rs.add(TooSmall, "%s is less than the minimum of %s", blockdev.SizeText(d.SizeBytes), blockdev.SizeText(minBytes))
	}
	if d.LogicalBlockBytes > 4096 {
		rs.add(BlockSize, "logical blocks of %d bytes are larger than 4096", d.LogicalBlockBytes)
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// tree finds what is built on a device: partitions and holders, and so on upwards.
type tree struct{ byName map[string]*blockdev.Device }

func newTree(all []*blockdev.Device) tree {
	t := tree{byName: make(map[string]*blockdev.Device, len(all))}
	for _, d := range all {
		t.byName[d.KernelName] = d
	}
	return t
}

// systemPath returns a system path that needs the device, or its disk where it is a partition: "".
func (t tree) systemPath(d *blockdev.Device) string {
	if disk := t.byName[d.Parent]; disk != nil {
		d = disk
	}
	seen := map[string]bool{}
	var walk func(*blockdev.Device) string
	walk = func(d *blockdev.Device) string {
		if d == nil || seen[d.KernelName] {
			return ""
		}
		seen[d.KernelName] = true
		for _, m := range d.Mounts {
			if slices.Contains(systemPaths, m.Path) {
				return m.Path
			}
		}
		for _, p := range d.Partitions {
			if path := walk(p); path != "" {
				return path
			}
		}
		for _, h := range d.Holders {
			if path := walk(t.byName[h]); path != "" {
				return path
			}
		}
		return ""
	}
	return walk(d)
}
