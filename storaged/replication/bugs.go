package replication

// Bugs is a set of planted faults for the self-test of the simulator. No option outside this package sets it; the simulator's
// tests do through Plant.
type Bugs uint32

// The planted faults. Each takes away one of the steps the protocol rests on.
const (
	// BugSkipEpochCheck: replicas serve requests of lower epochs.
	BugSkipEpochCheck Bugs = 1 << iota
	// BugAckEarly: the owner acknowledges a write when one member has it.
	BugAckEarly
	// BugAckBeforeSetChange: acknowledged without the member that is to leave before the change is recorded.
	BugAckBeforeSetChange
	// BugForgetDirty: resync skips one differing range.
	BugForgetDirty
	// BugIgnoreReturnersWindow: resync looks at the source's list only.
	BugIgnoreReturnersWindow
	// BugLeaseMargin: a promise is counted from the arrival of the grant, and half as long again as it is.
	BugLeaseMargin
	// BugRollStale: stale members take part in takeover.
	BugRollStale
	// BugLateWrite: replicas take messages of abandoned sessions and older generations.
	BugLateWrite
	// BugRemoveLast: a last full member that does not answer leaves the set.
	BugRemoveLast
	// BugCopyOverwrites: resync copies replace newer writes.
	BugCopyOverwrites
	// BugSnapshotWithoutBarrier: snapshots do not wait for writes in flight.
	BugSnapshotWithoutBarrier
	// BugReleaseWithoutDrain: a planned move acknowledges what is in flight instead of waiting for it.
	BugReleaseWithoutDrain
	// BugNoRollForward: a new owner serves without making members equal.
	BugNoRollForward
	// BugReadUncommitted: reads do not wait for overlapping writes in flight.
	BugReadUncommitted
	// BugNoLeaseCheck: reads are answered without promises.
	BugNoLeaseCheck
	// BugJoinTooEarly: a returner is added before its copies are done.
	BugJoinTooEarly
	// BugOverlap: overlapping writes are in flight together.
	BugOverlap
	// BugNoConfirm: with several initiators reads are not confirmed.
	BugNoConfirm
	// BugDeltaAsFull: delta members count as full ones.
	BugDeltaAsFull
)

// Has reports whether a fault of x is planted.
func (b Bugs) Has(x Bugs) bool { return b&x != 0 }

func (b Bugs) has(x Bugs) bool { return b&x != 0 }

// Plant is the test hook of the simulator: it makes the machines faulty. Calling it outside tests loses data.
type Plant struct{ Bugs Bugs }

// Owner plants the faults in an owner.
func (p Plant) Owner(o *Owner) { o.bugs = p.Bugs }

// Replica plants the faults in a replica.
func (p Plant) Replica(r *Replica) { r.bugs = p.Bugs }

// Lease plants the faults in a lease.
func (p Plant) Lease(l *Lease) { l.bugs = p.Bugs }
