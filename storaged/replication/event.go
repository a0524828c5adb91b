package replication

import (
	"time"

	"github.com/iomesh/iomesh/storaged/block"
)

// TickInterval is how often Tick of an Owner that is not Quiet is to be called. Time-outs are noticed up to one interval late.
const TickInterval = 20 * time.Millisecond

// AskAgain is after how long an unanswered MsgTakeEpoch or MsgConfirm is sent again.
const AskAgain = time.Second

// Bounds of one Owner.
const (
	// WindowMax bounds the writes of one extent that are numbered and not below its watermark; more wait at the owner. It bounds
	// what a new owner has to roll forward (I5).
	WindowMax = 512
	// RequestsMax bounds the client requests of a volume inside the core; more get ResultBusy.
	RequestsMax = 4096
	// JoinsMax bounds the extents of a volume that resync at a time.
	JoinsMax = 4
	// CopiesMax bounds the copies in flight per resyncing extent: single blocks need many to get anywhere, because each takes
	// two round trips and a flush.
	CopiesMax = 64
	// CopiesBlocksMax bounds the blocks in flight per resyncing extent.
	CopiesBlocksMax = 1024
	// CopyBlocks is the largest piece resync and roll-forward copy at a time.
	CopyBlocks = 128
	// ScrubBlocks is the largest piece scrub reads at a time.
	ScrubBlocks = 256
)

// Times that matter only inside the core; the ladder is in package timeouts.
const (
	// PeerGrace is how long I/O waits for a chunk whose connection broke to come back before its replicas are dropped.
	PeerGrace = 100 * time.Millisecond
	// IdleDrop is how long a chunk may be down before its replicas leave extents without I/O.
	IdleDrop = 3 * time.Second
	// JoinRetry is the pause after a resync that was given up.
	JoinRetry = time.Second
	// LastRetry is how often a last copy that refused is asked again (I15).
	LastRetry = time.Second
	// ReleaseWait is how long a planned move may take to drain before it is given up.
	ReleaseWait = 5 * time.Second
)

// LockID names a held range lock; 0 is none.
type LockID uint64

// OwnerOptions is what an Owner is made of when this chunk is assigned a volume. Records are read after the owner record with
// Epoch was, so that no change of an earlier owner is missed.
type OwnerOptions struct {
	Volume      block.VolumeID
	Self        block.ChunkID
	Incarnation uint64
	// Epoch is used by one Owner only. After a restart, or after EffLost, the shell never makes an Owner of an epoch it may have
	// used before: stamps would repeat. It has the owner record raised first.
	Epoch block.Epoch
	// Extents holds the record of every extent by index.
	Extents []Record
	// ReplicaFactor is the wanted number of full members; MinReplicas the number below which writes wait (I1), at least 1.
	ReplicaFactor int
	MinReplicas   int
	SnapSeq       block.SnapSeq
	// Snapshots are the views that exist besides the live one, ascending, all below SnapSeq.
	Snapshots []block.SnapSeq
	// SizeBlocks bounds requests: the volume's size in blocks, rounded up.
	SizeBlocks uint64
	Feature    block.Feature
	// Promise returns the promise held from a chunk (Lease.Promise of this chunk).
	Promise func(block.ChunkID) *Promise
}

// WriteRequest changes blocks of one extent: Data and Sums for Range, or zeroes if Data is nil (UNMAP, WRITE SAME).
type WriteRequest struct {
	// Tag is the caller's name of the request; not looked at.
	Tag    uint64
	Extent block.ExtentIndex
	Range  block.Range
	Data   []byte
	Sums   []uint32
	// Lock, if not 0, is a lock that covers Range: the write does not wait for it.
	Lock LockID
}

// ReadRequest reads blocks of one extent as of View (block.LiveView: now).
type ReadRequest struct {
	Tag    uint64
	Extent block.ExtentIndex
	Range  block.Range
	View   block.SnapSeq
	// Data may offer a place for the bytes (len = Range.SizeBytes()); the result can be elsewhere all the same.
	Data []byte
}

