package replication

import "github.com/iomesh/iomesh/storaged/block"

// MemberKind is the kind of a member of an in-sync set. The numbers are part of the formats of metadata, disk and wire.
type MemberKind uint8

const (
	// Full members hold every block of the extent.
	Full MemberKind = 0
	// Delta members hold every write above Member.Since and nothing else (I10). They are not counted for minReplicas, are not
	// read from like a full one, and never become the last member. See delta.go.
	Delta MemberKind = 1
)

// Member is one replica of an extent's in-sync set.
type Member struct {
	Disk  block.DiskID
	Chunk block.ChunkID
	Kind  MemberKind
	// Since is the stamp above which a delta holds everything; 0 for full members.
	Since block.Stamp
}

// Absent is a replica that left the set and may come back.
type Absent struct {
	Disk  block.DiskID
	Chunk block.ChunkID
	// Watermark: up to this stamp the replica held everything when it left. 0: compare all of it.
	Watermark block.Stamp
}

// Record is the extent's record in metadata. Members and Absent are never modified once in a Record; a changed record has new slices.
type Record struct {
	Generation block.Generation
	Members    []Member
	Absent     []Absent
	// Revision is the metadata store's version of the record, opaque to the core; guards its next change.
	Revision int64
}

// SetChange is a guarded transaction the shell performs: if the volume's owner record still names this chunk with Epoch
// and the extent's record still has revision Expect, write Members and Absent with Generation. The shell may put many of them into one
// transaction per extent or many. It answers each by Owner.SetChanged once the outcome is certain: a transaction whose answer was lost is repeated
// with the same guard until it commits or the guard fails; then the record is read, and if it is the wanted one the change was committed.
type SetChange struct {
	Volume     block.VolumeID
	Extent     block.ExtentIndex
	Epoch      block.Epoch
	Expect     int64
	Generation block.Generation
	Members    []Member
	Absent     []Absent
}
