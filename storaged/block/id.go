package block

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"
)

// VolumeID is the identity of a volume: a random UUID, never reused.
type VolumeID [16]byte

// DiskID is the identity of a disk, written into its superblock when it is formatted (I13).
type DiskID [16]byte

// ClusterID is the identity of a cluster.
type ClusterID [16]byte

// SnapshotID is the identity of a snapshot.
type SnapshotID [16]byte

// ChunkID numbers the chunk servers of a cluster. 0 is no chunk.
type ChunkID uint32

// ExtentIndex is the position of an extent within its volume, counted in ExtentSizeBytes.
type ExtentIndex uint32

// ExtentID names one extent of one volume.
type ExtentID struct {
	Volume VolumeID
	Index  ExtentIndex
}

// NewVolumeID returns a fresh random identity.
func NewVolumeID() VolumeID { return VolumeID(uuid.New()) }

// NewDiskID returns a fresh random identity.
func NewDiskID() DiskID { return DiskID(uuid.New()) }

// NewClusterID returns a fresh random identity.
func NewClusterID() ClusterID { return ClusterID(uuid.New()) }

// NewSnapshotID returns a fresh random identity.
func NewSnapshotID() SnapshotID { return SnapshotID(uuid.New()) }

func (v VolumeID) String() string   { return uuid.UUID(v).String() }
func (d DiskID) String() string     { return uuid.UUID(d).String() }
func (c ClusterID) String() string  { return uuid.UUID(c).String() }
func (s SnapshotID) String() string { return uuid.UUID(s).String() }
func (c ChunkID) String() string    { return fmt.Sprintf("%d", uint32(c)) }

// MarshalText makes logs and JSON show identities as text.
func (v VolumeID) MarshalText() ([]byte, error)   { return []byte(v.String()), nil }
func (d DiskID) MarshalText() ([]byte, error)     { return []byte(d.String()), nil }
func (c ClusterID) MarshalText() ([]byte, error)  { return []byte(c.String()), nil }
func (s SnapshotID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String is "<volume>/<index>".
func (e ExtentID) String() string { return fmt.Sprintf("%s/%d", e.Volume, e.Index) }

// IsZero reports whether v is the zero identity, which names no volume.
func (v VolumeID) IsZero() bool { return v == VolumeID{} }

// IsZero reports whether d is the zero identity, which names no disk.
func (d DiskID) IsZero() bool { return d == DiskID{} }

// IsZero reports whether c is the zero identity, which names no cluster.
func (c ClusterID) IsZero() bool { return c == ClusterID{} }

// ParseVolumeID reads the canonical UUID form.
func ParseVolumeID(s string) (VolumeID, error) {
	id, err := parse("volume", s)
	return VolumeID(id), err
}

// ParseDiskID reads the canonical UUID form.
func ParseDiskID(s string) (DiskID, error) {
	id, err := parse("disk", s)
	return DiskID(id), err
}

// ParseClusterID reads the canonical UUID form.
func ParseClusterID(s string) (ClusterID, error) {
	id, err := parse("cluster", s)
	return ClusterID(id), err
}

// ParseSnapshotID reads the canonical UUID form.
func ParseSnapshotID(s string) (SnapshotID, error) {
	id, err := parse("snapshot", s)
	return SnapshotID(id), err
}

func parse(kind, s string) (uuid.UUID, error) {
	if len(s) != 36 {
		return uuid.UUID{}, fmt.Errorf("%s id %q is not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", kind, s)
	}
	id, err := uuid.Parse(s)
	if err != nil {
		return uuid.UUID{}, fmt.Errorf("%s id %q is not a UUID: %w", kind, s, err)
	}
	return id, nil
}

// iqnPrefix is the naming authority of all targets (RFC 7143 §4.2.7.3).
const iqnPrefix = "iqn.2016-02.com.iomesh:"

// IQN is the iSCSI name of the volume's target, stable for its whole life.
func (v VolumeID) IQN() string { return iqnPrefix + v.String() }

// ParseIQN returns the volume whose target has this iSCSI name.
func ParseIQN(name string) (VolumeID, error) {
	if len(name) <= len(iqnPrefix) || name[:len(iqnPrefix)] != iqnPrefix {
		return VolumeID{}, fmt.Errorf("target name %q does not begin with %q", name, iqnPrefix)
	}
	return ParseVolumeID(name[len(iqnPrefix):])
}

// Serial is the volume's unit serial number (SPC-4 VPD page 80h): 32 hexadecimal digits.
func (v VolumeID) Serial() string { return hex.EncodeToString(v[:]) }

// NAA is the volume's NAA designator of type 6h, IEEE Registered Extended (SPC-4 7.8.6.6.5): 16 bytes, whose vendor
// specific part is taken from the volume identity. Two volumes collide with probability 2^-100.
func (v VolumeID) NAA() [16]byte {
	var n [16]byte
	copy(n[:], v[:])
	// NAA 6h, then a 24-bit company id in the locally administered space.
	n[0] = 0x60 | v[0]&0x0f
	binary.BigEndian.PutUint16(n[1:3], 0x1405)
	return n
}
