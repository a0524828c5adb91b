package store

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// Errors a caller decides by. They are wrapped with the object they concern; use errors.Is.
var (
	// ErrNoSpace: the disk has no room for the write; nothing of it was applied. Reads, unmaps, deletes and repairs still work.
	ErrNoSpace = errors.New("no space left in the store")
	// ErrFenced: a write or flush of this disk has failed before; nothing more is accepted for good (I7). Reads go on.
	ErrFenced = errors.New("disk is fenced after a failed write or flush")
	// ErrStaleEpoch: the request is of a lower epoch than the volume's fence on this disk (I3).
	ErrStaleEpoch = errors.New("stale epoch")
	// ErrNoReplica: the extent has no replica on this disk.
	ErrNoReplica = errors.New("no replica of the extent on this disk")
	// ErrExists: the replica to be created by Clone exists already.
	ErrExists = errors.New("replica exists")
	// ErrClosed: the store is closed or closing.
	ErrClosed = errors.New("store is closed")
	// ErrInvalid: the request contradicts itself; a mistake of the caller or the sender.
	ErrInvalid = errors.New("invalid request")
	// ErrTooManyLayers: the extent has as many snapshots and clones on this disk as a reference count can hold.
	ErrTooManyLayers = errors.New("too many snapshots and clones of the extent on this disk")
	// ErrBlank: the disk holds neither a store nor anything else at the places where the superblocks would be.
	ErrBlank = errors.New("disk is blank")
	// ErrForeign: the disk holds something that is not a store, or a store of another cluster.
	ErrForeign = errors.New("disk holds foreign data")
	// ErrNewerFormat: the store was written by a newer release.
	ErrNewerFormat = errors.New("disk format is newer than this release")
	// ErrCorrupt: structures the store cannot do without do not verify in any copy.
	ErrCorrupt = errors.New("store is corrupt")
)

// MountType says how the disk is used; the names are those of the device map.
type MountType uint8

const (
	// DataStoreWithJournal holds data and its own journal.
	DataStoreWithJournal MountType = 1
	// DataStore holds data; its journal is on another disk (hybrid).
	DataStore MountType = 2
	// CacheWithJournal holds journals of DataStore disks.
	CacheWithJournal MountType = 3
)

// FormatOptions is what Format writes into the superblock.
type FormatOptions struct {
	Cluster   block.ClusterID
	DiskID    block.DiskID
	MountType MountType
	// JournalBytes is the size of the journal, a multiple of 1 MiB. 0 chooses: a sixteenth of the disk, at most 1 GiB. For CacheWithJournal it is
	// the size of each journal on it (an eighth of the disk, at most 1 GiB); for DataStore it is what the journal disk has.
	JournalBytes int64
	// Journals is where a DataStore disk gets its journal.
	Journals *Journals
	// Overwrite allows to format a disk that is not blank.
	Overwrite bool
}

// Options of an open store. The zero value of each field is a sensible default.
type Options struct {
	// Cluster is the cluster the disk must belong to; the zero identity accepts any (inspect, tests).
	Cluster block.ClusterID
	// Journals is the journal disk of a DataStore disk.
	Journals *Journals
	// CacheBytes bounds the memory of cached map pages. Default: 1/8192 of the disk, from 64 to 256 MiB.
	CacheBytes int64
	// DestageFill is the journal fill in percent at which small writes begin to be moved to their place. Default 50.
	DestageFill int
	// DestageIdle is how long after the last write the journal is destaged although it is not full. Default 2 s; negative: never.
	DestageIdle time.Duration
	// CheckSums makes Submit's writes be verified against Write.Sums where given; sums not given are always computed.
	CheckSums bool
	// StallAfter is how long a request may be with the disk before OnStall is called. Default timeouts.DiskStall; negative: never.
	StallAfter time.Duration
	// OnStall is called once per stall, from a goroutine of the store, while the request is still with the disk. It must not block.
	OnStall func(Stall)
	// OnStallEnd is called, from the same goroutine, when the last of the requests that OnStall told of has come back: the disk answers
	// again. It must not block.
	OnStallEnd func()
	// OnFenced is called once, from a goroutine of the store, when a failed write or flush has fenced the disk. It must not block.
	OnFenced func(error)
	// OnCorrupt is called when a background task meets structures or extents that do not verify. It must not block.
	OnCorrupt func(Corruption)
	// Log gets events of the store's life, never of single requests. Default: discarded.
	Log *slog.Logger

	// planted switches on a deliberate bug, to show that the tests catch it.
	planted plantedBug
}

