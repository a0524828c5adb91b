package replication

import "github.com/iomesh/iomesh/storaged/block"

// EffectKind says what the shell has to do.
type EffectKind uint8

const (
	// EffSend: send Msg to chunk To (which may be the own chunk). If To cannot be reached the message is dropped.
	EffSend EffectKind = iota + 1
	// EffComplete: the client request Tag is finished with Result. For reads Data and Sums are the content (Data nil: all zero,
	// or delivered before by EffPiece if Assembled).
	EffComplete
	// EffPiece: part of a read: Range with Data (nil: zero) and Sums belongs to request Tag; copy it before the EffComplete.
	EffPiece
	// EffForget: the core refers no more to the buffers of request Tag, which was completed with Retained.
	EffForget
	// EffLocked: the range lock asked for with Tag is held; Lock names it.
	EffLocked
	// EffSetChange: perform Change; answer by Owner.SetChanged.
	EffSetChange
	// EffCommitSnapshot: all writes before the barrier Tag are acknowledged, later ones are held: commit the snapshot with
	// volume snapshot sequence SnapSeq, guarded by the owner record; answer by Owner.BarrierResult when the outcome is certain.
	EffCommitSnapshot
	// EffSetOwner: write the owner record (To, Epoch) guarded by the present one. The volume is drained for a planned move, or To is the own chunk and
	// what the owner has run into takes a new epoch. The owner has stopped and needs no answer; repeat it until it is written or the guard fails.
	EffSetOwner
	// EffReport: Report tells of a change of state, for status and metrics.
	EffReport
	// EffLost: this owner has stopped for good for the reason Result. All requests have been completed before it. The shell drops the
	// sessions, forgets the Owner, and then calls Lease.Released for (volume, Epoch+1).
	EffLost
	// EffStore: perform the store operation Op described by Msg; answer by Replica.StoreDone with Token.
	EffStore
	// EffAskLease: call Lease.Wanted with Msg.Volume, Msg.Epoch, Holder (chunk of the accepted epoch) and To (the asking owner's chunk).
	EffAskLease
	// EffFree: call Replica.EpochFree of volume Msg.Volume with Msg.Epoch, if that Replica exists.
	EffFree
	// EffExclude: if this chunk has an Owner of volume Msg.Volume with an epoch below Msg.Epoch, call its Excluded; then, in any case, call
	// Lease.Released for (Msg.Volume, Msg.Epoch). Must be done before any later EffExtend of the same call.
	EffExclude
	// EffExtend: call Promise.Extend(Until, Msg.Chain) of the promise of chunk To.
	EffExtend
)

// Result is the outcome of a client's request, and the reason of EffLost.
type Result uint8

const (
	// ResultOK: for changes: durable on every member of the recorded set (I1).
	ResultOK Result = iota
	// ResultLost: the volume has moved to another owner; the client repeats the request there. The outcome is unknown.
	ResultLost
	// ResultReleased: reason of EffLost after a planned move.
	ResultReleased
	// ResultTooFewReplicas: below minReplicas for longer than timeouts.WriteWait.
	ResultTooFewReplicas
	// ResultUnavailable: the extent had no serving set for longer than timeouts.WriteWait.
	ResultUnavailable
	// ResultSpaceExhausted: every member is full, or there are fewer than minReplicas and all that left have no space to come back; nothing was changed.
	ResultSpaceExhausted
	// ResultMediumError: no good copy of the blocks in Range exists; the rest of the volume is well.
	ResultMediumError
	// ResultInvalid: range outside the volume, lengths that do not fit, an unknown lock.
	ResultInvalid
	// ResultBusy: a bound of the core (RequestsMax) is reached.
	ResultBusy
	// ResultFailed: of barriers: the snapshot was not committed.
	ResultFailed
)

// StoreOp is an operation on the replicas of a chunk. Msg of the effect holds the arguments.
type StoreOp uint8

const (
	// StoreWrite: per block of Msg.Range: if Msg.Stamp is above the block's newest stamp, the block becomes Data with label SnapSeq.
	// Also stores Generation and Watermark. Atomic: all blocks or none survive a crash. Statuses: OK, NoReplica, OldGeneration (Msg.Generation
	// is below the replica's, which State.Generation tells), NoSpace (nothing done), DiskFailed. A repetition
	// of what is there needs no space.
	StoreWrite StoreOp = iota + 1
	// StoreUnmap: the same, blocks become BlockZero.
	StoreUnmap
	// StoreCopy: per block of Msg.More.Runs, with c its stamp, o the stamp of the replica's block as of view Msg.View and S0 the replica's JoinStamp:
	//
	//	FlagJoin    replace unless (o ≥ S0 and o ≥ c) or o == c with the same state and a good block
	//	FlagRoll    replace if o < c
	//	FlagRepair  replace if o == c (writes the same content anew)
	//
	// The block gets stamp c and the view's label: later views that had no version of their own see it too.
	// FlagRoll and FlagRepair use the space kept for repair. A copy without runs only raises the watermark, and
	// with FlagJoin ends the join. Atomic like StoreWrite.
	StoreCopy
	// StoreRead: Range as of View, Msg.Data as a place for the bytes; done carries Data, Sums, Stamp (highest), Runs if FlagStamps or bad blocks.
	StoreRead
	// StoreList: runs of Range as of View above Stamp.
	StoreList
	// StoreWindow: everything about the replica: StoreDone.State and Runs (all blocks of all labels above its watermark).
	StoreWindow
	// StoreEpoch: durably remember Msg.Epoch and Msg.Owner for Msg.Volume on disk Msg.Disk. The volume's epoch on a chunk is the highest on its disks.
	StoreEpoch
	// StoreJoin: durably set the start stamp (Msg.Stamp), and Epoch and Owner of the volume on the disk; creates the replica if FlagCreate. The
	// replica's watermark is raised to Msg.Watermark, at which it left its set, iff it reached that as a member: no join has begun since and its
	// highest stamp is not below. Done carries State; its Watermark is up to where the replica is sure to have everything (I6).
	StoreJoin
	// StoreWatermark: set the watermark of Msg.More.Marks; lazy, never below the present one; not answered (Token 0).
	StoreWatermark
)

// State describes one replica as its store has it.
type State struct {
	Generation block.Generation
	Watermark  block.Stamp
	// Highest is the highest stamp of any block, under any label.
	Highest block.Stamp
	// JoinStamp is S0 of the join that is under way or was given up, 0 if none or sealed.
	JoinStamp block.Stamp
}

// Effect is one thing for the shell to do. Which fields matter is said at its kind.
type Effect struct {
	Kind      EffectKind
	Op        StoreOp
	Result    Result
	Retained  bool
	Assembled bool
	To        block.ChunkID
	Holder    block.ChunkID
	SnapSeq   block.SnapSeq
	Epoch     block.Epoch
	Lock      LockID
	Tag       uint64
	Token     uint64
	Until     Time
	Range     block.Range
	Data      []byte
	Sums      []uint32
	Change    *SetChange
	Report    *Report
	Msg       Message
}
