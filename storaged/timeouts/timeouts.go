// Package timeouts is the one ladder of time-outs of the block service. Every part takes its times from here, so that the
// order between them, on which fencing and the promised stalls rest, can be checked in one place (the package's test).
package timeouts

import "time"

// The ladder, shortest first. A fault is noticed by the step that is closest to it.
const (
	// Heartbeat is the interval of the heartbeats between chunks, and of a chunk to the meta leader. A fifth of the lease: what is shorter costs an idle
	// cluster processor time, and notices nothing sooner, since silence is counted from the last sign of life.
	Heartbeat = 400 * time.Millisecond
	// DiskStall is how long a disk may keep a request before the chunk calls it stalled and fences it.
	DiskStall = 1200 * time.Millisecond
	// ReplicaDrop is how long a member may leave a write unanswered before the owner removes it from the set.
	ReplicaDrop = 1500 * time.Millisecond
	// OwnerDead is how long a chunk may be silent before the meta leader gives its volumes to others.
	OwnerDead = 1700 * time.Millisecond
	// Lease is how long a promise of a replica to an owner lasts (I4).
	Lease = 2000 * time.Millisecond
	// LeaseSkew is subtracted by the holder: clocks may differ in rate by 5 %.
	LeaseSkew = 100 * time.Millisecond
	// WriteWait is how long a write waits below minReplicas, or for an extent without a serving set, before it fails
	// with a sense code. Shorter than InitiatorAbort.
	WriteWait = 20 * time.Second
	// InitiatorAbort is the shortest time after which an initiator aborts a command (Linux: 30 s).
	InitiatorAbort = 30 * time.Second
	// Replacement is how long an initiator holds I/O of a session that is down before it fails it: at least the longest
	// outage promised to be survived.
	Replacement = 120 * time.Second
)

// Other bounds.
const (
	// BrokenStream is how long the meta leader waits after a chunk's stream broke (its process died) for it to come back.
	BrokenStream = 300 * time.Millisecond
	// NOPInterval is the interval of iSCSI NOP pings on both sides.
	NOPInterval = time.Second
	// NOPTimeout is how long a ping may be unanswered before the connection is dropped.
	NOPTimeout = 1500 * time.Millisecond
	// Login is how long one login may take on both sides, parking excluded.
	Login = 5 * time.Second
	// OwnerDoubt is for how long a login is not sent on to an owner that cannot be reached from where it came in: longer than it takes to replace it.
	OwnerDoubt = 5 * time.Second
	// WatermarkIdle is how long after the last write of an extent its watermark is sent on its own, unless many wait for that.
	WatermarkIdle = 100 * time.Millisecond
	// WatermarkLate is how long after it the watermark is sent however many wait. A write that comes before carries it for nothing.
	WatermarkLate = time.Second
	// MetaElection is the election time-out of etcd: it takes whole heartbeats, so 750 ms to 1.5 s.
	MetaElection = 800 * time.Millisecond
	// MetaHeartbeat is the heartbeat interval of etcd, and how often each member wakes up for its clock.
	MetaHeartbeat = 150 * time.Millisecond
)
