package metadb

import (
	"fmt"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
)

// Cluster is the record of the whole. Written by the leader.
type Cluster struct {
	ID          block.ClusterID
	Incarnation uint64 // raised by a restore from backup; 1 at first
	Feature     block.Feature
	Created     time.Time
	LastChunk   block.ChunkID // highest number given out; none is used twice
	Revision    int64
}

// Leader says which meta member leads. Written by the leader when it takes over.
type Leader struct {
	Member   uint64 // etcd member id
	Name     string
	Term     uint64 // raft term of the take-over
	Address  string // gRPC host:port
	Revision int64
}

// Mode is what the administrator wants of a node.
type Mode uint8

// Modes.
const (
	ModeActive Mode = iota
	ModeMaintenance
)

func (m Mode) String() string { return name(uint8(m), "active", "maintenance") }

// Chunk is a chunk server as it registered last. Written by the leader, and only when BootID changes: an owner record with a
// lower revision was given to an earlier process, whose successor must wait for a new epoch.
type Chunk struct {
	ID             block.ChunkID
	Node           string
	Zone           string
	DataAddress    string // host:port of replica traffic
	ISCSIAddress   string // host:port
	ControlAddress string // host:port of gRPC
	Version        string
	Feature        block.Feature // highest level the build knows
	BootID         uint64        // random per process start
	PID            int32
	Revision       int64
}

// Node is what the administrator wants of a node. No record = active. Written by the leader.
type Node struct {
	Name     string
	Mode     Mode
	Since    time.Time // of Mode
	Revision int64
}

// DiskState is what the leader decided about a disk. Whether it is attached now is in the chunks' reports.
type DiskState uint8

// Disk states.
const (
	DiskActive DiskState = iota
	DiskDraining
	DiskFailed
	DiskRemoved
)

func (s DiskState) String() string { return name(uint8(s), "Active", "Draining", "Failed", "Removed") }

// Disk is one disk of the pool. Written by the leader.
type Disk struct {
	ID           block.DiskID
	Chunk        block.ChunkID
	Name         string // of the disk-directory entry
	MountType    string
	Device       string
	SizeBytes    uint64
	MountCounter uint64 // highest reported; a lower one later is a rolled-back disk (I3)
	State        DiskState
	Since        time.Time // of State
	Message      string
	Revision     int64
}

// VolumeState is the life cycle of a volume or snapshot record.
type VolumeState uint8

// Volume and snapshot states.
const (
	StateCreating VolumeState = iota
	StateReady
	StateDeleting
)

func (s VolumeState) String() string { return name(uint8(s), "Creating", "Ready", "Deleting") }

// Volume is the record of a volume. Written by the leader; SnapSeq and Views also by the owner (CommitSnapshot).
type Volume struct {
	ID             block.VolumeID
	Name           string
	SizeBytes      uint64
	ReplicaFactor  uint8
	MinReplicas    uint8
	Thin           bool
	Lineage        block.VolumeID // seeds the checksums (I8); the volume itself unless it is a clone
	Parent         block.VolumeID // zero unless a clone
	ParentView     block.SnapSeq  // the parent's view the content began as
	SourceSnapshot block.SnapshotID
	PinsParent     bool // its replicas are being made from the parent's view
	SnapSeq        block.SnapSeq
	Views          []block.SnapSeq // that snapshots hold, ascending
	Labels         map[string]string
	Created        time.Time
	State          VolumeState
	PreferNode     string
	TopologyNodes  []string // nodes replicas are restricted to; empty = all
	// Unconfirmed is the incarnation of a restore from backup after which the sets have not been compared with the replicas yet: the volume
	// is not served until they have. 0 = confirmed.
	Unconfirmed uint64
	Losses      []Loss
	Revision    int64
}

// Loss records that an administrator let older replicas serve (I15).
type Loss struct {
	Time    time.Time
	Extents uint32   // how many were concerned
	Missing []string // disks that may have held newer content
}

// Extents is the number of extents of the volume.
func (v *Volume) Extents() uint32 { return block.Extents(v.SizeBytes) }

