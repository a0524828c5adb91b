package target

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"

	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// Op is what a Command asks of a Volume.
type Op uint8

// Operations. Every offset and length is a multiple of 512 bytes and lies within the size the Volume reported.
const (
	// OpRead fills Data with Length bytes from Offset (or lends memory, see Command.Lend).
	OpRead Op = iota + 1
	// OpWrite stores Data at Offset; OK means durable on every in-sync replica (I1). With Atomic set, a failure never
	// leaves a part of it.
	OpWrite
	// OpUnmap gives the range back; it reads as zeros afterwards (LBPRZ). Length up to MaxUnmapBytes, may cross extents.
	OpUnmap
	// OpWriteZeroes makes the range read as zeros. MayUnmap says that space may be given back. Length up to MaxZeroBytes.
	OpWriteZeroes
	// OpFlush completes when every write submitted before it is acknowledged. Offset and Length are 0.
	OpFlush
	// OpCompareAndWrite compares the range with Data[:Length] and, if equal, stores Data[Length:2*Length], with no other
	// write of the range between. Unequal: Miscompare with the offset of the first differing byte. Length ≤ MaxCompareBytes.
	OpCompareAndWrite
	// OpOrWrite stores the bitwise OR of the range and Data, with no other write of the range between.
	OpOrWrite
	// OpVerify reads the range and checks it on the medium; nothing is transferred. Data is nil.
	OpVerify
	// OpMapStatus reports in Result.Mapped whether the block at Offset is mapped, and in Result.Offset how many bytes from
	// Offset on share that state (at least 512, at most Length). A Volume that cannot tell answers Mapped for all of Length.
	OpMapStatus
)

// String is the operation's name in logs and metrics.
func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpUnmap:
		return "unmap"
	case OpWriteZeroes:
		return "writezeroes"
	case OpFlush:
		return "flush"
	case OpCompareAndWrite:
		return "compareandwrite"
	case OpOrWrite:
		return "orwrite"
	case OpVerify:
		return "verify"
	case OpMapStatus:
		return "mapstatus"
	}
	return "unknown"
}

// Bounds on commands that reach a Volume. They are announced in VPD page B0h, and larger requests are refused.
const (
	// MaxTransferBytes bounds Data of OpRead, OpWrite and OpOrWrite.
	MaxTransferBytes = 4 << 20
	// MaxUnmapBytes bounds Length of OpUnmap, OpVerify and OpMapStatus.
	MaxUnmapBytes = 512 << 20
	// MaxZeroBytes bounds Length of OpWriteZeroes: below 65,536 blocks, which some initiators take for the largest number.
	MaxZeroBytes = 32<<20 - 4096
	// MaxCompareBytes bounds Length of OpCompareAndWrite (Data is twice as long).
	MaxCompareBytes = 64 << 10
)

// Kind classifies the outcome of a Command. The table in status.go maps each to SCSI status and sense.
type Kind uint8

// Outcomes.
const (
	// OK: done as the Op says.
	OK Kind = iota
	// MediumError: no good copy of the block at Result.Offset (byte offset in the volume). Only that block is affected (I8).
	MediumError
	// SpaceExhausted: no space for this write; nothing of it was stored (SPACE ALLOCATION FAILED).
	SpaceExhausted
	// Unavailable: waited timeouts.WriteWait without enough replicas. The volume may recover; the session goes on.
	Unavailable
	// WriteProtected: the volume takes no writes.
	WriteProtected
	// Miscompare: OpCompareAndWrite found a difference at byte Result.Offset of Data[:Length].
	Miscompare
	// OutOfRange: the range is beyond the volume's size (it was reduced or the caller raced a resize).
	OutOfRange
	// Aborted: Aborting was seen; the command has had no effect and never will.
	Aborted
	// Lost: this process is no longer the owner (I3, I4). The outcome of the command is unknown; no answer is sent and all
	// sessions of the volume are dropped, so that initiators log in to the new owner and repeat.
	Lost
	// Internal: a failure that fits no other kind (HARDWARE ERROR / INTERNAL TARGET FAILURE).
	Internal

	kinds // number of kinds, for the test of the table
)