// LockRequest asks for the exclusive right to change Range: writes and locks that overlap wait until Unlock.
type LockRequest struct {
	Tag    uint64
	Extent block.ExtentIndex
	Range  block.Range
}

// SetResult is the certain outcome of a SetChange.
type SetResult struct {
	Extent    block.ExtentIndex
	Committed bool
	// Revision of the record now, if Committed.
	Revision int64
}

// StoreDone is the outcome of an EffStore. Data and Sums are the shell's to retain while an effect that carries them is not done; Runs
// are never changed or used again.
type StoreDone struct {
	Token  uint64
	Status Status
	State  State
	Stamp  block.Stamp
	Range  block.Range
	Data   []byte
	Sums   []uint32
	Runs   []Run
}

// ExtentPhase is where an extent stands.
type ExtentPhase uint8

const (
	// PhaseCollecting: members are asked for their windows.
	PhaseCollecting ExtentPhase = iota
	// PhaseRolling: windows are rolled forward.
	PhaseRolling
	// PhaseServing: reads and writes go on.
	PhaseServing
)

func (p ExtentPhase) String() string {
	switch p {
	case PhaseCollecting:
		return "collecting"
	case PhaseRolling:
		return "rolling forward"
	default:
		return "serving"
	}
}

// ReportKind says what a Report is about.
type ReportKind uint8

const (
	// ReportPhase: Extent is in Phase.
	ReportPhase ReportKind = iota + 1
	// ReportReady: all extents serve.
	ReportReady
	// ReportSet: Extent has the committed Record.
	ReportSet
	// ReportNeeds: Extent cannot serve, or not write, without Disk: its last copy (I15).
	ReportNeeds
	// ReportJoin: resync of Disk: CopiedBytes so far, LeftBytes known to differ in what has been compared.
	ReportJoin
	// ReportJoined: Disk holds everything and is a member.
	ReportJoined
	// ReportJoinFailed: resync of Disk was given up for Status; it is tried again after a while, unless it came from AddMember.
	ReportJoinFailed
	// ReportRefused: AddMember or RemoveMember of Disk was refused: Status, or the last copy (StatusInvalid).
	ReportRefused
	// ReportRepaired: Range of Disk did not verify and was rewritten from a good copy.
	ReportRepaired
	// ReportBad: Range has no good copy.
	ReportBad
	// ReportDiskFailed: Disk refused with Status; its replicas leave their sets.
	ReportDiskFailed
	// ReportSpace: Disk is full.
	ReportSpace
	// ReportFull: every member of Extent is full.
	ReportFull
	// ReportScrubbed: a scrub of Extent has read every block of every member and view: CopiedBytes, of which LeftBytes did not verify.
	ReportScrubbed
	// ReportPassedOver: a scrub that was asked for could not read all of Extent, because not all its members are there.
	ReportPassedOver
	// ReportVerified: the scrub that ScrubAgain asked for has come to the end of the volume.
	ReportVerified
	// ReportBehind: Disk lacks a write that it acknowledged, found by a scrub; it leaves its set and is compared from the beginning.
	ReportBehind
	// ReportStay: a planned move was given up because writes did not drain; the owner serves on.
	ReportStay
)

// Report tells of a change of state.
type Report struct {
	Kind        ReportKind
	Extent      block.ExtentIndex
	Phase       ExtentPhase
	Disk        block.DiskID
	Status      Status
	Range       block.Range
	Record      Record
	CopiedBytes uint64
	LeftBytes   uint64
}

// ReplicaOptions is what a Replica is made of: Epoch and Owner as the highest found on the chunk's disks, 0 if none.
type ReplicaOptions struct {
	Volume  block.VolumeID
	Self    block.ChunkID
	Epoch   block.Epoch
	Owner   block.ChunkID
	Feature block.Feature
	// Chain returns the chain of promises given to a chunk (Lease.Chain of this chunk).
	Chain func(block.ChunkID) uint64
}

// LeaseOptions is what a Lease is made of.
type LeaseOptions struct {
	Self        block.ChunkID
	Incarnation uint64
	// Started is when the process started: the quiet period is counted from it.
	Started Time
	Feature block.Feature
}
