package params

import (
	"strings"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/code"
)

// filesystems that can be made, with the smallest volume each fits in.
var filesystems = map[string]uint64{
	"ext2": 2 << 20,
	"ext3": 8 << 20, // with its journal
	"ext4": 8 << 20,
	"xfs":  300 << 20, // mkfs.xfs refuses less
}

// DefaultFSType is used where neither class nor claim says one.
const DefaultFSType = "ext4"

// Capability is a checked volume capability.
type Capability struct {
	Block      bool
	FSType     string   // "" for Block
	MountFlags []string // as the class gives them
	Mode       csipb.VolumeCapability_AccessMode_Mode
}

// ReadOnlyMode says whether the mode itself forbids writing, on every node.
func (c Capability) ReadOnlyMode() bool {
	return c.Mode == csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY || c.Mode == csipb.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
}

// SingleWriter says whether one pod only may use the volume (ReadWriteOncePod).
func (c Capability) SingleWriter() bool {
	return c.Mode == csipb.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
}

// access is the mode of a grant for each access mode of CSI.
var access = map[csipb.VolumeCapability_AccessMode_Mode]storagedv1.AccessMode{
	csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE,
	csipb.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE,
	csipb.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE,
	csipb.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   storagedv1.AccessMode_ACCESS_MODE_READ_ONLY,
	csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    storagedv1.AccessMode_ACCESS_MODE_READ_ONLY,
	csipb.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:  storagedv1.AccessMode_ACCESS_MODE_SHARED,
	csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   storagedv1.AccessMode_ACCESS_MODE_SHARED,
}

// Access returns the mode of the grant. readOnly is the request's own wish.
func (c Capability) Access(readOnly bool) storagedv1.AccessMode {
	if readOnly {
		return storagedv1.AccessMode_ACCESS_MODE_READ_ONLY
	}
	return access[c.Mode]
}

// ParseCapability checks one capability.
func ParseCapability(in *csipb.VolumeCapability) (Capability, error) {
	if in == nil {
		return Capability{}, code.New(code.Invalid, "volume capability is missing")
	}
	c := Capability{Mode: in.GetAccessMode().GetMode()}
	if _, ok := access[c.Mode]; !ok {
		return Capability{}, code.New(code.Invalid, "access mode %s is not supported", c.Mode)
	}
	switch {
	case in.GetBlock() != nil:
		c.Block = true
		return c, nil
	case in.GetMount() == nil:
		return Capability{}, code.New(code.Invalid, "volume capability names neither block nor mount access")
	}
	switch access[c.Mode] {
	case storagedv1.AccessMode_ACCESS_MODE_SHARED:
		return Capability{}, code.New(code.Invalid,
			"access mode %s (ReadWriteMany) is supported for volumeMode Block only: a filesystem on a volume that two nodes write is destroyed; use Block or ReadWriteOnce", c.Mode)
	case storagedv1.AccessMode_ACCESS_MODE_READ_ONLY:
		if c.Mode == csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY {
			return Capability{}, code.New(code.Invalid, "access mode %s (ReadOnlyMany) is supported for volumeMode Block only; use Block or ReadWriteOnce", c.Mode)
		}
	}
	m := in.GetMount()
	c.FSType, c.MountFlags = m.GetFsType(), m.GetMountFlags()
	if c.FSType == "" {
		c.FSType = DefaultFSType
	}
	if _, ok := filesystems[c.FSType]; !ok {
		return Capability{}, code.New(code.Invalid, "filesystem %q is not supported; want one of %s", c.FSType, known[FSTypeKey])
	}
	for _, f := range c.MountFlags {
		if f == "" || strings.ContainsAny(f, " ,\t\n\x00") {
			return Capability{}, code.New(code.Invalid, "mount option %q: want one option per entry, without spaces and commas", f)
		}
	}
	return c, nil
}

// ParseCapabilities checks all capabilities of a request. All must be block or all mount: the content of a volume is one of both.
func ParseCapabilities(in []*csipb.VolumeCapability) ([]Capability, error) {
	if len(in) == 0 {
		return nil, code.New(code.Invalid, "volume capabilities are missing")
	}
	out := make([]Capability, 0, len(in))
	for _, one := range in {
		c, err := ParseCapability(one)
		if err != nil {
			return nil, err
		}
		if len(out) > 0 && out[0].Block != c.Block {
			return nil, code.New(code.Invalid, "a volume is either Block or Filesystem, not both")
		}
		out = append(out, c)
	}
	return out, nil
}

// SizeMin is the smallest volume for a capability.
func (c Capability) SizeMin() uint64 {
	if c.Block {
		return 1
	}
	return filesystems[c.FSType]
}
