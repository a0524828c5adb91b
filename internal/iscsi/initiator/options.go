package initiator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// CHAP are the secrets of a session. With MutualSecret the target must prove itself too.
type CHAP = login.Secrets

// Options describe a session. Portals, Target and Initiator are required.
type Options struct {
	// Portals are host:port, tried in turn.
	Portals []string
	// Target and Initiator are iSCSI names.
	Target, Initiator string
	// ISID makes this session one of several of the same initiator; random if zero. It stays the same over reconnects.
	ISID [6]byte
	// LUN is the logical unit (1).
	LUN uint8
	// CHAP is nil for no authentication.
	CHAP *CHAP
	// HeaderDigest and DataDigest demand CRC32C.
	HeaderDigest, DataDigest bool
	// QueueDepth bounds commands in progress at the target (128, or less if the target allows less).
	QueueDepth int
	// NOPInterval, NOPTimeout, LoginTimeout and Replacement default to those of package timeouts. LoginTimeout bounds one attempt at
	// one portal; another portal is tried besides after HedgeAfter (400 ms).
	NOPInterval, NOPTimeout, LoginTimeout, Replacement, HedgeAfter time.Duration
	// OnResize is called when the unit has a new capacity, be it that the target says so or that it shows after a reconnect. It runs in
	// a goroutine of its own and must not call Close, which waits for it.
	OnResize func(sizeBytes uint64)
	Log      *slog.Logger
	// DialContext opens connections; net.Dialer's by default.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

func (o Options) withDefaults() (Options, error) {
	if len(o.Portals) == 0 {
		return o, errors.New("iSCSI initiator: no portal")
	}
	for _, n := range []*string{&o.Target, &o.Initiator} {
		name, err := login.NormalName(*n)
		if err != nil {
			return o, fmt.Errorf("iSCSI initiator: %w", err)
		}
		*n = name
	}
	if o.ISID == ([6]byte{}) {
		rand.Read(o.ISID[:])
		o.ISID[0] = 0x80 // random format (RFC 7143 §11.12.5)
	}
	if o.LUN == 0 {
		o.LUN = 1
	}
	if o.QueueDepth <= 0 {
		o.QueueDepth = 128
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.NOPInterval, timeouts.NOPInterval)
	def(&o.NOPTimeout, timeouts.NOPTimeout)
	def(&o.LoginTimeout, timeouts.Login)
	def(&o.Replacement, timeouts.Replacement)
	def(&o.HedgeAfter, 400*time.Millisecond)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{Timeout: o.LoginTimeout}).DialContext
	}
	return o, nil
}
