// Package code is the one table of error to gRPC code of the CSI driver. What Kubernetes does with an error hangs on its code: the
// provisioner retries CreateVolume after Unavailable, DeadlineExceeded, Aborted, Canceled and ResourceExhausted with the same
// call, and takes every other code as "nothing was made".
package code

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kind is a reason of the driver itself, as opposed to one that came from the block service.
type Kind int

// Kinds of errors. The comment gives the code.
const (
	Invalid     Kind = iota + 1 // InvalidArgument: the request can never work
	NotFound                    // NotFound: volume, snapshot, node or path does not exist
	Conflict                    // AlreadyExists: exists with other properties
	InUse                       // FailedPrecondition: another use has to end first, or a state has to change
	OutOfRange                  // OutOfRange: size
	Busy                        // Aborted: another call works on the same object
	Unavailable                 // Unavailable: try again
	Credentials                 // Unauthenticated: secrets do not match
	Internal                    // Internal: a tool or the kernel failed
)

var ofKind = map[Kind]codes.Code{
	Invalid:     codes.InvalidArgument,
	NotFound:    codes.NotFound,
	Conflict:    codes.AlreadyExists,
	InUse:       codes.FailedPrecondition,
	OutOfRange:  codes.OutOfRange,
	Busy:        codes.Aborted,
	Unavailable: codes.Unavailable,
	Credentials: codes.Unauthenticated,
	Internal:    codes.Internal,
}

// ofPeer is what a code of the block service or of the attacher becomes. Codes that would make the caller believe something about
// its own request, though only our own set-up is wrong, become Internal.
var ofPeer = map[codes.Code]codes.Code{
	codes.Canceled:           codes.Canceled,
	codes.Unknown:            codes.Internal,
	codes.InvalidArgument:    codes.InvalidArgument,
	codes.DeadlineExceeded:   codes.DeadlineExceeded,
	codes.NotFound:           codes.NotFound,
	codes.AlreadyExists:      codes.AlreadyExists,
	codes.PermissionDenied:   codes.Internal, // our certificate's role
	codes.ResourceExhausted:  codes.ResourceExhausted,
	codes.FailedPrecondition: codes.FailedPrecondition,
	codes.Aborted:            codes.Aborted,
	codes.OutOfRange:         codes.OutOfRange,
	codes.Unimplemented:      codes.Internal, // an older block service; the capability was announced
	codes.Internal:           codes.Internal,
	codes.Unavailable:        codes.Unavailable,
	codes.DataLoss:           codes.Internal,
	codes.Unauthenticated:    codes.Unauthenticated,
}

// Error is an error with a kind.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// New makes an error with a kind; the rest is as in fmt.Errorf.
func New(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Of returns the gRPC code of an error: of the outermost Error in its chain, else of a gRPC status in it, else of its context
// error, else Internal.
func Of(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	var e *Error
	if errors.As(err, &e) {
		if c, ok := ofKind[e.Kind]; ok {
			return c
		}
		return codes.Internal
	}
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		if c, ok := ofPeer[s.GRPCStatus().Code()]; ok {
			return c
		}
		return codes.Internal
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.Internal
}

// Status turns an error into what is sent to the caller.
func Status(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(Of(err), text(err))
}

// text drops the "rpc error: code = X desc =" of an inner call: users read it in an event.
func text(err error) string {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		inner := s.GRPCStatus()
		full := err.Error()
		if raw := inner.Err().Error(); len(full) >= len(raw) && full[len(full)-len(raw):] == raw {
			return full[:len(full)-len(raw)] + inner.Message()
		}
	}
	return err.Error()
}
