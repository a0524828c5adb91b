package target

import (
	"errors"
	"log/slog"
	"time"

	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// Options configure a Server. Directory is required, zero values mean the defaults.
type Options struct {
	Directory Directory
	Log       *slog.Logger
	// Revision is the product revision of INQUIRY, at most 4 characters.
	Revision string
	// Pool lends data buffers; by default the server has its own.
	Pool *pagebuf.Pool

	// ConnectionsMax bounds connections in all (4096), LoginsMax those that are in login or parked (1024). A connection above a
	// bound is closed at once.
	ConnectionsMax, LoginsMax int
	// SessionsPerTargetMax bounds the sessions of one target (64).
	SessionsPerTargetMax int
	// QueueDepth is how many commands one session may have in progress (128).
	QueueDepth int
	// SessionBytesMax bounds the data buffers of one session (16 MiB; at least one command is always let in). Above it commands
	// wait. TotalBytesMax bounds those of all sessions (1 GiB); above it each session has one buffer at a time.
	SessionBytesMax, TotalBytesMax int64

	// LoginTimeout bounds a login (timeouts.Login), without ParkTimeout, which bounds Directory.Lookup and the end of a session that
	// is replaced (timeouts.WriteWait).
	LoginTimeout, ParkTimeout time.Duration
	// NOPInterval is after how much silence an initiator is pinged (10 s), NOPTimeout after how much more it is given up (20 s).
	// Both are long, since nothing waits for the target to notice a dead initiator: whoever takes its place logs in and
	// replaces the session, while an initiator that does not run for a while (a test tool, a stopped guest) is no fault.
	NOPInterval, NOPTimeout time.Duration
	// WriteTimeout is how long a response may take to be accepted by the initiator's TCP (30 s).
	WriteTimeout time.Duration
	// planted breaks a rule on purpose, to show that a test notices.
	planted planted

	// MoveGrace is how long sessions have to log out when the volume moves (2 s).
	MoveGrace time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if o.Directory == nil {
		return o, errors.New("iSCSI target: no Directory")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Pool == nil {
		o.Pool = &pagebuf.Pool{}
	}
	if o.Revision == "" {
		o.Revision = "1"
	}
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&o.ConnectionsMax, 4096)
	def(&o.LoginsMax, 1024)
	def(&o.SessionsPerTargetMax, 64)
	def(&o.QueueDepth, 128)
	o.QueueDepth = min(o.QueueDepth, 1024)
	bytes := func(p *int64, v int64) {
		if *p <= 0 {
			*p = v
		}
	}
	bytes(&o.SessionBytesMax, 16<<20)
	bytes(&o.TotalBytesMax, 1<<30)
	times := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	times(&o.LoginTimeout, timeouts.Login)
	times(&o.ParkTimeout, timeouts.WriteWait)
	times(&o.NOPInterval, 10*time.Second)
	times(&o.NOPTimeout, 20*time.Second)
	times(&o.WriteTimeout, 30*time.Second)
	times(&o.MoveGrace, 2*time.Second)
	return o, nil
}

// Bug is a deliberate fault, for the self-tests of this package and of the simulator of the whole stack.
type Bug = planted

// The faults that can be planted from outside.
const (
	BugEarlyReinstatement = plantEarlyReinstatement
	BugEarlyAbort         = plantEarlyAbort
	BugEarlyClose         = plantEarlyClose
)

// Plant switches a fault on. Anything but zero loses data.
func (o *Options) Plant(b Bug) { o.planted = b }

type planted uint8

const (
	_ planted = iota // nothing
	// plantEarlyReinstatement lets a session in before the commands of the one it replaces have ended (breaks I14).
	plantEarlyReinstatement
	// plantEarlyAbort answers task management before the commands have ended (breaks I14).
	plantEarlyAbort
	// plantEarlyClose reports sessions of a withdrawn grant as closed before their commands have ended (breaks I16).
	plantEarlyClose
)