// Stall describes a request the disk has kept for too long.
type Stall struct {
	Op    string // "read", "write", "flush", "journal"
	Since time.Time
}

// Corruption describes damage found on the disk, and whom it concerns.
type Corruption struct {
	// What names the structure, for people: "journal record at 0x1200 (lap 3)", "map page 17".
	What string
	// Extents that may have lost acknowledged writes and must leave their sets (I8).
	Extents []block.ExtentID
}

// Kind is what a Write does.
type Kind uint8

const (
	// Data replaces each block of Range whose stamp is lower than Stamp.
	Data Kind = 1
	// Unmap makes each block of Range whose stamp is lower than Stamp unwritten (it then reads as zero) and gives its space back.
	Unmap Kind = 2
	// Copy brings blocks of another replica, each with its own stamp and state (Stamps, States). A block is replaced iff its
	// own stamp is lower than the copy's or lower than the replica's join start S0.
	Copy Kind = 3
	// Repair replaces blocks whose stamp equals Stamps[i] with good data, for blocks found bad.
	Repair Kind = 4
	// MarkBad records blocks with the given Stamps as bad: their data is known to be lost everywhere. Condition as Copy or equal stamp.
	MarkBad Kind = 5
)

// State is what is known of one block.
type State uint8

const (
	// Unwritten blocks read as zero. Stamp 0: never touched; otherwise unmapped by the write with that stamp.
	Unwritten State = 0
	// Written blocks have data whose checksum is recorded.
	Written State = 1
	// Bad blocks were written, but the data does not verify or is marked as lost.
	Bad State = 2
)

// Write is one change of one extent. It is the caller's until Submit, the store's until the completion call, and the
// caller's again after; the store keeps no reference, so writes and their slices may be pooled.
type Write struct {
	Extent block.ExtentID
	Kind   Kind
	Range  block.Range
	// Stamp of Data and Unmap.
	Stamp block.Stamp
	// Stamps and States per block of Copy, Repair and MarkBad. States nil: all Written.
	Stamps []block.Stamp
	States []State
	// SnapSeq is the layer written. One higher than the replica's live layer freezes that one first. A lower one is a write
	// into an older view; newer views that still share the block see it too.
	SnapSeq block.SnapSeq
	// NewerOnly makes a Copy keep every block whose stamp is not lower than the copy's, also below the join start.
	NewerOnly bool
	// UseReserve lets the write have the space kept back for repair: it is already on another member of the set (I5).
	UseReserve bool
	// Epoch is checked against the fence of the volume; 0 is not checked.
	Epoch block.Epoch
	// Generation and Watermark are recorded with the replica if higher than what it has.
	Generation block.Generation
	Watermark  block.Stamp
	// Data of Data, Copy and Repair: Range.SizeBytes() bytes; blocks whose state is not Written are ignored. Page-aligned
	// data of 64 KiB and more is written without a copy.
	Data []byte
	// Sums of the blocks of Data (block.Seeder of lineage and extent). May be nil: then computed.
	Sums []uint32
	// Plain are the CRC32Cs of the blocks of Data, if they were taken as the bytes arrived: Sums are verified, or made, with them, without another look at
	// Data. May be nil.
	Plain []uint32
	// SumsVerified says that this process made or verified Sums of Data: Options.CheckSums then does not verify them again.
	SumsVerified bool
	// Completer is told when the write is durable or has failed.
	Completer Completer
	// Err is the outcome, set before the completion call.
	Err error
	// User is for the caller.
	User uint64

	q writeState
}

// Completer is told of finished writes. Complete is called from a goroutine of the store with writes in the order of
// their submission; it must not block and must not keep the slice. It may submit writes.
type Completer interface {
	Complete(done []*Write)
}

// BlockInfo is the outcome of a read for one block.
type BlockInfo struct {
	Stamp block.Stamp
	// Sum is the verified checksum of a Written block.
	Sum   uint32
	State State
}

// RecordBlocksMax is the largest range of a Write that is no Unmap.
const RecordBlocksMax = blocksMax

// StampRun is a run of blocks of equal stamp and state.
type StampRun struct {
	Range block.Range
	Stamp block.Stamp
	State State
}

// ReplicaSpec names a replica to be created.
type ReplicaSpec struct {
	Extent block.ExtentID
	// Lineage seeds the checksums: the volume at the root of the clone tree.
	Lineage    block.VolumeID
	Generation block.Generation
	Epoch      block.Epoch
}