// Result is the outcome of a Command.
type Result struct {
	Kind Kind
	// Mapped is the answer of OpMapStatus.
	Mapped bool
	// Offset is a byte position or count as Kind and Op say.
	Offset uint64
}

// Command is one request to a Volume. The target owns it before Submit and again from the call of Complete on; between
// these the Volume owns it and Data. Commands are pooled: a Volume must not keep a reference after Complete.
type Command struct {
	Op Op
	// Atomic is set for WRITE ATOMIC; Length is then at most Properties.AtomicMaxBytes.
	Atomic bool
	// MayUnmap belongs to OpWriteZeroes.
	MayUnmap bool
	// Offset and Length are bytes, multiples of 512.
	Offset uint64
	Length uint64
	// Data starts at a page boundary. len(Data) is Length for OpRead, OpWrite and OpOrWrite, 2*Length for
	// OpCompareAndWrite, otherwise 0. For OpRead of a volume with Properties.LendsReads it is nil.
	Data []byte
	// Buf is what Data lies in; nil if Data is. The target holds a reference until Complete returns; a Volume that needs the
	// bytes longer (a replica still to be sent) Retains it. Data of a write is never changed by the target.
	Buf *pagebuf.Buf
	// Done is called exactly once by Complete, in the goroutine of the caller of Complete. Set by whoever submits.
	Done func(*Command, Result)
	// Wakes, if not nil, collects wake-ups: whoever submits has more to submit, and wakes everyone when that is done. It is not for use after Submit
	// has returned.
	Wakes *wakes.List
	// Private is for the Volume alone and survives pooling: a Volume can keep its own per-command state here and find it
	// again in a later Submit instead of allocating. The target never touches it.
	Private any

	aborting atomic.Bool
	task     *task
	later    *wakes.List // of CompleteLater, while it runs
}

// Complete hands the command back with its result. It may be called from any goroutine, also from within Submit. It does not
// block: the response is queued for the connection's writer.
func (c *Command) Complete(r Result) { c.CompleteLater(r, nil) }

// CompleteLater is Complete by one who completes many commands at a time: the responses go out when the list is woken, together.
func (c *Command) CompleteLater(r Result, later *wakes.List) {
	c.later = later
	c.Done(c, r)
}

// Lend sets the data of an OpRead to data, which lies in buf, instead of filling the target's buffer. Call it before Complete. The
// target takes over one reference to buf and releases it after the bytes were handed to the socket; they must not change before.
func (c *Command) Lend(data []byte, buf *pagebuf.Buf) {
	c.Buf.Release()
	c.Data, c.Buf = data, buf
}

// Aborting reports that an initiator has asked to abort this command (task management, logout, reinstatement). A Volume that has
// it still waiting may complete it with Aborted; ignoring it is correct too, only slower: the answer to the abort waits for
// Complete (I14).
func (c *Command) Aborting() bool { return c.aborting.Load() }

// Properties are the fixed traits of a Volume.
type Properties struct {
	// Serial is the unit serial number, 1 to 64 printable ASCII characters, stable for the volume's life.
	Serial string
	// NAA is the NAA designator (type 6h), stable for the volume's life.
	NAA [16]byte
	// Thin says that UNMAP gives space back (LBPME).
	Thin bool
	// LendsReads says that OpRead uses Command.Lend, so that the target provides no buffer.
	LendsReads bool
	// AtomicMaxBytes is the longest write (a multiple of 4096) that is stored as a whole or not at all; 0: WRITE ATOMIC is
	// refused. Atomic writes are aligned to 4096 bytes. At least 128 KiB, since there are initiators that do not ask.
	AtomicMaxBytes uint32
	// Physical512 reports physical blocks of 512 bytes instead of 4096. For tests of initiators only.
	Physical512 bool
}

