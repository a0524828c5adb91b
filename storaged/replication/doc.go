// Package replication is the protocol core of the block service: who may order writes, what is acknowledged when, how a
// new owner takes over and how a member returns. It has no clock, goroutine, channel, file or socket. Time arrives as an
// argument of every call, messages and completions arrive as method calls, and everything to be done leaves as an Effect
// appended to a slice of the caller. The same calls in the same order give the same effects.
//
// There are three machines. None of them locks; the shell wraps each in a mutex of its own.
//
//	Owner    one per volume this chunk owns: orders reads and writes, changes in-sync sets, takes over, resyncs
//	Replica  one per volume this chunk holds replicas of: fencing (I3), applies what owners send, lists stamps
//	Lease    one per chunk: promises given to and held from other chunks (I4)
//
// # Calls
//
// Methods have the form
//
//	out = o.Write(now, req, out)
//
// now is CLOCK_BOOTTIME in nanoseconds and must not go back. out is a slice the shell reuses; effects are appended in the
// order in which they must be begun. Owner and Replica do not need that messages to one chunk arrive in the order they were
// sent: stamps, sessions and generations tell old from new. What does need order is said at the kind of effect.
//
// Owner and Lease have Tick: an Owner wants it every TickInterval unless it is Quiet, a Lease at Next; sooner never harms.
//
// # Payload
//
// Data is the bytes of whole blocks, Sums one checksum (block.Seeder.Sum) per block. The core slices them, never reads,
// writes or copies them. A client's buffers belong to the core from the call to the EffComplete of the request (if that
// says Retained, to EffForget). A message that the shell still transmits after that is the shell's to retain: a Send can be
// in a queue when its request has been completed without that member.
//
// # Addresses
//
// A replica is one extent of a volume on one disk. Members of sets are named by disk; messages go to the disk's chunk and
// carry the disk. Messages to the own chunk are Send effects like all others.
//
// # Sessions
//
// PeerUp gives a chunk that can be reached. The owner counts these calls per chunk, and every message to replicas carries
// the count as Session. A Replica refuses what belongs to a session older than the newest it has seen of the epoch, so
// bytes that an abandoned connection delivers late change nothing (I14). All pooled connections of one PeerUp are one session.
//
// # Durability
//
// StoreDone of an operation that changes something is called after the change is durable. StoreWatermark alone may be lazy.
package replication

import "time"

// Time is a reading of CLOCK_BOOTTIME in nanoseconds.
type Time int64

// Add returns t+d.
func (t Time) Add(d time.Duration) Time { return t + Time(d) }

// Sub returns the time from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// Duration is time.Duration.
type Duration = time.Duration
