package replication

import "github.com/iomesh/iomesh/storaged/block"

// Kind is the kind of a Message. The numbers are part of the wire format.
type Kind uint8

// Messages. "→ replica" go from an owner to the Replica of a chunk, "→ owner" are their answers, "→ lease" go between Lease
// machines. Answers repeat Volume, Extent, Disk, Epoch, Session and Req of the question.
const (
	// MsgTakeEpoch → replica: fence everything below Epoch, then describe the replicas in More.Targets. Owner and
	// Incarnation name the asking process. Repeated with the same epoch it only describes. Sent first in every session.
	MsgTakeEpoch Kind = 1
	// MsgEpochPending → owner: the epoch cannot be confirmed yet because of a promise to an earlier owner (I4).
	MsgEpochPending Kind = 2
	// MsgEpochTaken → owner: first one with Disk zero: the chunk accepts nothing below Epoch any more (Chain as in MsgConfirmed). Then
	// one per target: Epoch is durable on its disk and everything received before has been applied or never will be. Generation,
	// Watermark, Stamp (highest on the replica) and More.Runs (all above Watermark, by label) describe the replica; Status tells
	// if it is missing, stale or failed.
	MsgEpochTaken Kind = 3
	// MsgWrite → replica: Data and Sums for Range with Stamp, labelled SnapSeq.
	MsgWrite Kind = 4
	// MsgUnmap → replica: Range reads as zero from Stamp on; also WRITE SAME of zeroes.
	MsgUnmap Kind = 5
	// MsgWriteReply → owner: answers MsgWrite and MsgUnmap when durable (StatusOK), or refuses.
	MsgWriteReply Kind = 6
	// MsgRead → replica: Range as of View. Data, if not nil, is where the bytes are wanted; it is not transmitted.
	// FlagStamps asks for More.Runs.
	MsgRead Kind = 7
	// MsgReadReply → owner: Data, Sums, Stamp (highest in the range). With StatusBadBlocks More.Runs lists the bad blocks
	// (State BlockBad) and Data is not valid in them. With FlagStamps More.Runs covers Range in order.
	// Data is nil iff the whole range reads as zero.
	MsgReadReply Kind = 8
	// MsgJoinStart → replica: from Stamp (S0) on all writes are sent here. Durable before it is answered. Creates the
	// replica if FlagCreate. Watermark is the one at which it left. Answered by MsgJoinReply.
	MsgJoinStart Kind = 9
	// MsgJoinReply → owner: Generation and Stamp (highest) of the replica, and Watermark: up to there it is sure to have everything.
	MsgJoinReply Kind = 10
	// MsgListStamps → replica: runs of blocks of Range as of View whose stamp is above Stamp.
	MsgListStamps Kind = 11
	// MsgStamps → owner: More.Runs in ascending order, at most RunsMax; Range is what the answer covers (a prefix of the question's).
	MsgStamps Kind = 12
	// MsgCopy → replica: make Range of view View equal to More.Runs, which covers it in order. Data and Sums are for the
	// whole Range, undefined in runs that are not BlockData; nil if no run is. With FlagJoin Stamp is S0 of the resync it belongs to. The mode (FlagJoin, FlagRoll, FlagRepair) says when a
	// block of the replica is kept, see CopyMode.
	MsgCopy Kind = 13
	// MsgCopyReply → owner: the copy is durable, or refused.
	MsgCopyReply Kind = 14
	// MsgWatermark → replica: More.Marks, for extents without writes that could carry it. Not answered.
	MsgWatermark Kind = 15
	// MsgConfirm → replica: is Epoch still the highest you accepted?
	MsgConfirm Kind = 16
	// MsgConfirmed → owner: yes (StatusOK). Chain is the chain of promises to the asking chunk at this moment.
	MsgConfirmed Kind = 17
	// MsgRelease → replica: the owner has stopped for good; the promise for Volume at Epoch is not needed any more. Not answered.
	MsgRelease Kind = 18

	// MsgLeaseRequest → lease: the heartbeat of a pair of chunks. Sent is the sender's clock, Incarnation its process.
	MsgLeaseRequest Kind = 32
	// MsgLeaseGrant → lease: a promise that lasts timeouts.Lease from the arrival of the request. Sent repeats the request's.
	// More.Volumes lists what it does not cover: epochs of a volume below the given one. Chain numbers the unbroken row of promises.
	MsgLeaseGrant Kind = 33
	// MsgLeaseRelease → lease: the sender serves none of More.Volumes in epochs below the given ones any more.
	MsgLeaseRelease Kind = 34
)

// Status is the outcome of a request to a replica. The numbers are part of the wire format.
type Status uint8

