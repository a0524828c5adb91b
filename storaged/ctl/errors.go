package ctl

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitProblems = 3
	exitTimeout  = 4
)

// Error is an error with an exit code. Its text has three parts: what failed, on which object or address, what to try.
type Error struct {
	msg  string
	code int
	err  error
}

func (e *Error) Error() string { return e.msg }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// ExitCode is the exit code of the process.
func (e *Error) ExitCode() int { return e.code }

func usage(format string, args ...any) error {
	return &Error{msg: fmt.Sprintf(format, args...), code: exitUsage}
}

// explain turns the error of a call into one with three parts: what was attempted on what, why it failed, what to try.
func explain(what string, addresses []string, err error) error {
	st := status.Convert(err)
	e := &Error{code: exitFailed, err: err}
	switch code := st.Code(); {
	case code == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded):
		e.code = exitTimeout
		e.msg = fmt.Sprintf("%s: timed out: %s; try again with a longer --timeout, and see `storaged ctl status`", what, st.Message())
	case code == codes.Canceled:
		return context.Canceled
	case code == codes.Unavailable && unreachable(err):
		e.msg = fmt.Sprintf("%s: no meta member answers at %v: %s; check that storaged meta runs there and that --tls-dir is of this cluster", what, addresses, st.Message())
	case code == codes.PermissionDenied || code == codes.Unauthenticated:
		e.msg = fmt.Sprintf("%s: refused: %s; use credentials of role admin (--tls-dir)", what, st.Message())
	case code == codes.InvalidArgument || code == codes.OutOfRange:
		e.code = exitUsage
		e.msg = fmt.Sprintf("%s: %s", what, st.Message())
	case code == codes.NotFound:
		e.msg = fmt.Sprintf("%s: %s; the list commands show what there is", what, st.Message())
	case code == codes.ResourceExhausted:
		e.msg = fmt.Sprintf("%s: %s; add disks or nodes, or ask for less", what, st.Message())
	default:
		e.msg = fmt.Sprintf("%s: %s", what, st.Message())
	}
	return e
}