// ReplicaInfo is what the disk knows of one of its replicas.
type ReplicaInfo struct {
	Extent     block.ExtentID
	Lineage    block.VolumeID
	Generation block.Generation
	Watermark  block.Stamp
	// Highest is the highest stamp applied in any layer.
	Highest block.Stamp
	// JoinStart is S0 while the replica is joining, else 0.
	JoinStart block.Stamp
	// Joining is true from SetJoin with a stamp until SetJoin with 0.
	Joining bool
	// Layers are the snapshot sequences of the layers, ascending; the last is the live layer. Empty: never written.
	Layers []block.SnapSeq
	// LiveBytes is the space of the live view; SnapshotBytes what only older views need; exact as of the last checkpoint.
	LiveBytes, SnapshotBytes int64
	// Suspect is set when a journal corruption may have lost writes of this replica: it must not serve.
	Suspect bool
}

// VolumeFence is the durable fence of a volume: the highest epoch accepted and its owner (I3).
type VolumeFence struct {
	Volume block.VolumeID
	Epoch  block.Epoch
	Owner  block.ChunkID
}

// Superblock is the identity of a store, as read from the disk.
type Superblock struct {
	Cluster       block.ClusterID
	DiskID        block.DiskID
	JournalDisk   block.DiskID
	MountType     MountType
	FormatVersion uint16
	Feature       block.Feature
	// MountCount is raised at each Open; a lower one than known elsewhere tells a rolled-back or duplicated disk.
	MountCount uint64
	SizeBytes  int64
}

// Stats is a moment's view of a store.
type Stats struct {
	// CapacityBytes can hold data. UsedBytes is held by layers and journalled data not yet in place; ReservedBytes is kept back for
	// deletes, repair and unmaps; ReclaimableBytes belongs to deleted layers and is being freed.
	CapacityBytes, UsedBytes, ReservedBytes, ReclaimableBytes int64
	MetaCapacityBytes, MetaUsedBytes                          int64
	JournalBytes, JournalUsedBytes                            int64
	Replicas, Layers                                          int
	// Counters since Open.
	Writes, WrittenBytes, Reads, ReadBytes uint64
	JournalBatches, JournalWrittenBytes    uint64
	DestagedBlocks, Checkpoints            uint64
	ReadErrors, WriteErrors                uint64
	ChecksumErrors, MetaErrors             uint64
	// Latency is a moving average of requests to the disk.
	JournalLatency, ReadLatency time.Duration
	CacheHits, CacheMisses      uint64
	// Direct is false when the page cache could not be bypassed.
	Direct bool
	Fenced error
}

// Format writes an empty store onto the disk and returns when it is durable. Unless Overwrite is set, a disk that holds
// anything in its first or last MiB is refused with ErrForeign.
func Format(ctx context.Context, disk vdisk.Disk, o FormatOptions) error {
	return format(ctx, disk, o)
}

// Probe reads the identity of the store on the disk: ErrBlank, ErrForeign, ErrNewerFormat or ErrCorrupt if there is none.
// It writes nothing.
func Probe(disk vdisk.Disk) (Superblock, error) { return probe(disk) }

// Open raises the mount counter, recovers what the journal holds and starts the store's goroutines. The disk is the
// caller's: Close does not close it. Refuses what Probe refuses, and a disk of another cluster.
func Open(ctx context.Context, disk vdisk.Disk, o Options) (*Store, error) {
	return open(ctx, disk, o)
}

// Close completes what was submitted, writes a checkpoint, and stops the store's goroutines. The store accepts nothing from
// the moment of the call.
func (s *Store) Close() error { return s.close() }

// Superblock is the identity of the open store.
func (s *Store) Superblock() Superblock { return s.super() }

// Submit queues the write and returns at once; its Completer learns of the outcome, errors of validation included. Writes of
// one extent are applied in the order of submission. Safe for concurrent use.
func (s *Store) Submit(w *Write) { s.submit(w, nil) }

// SubmitLater is Submit that lets the committer sleep until the list is woken.
func (s *Store) SubmitLater(w *Write, later *wakes.List) { s.submit(w, later) }

// SubmitBatch queues several writes with one hand-off.
func (s *Store) SubmitBatch(ws []*Write) { s.submitBatch(ws) }

// Read fills buf (r.SizeBytes() bytes) and info (r.Count entries) with the blocks of a view. The view is the content as of a
// snapshot sequence; block.LiveView is the newest. Unwritten and bad blocks are zero in buf. A bad block is reported in info
// and hides no other. Only what makes the whole range unreadable is an error. Everything submitted and completed before is
// seen; what is submitted and not complete may be. buf aligned to 4096 is read into without a copy.
func (s *Store) Read(e block.ExtentID, view block.SnapSeq, r block.Range, buf []byte, info []BlockInfo) error {
	return s.read(e, view, r, buf, info)
}

