package initiator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/iomesh/iomesh/internal/scsi"
)

// Op is what a Request asks.
type Op uint8

// Operations.
const (
	// Read fills Data from Offset. Write stores Data at Offset. At most MaxTransfer bytes.
	Read Op = iota + 1
	Write
	// Unmap gives Length bytes at Offset back, at most MaxRange. WriteZeroes makes them zero, at most MaxZero.
	Unmap
	WriteZeroes
	// Flush is SYNCHRONIZE CACHE.
	Flush
	// Raw sends CDB. Data are sent if DataOut, otherwise filled.
	Raw
)

// Bounds of one request in bytes.
const (
	MaxTransfer = 4 << 20
	MaxRange    = 512 << 20
	MaxZero     = 32<<20 - 4096
)

// Request is one command. The caller owns it before Submit and again from Done on, and may then use it once more. Data must not be touched
// in between.
type Request struct {
	Op             Op
	Offset, Length uint64
	Data           []byte
	CDB            [16]byte // Raw
	DataOut        bool     // Raw
	// LUN0 sends a Raw command to logical unit 0 instead of the session's.
	LUN0 bool
	// Done is called once, from a goroutine of the session; it must not block. It may Submit.
	Done func(*Request)
	// OnRepeat, if set, is called before the request is sent once more because the connection on which it was in progress was lost: what was sent
	// may have taken effect, or may still do so until the new connection is let in. It runs with the session locked and may change Data.
	OnRepeat func(*Request)
	// User is for the caller.
	User any

	// Results.
	Err      error
	Status   scsi.Status
	Sense    scsi.Sense
	Residual int // bytes short (positive) or over (negative), as the target reported

	next    *Request
	tag     uint32
	cdb     [16]byte
	sent    bool // in progress at the target
	out, in bool
	tries   int
	r2t     r2t
	param   [24]byte // of UNMAP
	body    []byte   // what is sent
	started time.Time
}

type r2t struct {
	next   *Request
	ttt    uint32
	offset uint32
	length uint32
	queued bool
}

// Errors of requests.
var (
	// ErrClosed: the session was closed.
	ErrClosed = errors.New("iSCSI session is closed")
	// ErrUnreachable: no portal served the target for as long as Options.Replacement.
	ErrUnreachable = errors.New("iSCSI target is unreachable")
	// ErrRefused: the target does not want this initiator any more (login status class 2): the grant was withdrawn, the secret changed, or the
	// target is gone.
	ErrRefused = errors.New("iSCSI target refuses the login")
	// ErrOutcomeUnknown: the connection was lost while a command that must not be repeated was in progress.
	ErrOutcomeUnknown = errors.New("outcome of the command is unknown: the connection was lost while it was in progress")
)

// StatusError is a command that ended with another status than GOOD.
type StatusError struct {
	Status scsi.Status
	Sense  scsi.Sense
}

func (e *StatusError) Error() string {
	switch e.Status {
	case scsi.CheckCondition:
		return "CHECK CONDITION, " + e.Sense.Error()
	case scsi.ReservationConflict:
		return "RESERVATION CONFLICT"
	case scsi.Busy:
		return "BUSY"
	case scsi.TaskSetFull:
		return "TASK SET FULL"
	case scsi.TaskAborted:
		return "TASK ABORTED"
	}
	return fmt.Sprintf("SCSI status %#02x", byte(e.Status))
}

// Is makes errors.Is compare status and sense.
func (e *StatusError) Is(other error) bool {
	o, ok := other.(*StatusError)
	return ok && *o == *e
}

func (o Op) rangeMax() uint64 {
	if o == WriteZeroes {
		return MaxZero
	}
	return MaxRange
}