// Owner is the one chunk that orders a volume's writes in an epoch. Chunk 0 = no owner: an epoch that nobody serves.
type Owner struct {
	Volume   block.VolumeID
	Chunk    block.ChunkID
	Epoch    block.Epoch
	Revision int64
}

// Guard is the proof of this ownership.
func (o Owner) Guard() OwnerGuard {
	return OwnerGuard{Volume: o.Volume, Epoch: o.Epoch, Revision: o.Revision}
}

// MemberKind tells what a member of a set holds.
type MemberKind uint8

// Member kinds.
const (
	KindFull  MemberKind = iota // everything
	KindDelta                   // the writes above Since only (I10)
)

func (k MemberKind) String() string { return name(uint8(k), "full", "delta") }

// Member is a replica in an in-sync set.
type Member struct {
	Disk  block.DiskID
	Chunk block.ChunkID
	Kind  MemberKind
	Since block.Stamp // of a delta
}

// Absent is a replica that left a set and may return by copying what is above its watermark.
type Absent struct {
	Disk      block.DiskID
	Chunk     block.ChunkID
	Watermark block.Stamp
}

// Extent is the in-sync set of one extent. Created by the leader, changed by the owner only (I2).
type Extent struct {
	ID         block.ExtentID
	Generation block.Generation
	Members    []Member
	Absent     []Absent
	Revision   int64
}

// Full is the number of full members.
func (e *Extent) Full() int {
	n := 0
	for _, m := range e.Members {
		if m.Kind == KindFull {
			n++
		}
	}
	return n
}

// Equal reports whether both hold the same set in the same order; revisions are not compared.
func (e *Extent) Equal(o *Extent) bool {
	if e.ID != o.ID || e.Generation != o.Generation || len(e.Members) != len(o.Members) || len(e.Absent) != len(o.Absent) {
		return false
	}
	for i := range e.Members {
		if e.Members[i] != o.Members[i] {
			return false
		}
	}
	for i := range e.Absent {
		if e.Absent[i] != o.Absent[i] {
			return false
		}
	}
	return true
}

// AccessMode is what a grant allows. The numbers are those of storagedv1.AccessMode.
type AccessMode uint8

// Access modes.
const (
	AccessExclusive AccessMode = 1 // one initiator, read and write
	AccessShared    AccessMode = 2 // several, read and write
	AccessReadOnly  AccessMode = 3 // any number, writes refused
)

func (m AccessMode) String() string { return name(uint8(m), "", "exclusive", "shared", "readOnly") }

// AnyInitiator is the initiator name of a grant to everybody.
const AnyInitiator = "*"

// Grant is an initiator's right to a volume (I16). Written by the leader.
type Grant struct {
	Volume       block.VolumeID
	Initiator    string // iSCSI name, or AnyInitiator
	Mode         AccessMode
	Generation   uint64
	Node         string
	CHAPUser     string // "" = no authentication
	CHAPSecret   string
	MutualUser   string
	MutualSecret string
	Closing      bool // being withdrawn: gives no access any more; LoadVolume, ListGrants and WatchVolume leave it out
	Revision     int64
}

// Snapshot is the record of a snapshot. Created by the leader, made ready by the owner (I11).
type Snapshot struct {
	ID        block.SnapshotID
	Name      string
	Volume    block.VolumeID
	SnapSeq   block.SnapSeq // the view it holds; valid once ready
	SizeBytes uint64        // of the volume at the barrier
	State     VolumeState
	Created   time.Time
	Internal  bool // source of a clone of live content; not shown to users
	Revision  int64
}

// Reservation is the persistent reservation state of a volume, in the encoding of package target. Written by the owner.
type Reservation struct {
	Volume   block.VolumeID
	State    []byte
	Revision int64
}

// Tombstone remembers a deleted volume until every chunk that may hold replicas has confirmed their removal.
type Tombstone struct {
	Volume   block.VolumeID
	Name     string
	Lineage  block.VolumeID
	Chunks   []block.ChunkID // still to confirm
	Created  time.Time
	Revision int64
}

func name(v uint8, names ...string) string {
	if int(v) < len(names) && names[v] != "" {
		return names[v]
	}
	return fmt.Sprintf("unknown(%d)", v)
}