// ListStamps appends to runs, up to its capacity (64 if it has none), the blocks of [from, to) of a view with stamps higher
// than above, ascending, and returns the block to go on from; next == to when the list is complete. Everything submitted before
// the call is seen.
func (s *Store) ListStamps(e block.ExtentID, view block.SnapSeq, from, to block.No, above block.Stamp, runs []StampRun) (out []StampRun, next block.No, err error) {
	return s.listStamps(e, view, from, to, above, runs)
}

// EnsureReplica creates the replica if there is none, and returns when that is durable. One that exists is left as it is.
func (s *Store) EnsureReplica(ctx context.Context, spec ReplicaSpec) error {
	return s.ensureReplica(ctx, spec)
}

// DeleteReplica forgets the replica with all its layers, and returns when that is durable; space is freed in the background.
// No replica is no error.
func (s *Store) DeleteReplica(ctx context.Context, e block.ExtentID) error {
	return s.deleteReplica(ctx, e)
}

// ListReplicas describes all replicas, in the order of their ids.
func (s *Store) ListReplicas() []ReplicaInfo { return s.listReplicas() }

// Replica describes one replica.
func (s *Store) Replica(e block.ExtentID) (ReplicaInfo, error) { return s.replicaInfo(e) }

// Fence raises the volumes' fences and returns when they are durable: from then on writes of lower epochs get
// ErrStaleEpoch, also those submitted before and not yet applied. A fence already higher gives ErrStaleEpoch for that
// call, with the others applied; an equal one is accepted.
func (s *Store) Fence(ctx context.Context, fences ...VolumeFence) error { return s.fence(ctx, fences) }

// FenceOf is the fence of a volume; the zero value if there is none.
func (s *Store) FenceOf(v block.VolumeID) VolumeFence { return s.fenceOf(v) }

// Fences lists all fences.
func (s *Store) Fences() []VolumeFence { return s.fences() }

// ForgetFence drops the fence of a deleted volume of which no replica is left here.
func (s *Store) ForgetFence(ctx context.Context, v block.VolumeID) error {
	return s.forgetFence(ctx, v)
}

// SetGeneration raises the replica's generation durably. A lower one than recorded is ErrStaleEpoch.
func (s *Store) SetGeneration(ctx context.Context, e block.ExtentID, g block.Generation) error {
	return s.setGeneration(ctx, e, g)
}

// SetWatermark raises the replica's watermark. It does not wait: the value becomes durable with the next batch or checkpoint.
func (s *Store) SetWatermark(e block.ExtentID, w block.Stamp) { s.setWatermark(e, w) }

// SetJoin makes the replica a joiner with start stamp s0, durably; s0 0 ends it. See Copy.
func (s *Store) SetJoin(ctx context.Context, e block.ExtentID, s0 block.Stamp) error {
	return s.setJoin(ctx, e, s0)
}

// SetSnapshots says which views of the volume below known are still needed; views from known on are left alone, so that a
// list that is older than the newest snapshot harms nothing. known is the volume's snapshot sequence in the record the list was
// taken from. Layers no view needs are freed in the background; returns when the decision is durable. The live layer always stays.
func (s *Store) SetSnapshots(ctx context.Context, v block.VolumeID, known block.SnapSeq, keep []block.SnapSeq) error {
	return s.setSnapshots(ctx, v, known, keep)
}

// CloneSpec names a clone.
type CloneSpec struct {
	Origin block.ExtentID
	// View of the origin, which must be frozen: no write with a SnapSeq of View or lower may follow.
	View   block.SnapSeq
	Target block.ExtentID
	// Generation and Epoch of the new replica.
	Generation block.Generation
	Epoch      block.Epoch
}

// Clone creates a replica that begins with the content of a view of another extent of this disk and shares its space. Its
// lineage is the origin's; extent indexes must be equal, since checksums name them. Returns when durable. The origin may be
// deleted afterwards. Blocks keep their stamps: the clone's first epoch must be higher than every epoch of its origin, or its
// writes would lose against what it began with.
func (s *Store) Clone(ctx context.Context, c CloneSpec) error { return s.clone(ctx, c) }

// Sync moves everything in the journal to its place and writes a checkpoint.
func (s *Store) Sync(ctx context.Context) error { return s.sync(ctx) }

// Stats returns counters and sizes.
func (s *Store) Stats() Stats { return s.stats() }