// Volume is one logical unit, served by this process. Implementations are comparable (use a pointer): two Placements with the
// same Volume are the same logical unit. All methods may be called concurrently.
type Volume interface {
	// Properties returns the same value always.
	Properties() Properties
	// SizeBytes is the present size, a multiple of 512. After a change call Server.Resized.
	SizeBytes() uint64
	// Submit starts a command and returns without waiting for it. The Volume completes every command exactly once, in any order;
	// it orders overlapping writes by the order of Submit (I14). The target bounds how many are outstanding.
	Submit(*Command)
	// LoadReservations returns the stored persistent reservations (nil if none were ever stored) and their version.
	LoadReservations(ctx context.Context) (data []byte, version int64, err error)
	// SaveReservations stores data if the version is still the given one, and returns the new version; it returns
	// ErrReservationsChanged if not. When it returns nil, the data survives owner change and restart. Another error: outcome unknown.
	SaveReservations(ctx context.Context, data []byte, version int64) (int64, error)
}

// ErrReservationsChanged is returned by SaveReservations when somebody else has stored reservations since.
var ErrReservationsChanged = errors.New("reservations were changed by another owner")

// Login describes who asks for which target.
type Login struct {
	// Target is the IQN asked for; empty in a discovery session.
	Target string
	// Initiator is the initiator's iSCSI name, lower case, not authenticated yet.
	Initiator string
	// ISID is the initiator's session identifier.
	ISID [6]byte
	// Portal is the local address the connection came in on; Remote is the initiator's address.
	Portal, Remote netip.AddrPort
}

// CHAP holds the secrets of a grant (RFC 7143 §12.1.3, RFC 1994 with MD5).
type CHAP struct {
	// User and Secret authenticate the initiator.
	User, Secret string
	// MutualUser and MutualSecret authenticate the target to the initiator, if it asks; empty: it gets no answer.
	MutualUser, MutualSecret string
}

// String keeps secrets out of logs.
func (CHAP) String() string { return "CHAP(redacted)" }

// GoString keeps secrets out of logs.
func (CHAP) GoString() string { return "CHAP(redacted)" }

// Grant is an initiator's right to a volume (I16).
type Grant struct {
	// Generation names the grant; a session belongs to the grant it logged in with.
	Generation uint64
	// ReadOnly makes the logical unit write protected for this initiator.
	ReadOnly bool
	// CHAP is nil when no authentication is demanded.
	CHAP *CHAP
}

// Placement is where a target is served. Exactly one of Volume and Redirect is set.
type Placement struct {
	// Volume is served here, under Grant.
	Volume Volume
	Grant  Grant
	// Redirect is the host:port of the owner's portal; the login is answered with "target moved temporarily" (0101h).
	Redirect string
}

// Errors of Directory.Lookup that end a login. Anything else, also an expired ctx, is a passing state: the connection is closed
// without a status, so that the initiator tries again.
var (
	// ErrNoTarget: no such volume (login status 0203h).
	ErrNoTarget = errors.New("no such target")
	// ErrNotGranted: the initiator has no grant (login status 0202h).
	ErrNotGranted = errors.New("initiator has no grant")
)

// Directory tells the target what exists, where, and for whom. The chunk implements it over metadata.
type Directory interface {
	// Lookup decides one login. While the target exists and is granted but nobody serves it yet it blocks, up to the ctx's end
	// (Options.ParkTimeout); it returns as soon as the volume is served here with a confirmed lease, or elsewhere.
	//
	// Revocation and ownership are closed against races like this: the caller first makes Lookup answer without the grant (or the
	// volume), then calls CloseSessions (or CloseVolume). These also end logins whose Lookup had begun before.
	Lookup(ctx context.Context, login Login) (Placement, error)
	// Targets lists the IQNs granted to an initiator, for SendTargets.
	Targets(ctx context.Context, login Login) ([]string, error)
}