// build makes the CDB and the body of a request, or says what is wrong with it.
func (r *Request) build() error {
	r.out, r.in, r.body = false, false, nil
	if r.Op == Raw {
		r.cdb = r.CDB
		r.out, r.in = r.DataOut && len(r.Data) > 0, !r.DataOut && len(r.Data) > 0
		if r.out {
			r.body = r.Data
		}
		return nil
	}
	n := r.Length
	if r.Op == Read || r.Op == Write {
		n = uint64(len(r.Data))
		if n == 0 || n > MaxTransfer {
			return fmt.Errorf("%d bytes in one request, expected 512 to %d", n, MaxTransfer)
		}
	} else if most := r.Op.rangeMax(); r.Op != Flush && (n == 0 || n > most) {
		return fmt.Errorf("range of %d bytes, expected 512 to %d", n, most)
	}
	if r.Offset%scsi.BlockBytes != 0 || n%scsi.BlockBytes != 0 {
		return fmt.Errorf("offset %d and length %d are not both multiples of %d", r.Offset, n, scsi.BlockBytes)
	}
	lba, blocks := r.Offset/scsi.BlockBytes, n/scsi.BlockBytes
	r.cdb = [16]byte{}
	switch r.Op {
	case Read:
		r.cdb[0], r.in = scsi.OpRead16, true
	case Write:
		r.cdb[0], r.out, r.body = scsi.OpWrite16, true, r.Data
	case WriteZeroes:
		r.cdb[0], r.cdb[1] = scsi.OpWriteSame16, 1 // NDOB
	case Flush:
		r.cdb[0] = scsi.OpSync10
		return nil
	case Unmap:
		r.cdb[0] = scsi.OpUnmap
		r.cdb[8] = byte(len(r.param))
		r.param = [24]byte{1: 22, 3: 16}
		binary.BigEndian.PutUint64(r.param[8:], lba)
		binary.BigEndian.PutUint32(r.param[16:], uint32(blocks))
		r.out, r.body = true, r.param[:]
		return nil
	default:
		return fmt.Errorf("unknown operation %d", r.Op)
	}
	binary.BigEndian.PutUint64(r.cdb[2:], lba)
	binary.BigEndian.PutUint32(r.cdb[10:], uint32(blocks))
	return nil
}

// repeatable reports whether a command may be sent again without knowing whether it took effect.
func (r *Request) repeatable() bool {
	switch r.cdb[0] {
	case scsi.OpRead6, scsi.OpRead10, scsi.OpRead12, scsi.OpRead16, scsi.OpWrite6, scsi.OpWrite10, scsi.OpWrite12, scsi.OpWrite16,
		scsi.OpWriteVerify10, scsi.OpWriteVerify12, scsi.OpWriteVerify16, scsi.OpVerify10, scsi.OpVerify12, scsi.OpVerify16,
		scsi.OpWriteSame10, scsi.OpWriteSame16, scsi.OpWriteAtomic16, scsi.OpUnmap, scsi.OpSync10, scsi.OpSync16,
		scsi.OpPrefetch10, scsi.OpPrefetch16, scsi.OpTestUnitReady, scsi.OpRequestSense, scsi.OpInquiry, scsi.OpModeSense6, scsi.OpModeSense10,
		scsi.OpReadCapacity10, scsi.OpServiceIn16, scsi.OpReportLUNs, scsi.OpMaintenanceIn, scsi.OpPRIn, scsi.OpReadDefect10, scsi.OpReadDefect12:
		return true
	}
	return false
}

// triesMax bounds repetitions after a passing status, such as BUSY or a unit attention.
const triesMax = 8

// passing reports whether a status other than GOOD says that the command had no effect and may do if repeated.
func (r *Request) passing() bool {
	if r.Op == Raw {
		return false
	}
	switch r.Status {
	case scsi.Busy, scsi.TaskSetFull, scsi.TaskAborted:
		return true
	case scsi.CheckCondition:
		return r.Sense.Key == scsi.UnitAttention || (r.Sense.Key == scsi.AbortedCommand && r.tries < 3)
	}
	return false
}
