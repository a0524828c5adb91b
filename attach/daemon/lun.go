package daemon

import (
	"context"
	"errors"
	"log/slog"

	"github.com/iomesh/iomesh/attach/fusefile"
)

// LUN is a logged-in logical unit. It keeps its session alive by itself: requests wait while it is down, up to the initiator's
// replacement time, then fail. Safe for concurrent use.
type LUN interface {
	fusefile.Backend
	// SizeBytes is the size as last read from the target.
	SizeBytes() int64
	// Refresh reads the size from the target.
	Refresh(ctx context.Context) (sizeBytes int64, err error)
	// Resized receives a value when the target announced another size. It is never closed.
	Resized() <-chan struct{}
	// Close ends the session after the requests in flight. It is called once.
	Close(ctx context.Context) error
}

// Credentials are the CHAP names and secrets of a login. They are never logged.
type Credentials struct {
	User, Secret             string
	MutualUser, MutualSecret string
}

// LogValue keeps secrets out of logs.
func (Credentials) LogValue() slog.Value { return slog.StringValue("(credentials)") }

// Target names a LUN and how to log in to it.
type Target struct {
	VolumeID    string
	IQN         string
	LUN         uint32
	Portals     []string
	Initiator   string
	ReadOnly    bool
	Credentials Credentials
}

// Dialer logs in to targets. Its errors may wrap ErrCredentials, ErrNotFound or ErrUnreachable.
type Dialer interface {
	Dial(ctx context.Context, target Target) (LUN, error)
}

// Errors of a Dialer that decide what the caller is told.
var (
	ErrCredentials = errors.New("the target refused the credentials")
	ErrNotFound    = errors.New("no such target, or this initiator has no grant for it")
	ErrUnreachable = errors.New("no portal answered")
)