const (
	// StatusOK: done; changes are durable.
	StatusOK Status = 0
	// StatusHigherEpoch: a higher epoch was accepted; Message.Epoch of the answer names it. The owner is lost.
	StatusHigherEpoch Status = 1
	// StatusOldGeneration: a higher generation was accepted; Message.Generation of the answer names it. The owner repeats with its current one.
	StatusOldGeneration Status = 2
	// StatusOldSession: the message belongs to an abandoned connection. Ignored by the owner.
	StatusOldSession Status = 3
	// StatusNoReplica: the chunk has no such replica, or its disk is not attached.
	StatusNoReplica Status = 4
	// StatusNoSpace: nothing was applied because the disk is full (I7: not a failure).
	StatusNoSpace Status = 5
	// StatusDiskFailed: the disk is fenced after a failed write or flush; final (I7).
	StatusDiskFailed Status = 6
	// StatusBadBlocks: some blocks do not verify or cannot be read (I8).
	StatusBadBlocks Status = 7
	// StatusNotEpoch: the epoch of the request was never confirmed here; the owner takes it first.
	StatusNotEpoch Status = 8
	// StatusStale: the replica is older than it should be (rolled-back or cloned disk, lost flush).
	StatusStale Status = 9
	// StatusInvalid: the request makes no sense to this chunk (bad range, unknown feature).
	StatusInvalid Status = 10
	// StatusReadFailed: the disk cannot serve reads of this range for a passing reason (stalled, queue full).
	StatusReadFailed Status = 11
)

// Flags of messages. The bits are part of the wire format.
type Flags uint16

const (
	// FlagStamps asks a read for the stamps of its blocks.
	FlagStamps Flags = 1 << iota
	// FlagReserve lets a write use the space kept for repair: it is already on another member (I5).
	FlagReserve
	// FlagCreate lets MsgJoinStart create the replica.
	FlagCreate
	// FlagJoin: copy mode of resync.
	FlagJoin
	// FlagRoll: copy mode of roll-forward at takeover.
	FlagRoll
	// FlagRepair: copy mode of read repair and scrub.
	FlagRepair
	// FlagVerify: of a read with FlagStamps: read and verify, and send everything but the data. Who does not know it sends the data too.
	FlagVerify
)

// CopyMode says which blocks of the replica a copy replaces. o is the stamp of the replica's block in the copied view, c the
// copy's, S0 the start stamp of the join in progress.
type CopyMode = Flags

// BlockState is what a block is, beside its stamp. The numbers are part of the wire format.
type BlockState uint8

const (
	// BlockData has bytes and a checksum.
	BlockData BlockState = 0
	// BlockZero was never written (stamp 0) or was unmapped; it reads as zero and needs no space.
	BlockZero BlockState = 1
	// BlockBad is known to be lost on this replica. A copy of it stays bad (I8).
	BlockBad BlockState = 2
)

// Run is a range of blocks with one stamp, state and label.
type Run struct {
	Range block.Range
	Stamp block.Stamp
	// Label is the SnapSeq of the write. In answers about one view it can be below the view.
	Label block.SnapSeq
	State BlockState
}

// ReplicaID names a replica of the message's volume.
type ReplicaID struct {
	Extent block.ExtentIndex
	Disk   block.DiskID
}

// Mark is the watermark of one replica.
type Mark struct {
	ReplicaID
	Generation block.Generation
	Watermark  block.Stamp
}

// VolumeEpoch names the epochs of a volume below Epoch.
type VolumeEpoch struct {
	Volume block.VolumeID
	Epoch  block.Epoch
}

// More holds the lists of the messages that have one. Bounds: RunsMax, MarksMax, TargetsMax, VolumesMax.
type More struct {
	Runs    []Run
	Marks   []Mark
	Targets []ReplicaID
	Volumes []VolumeEpoch
}

// Bounds of lists and requests; decoders refuse more.
const (
	RunsMax    = 8192
	MarksMax   = 1024
	TargetsMax = 4096
	VolumesMax = 65536
	// IOBlocksMax is the largest read, write or copy with data in blocks (8 MiB). What carries no data has no bound but the extent.
	IOBlocksMax = 2048
)

// Message is what one chunk sends another. It is flat, so that no message of the hot path is allocated; fields a kind does
// not speak of are zero and need not be transmitted. A Message is a value; Data, Sums and More are shared and read-only once sent.
type Message struct {
	Kind    Kind
	Status  Status
	Flags   Flags
	Feature block.Feature
	// Session of the owner with this chunk, from 1. See the package doc.
	Session uint32
	// Req is the sender's number of the request, repeated in the answer.
	Req    uint64
	Volume block.VolumeID
	Disk   block.DiskID
	Extent block.ExtentIndex
	Epoch  block.Epoch
	// Generation of the extent's set under which the message was sent.
	Generation block.Generation
	// SnapSeq of the volume: the label of a write. A replica that sees a higher one freezes its live layer first.
	SnapSeq block.SnapSeq
	// View of reads, lists and copies: the content as of this SnapSeq.
	View  block.SnapSeq
	Range block.Range
	Stamp block.Stamp
	// Watermark: every write of the extent up to this stamp is on all members of the recorded set.
	Watermark block.Stamp
	// Owner is the chunk that took or takes Epoch (MsgTakeEpoch, and StatusHigherEpoch if known).
	Owner block.ChunkID
	// Incarnation numbers the processes of a chunk: higher after each start, in [1, 2^40).
	Incarnation uint64
	// Chain numbers an unbroken row of promises from one chunk to another; later rows have higher numbers. 0: none yet.
	Chain uint64
	Sent  Time
	Data  []byte
	Sums  []uint32
	More  *More
}
