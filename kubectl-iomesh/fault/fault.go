// Package fault is the plugin's errors: what failed, on what, what to try, and the exit code it ends with.
//
//	0 done   1 failed   2 wrong usage   3 ran well and found problems   4 a wait timed out   130 interrupted
package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Exit codes.
const (
	CodeFailed      = 1
	CodeUsage       = 2
	CodeProblems    = 3
	CodeTimedOut    = 4
	CodeInterrupted = 130
)

// Error is an error with all its parts.
type Error struct {
	Code int
	What string // what failed, on which object or address
	Try  string // what to do about it, "" when there is nothing to say
	Err  error  // cause, may be nil
}

// Error is one line.
func (e *Error) Error() string {
	s := e.What
	if e.Err != nil {
		s += ": " + strings.Join(strings.Fields(e.Err.Error()), " ")
	}
	if e.Try != "" {
		s += "; " + e.Try
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Failed makes an error that ends with code 1.
func Failed(err error, try, what string, args ...any) error {
	return &Error{Code: CodeFailed, What: fmt.Sprintf(what, args...), Try: try, Err: err}
}

// Usage makes an error that ends with code 2.
func Usage(what string, args ...any) error {
	return &Error{Code: CodeUsage, What: fmt.Sprintf(what, args...), Try: "see --help"}
}

// TimedOut makes an error that ends with code 4.
func TimedOut(what string, args ...any) error {
	return &Error{Code: CodeTimedOut, What: fmt.Sprintf(what, args...)}
}

// ErrProblems ends a command that ran well and whose output tells of problems. Nothing more is printed.
var ErrProblems = &Error{Code: CodeProblems, What: "problems found"}

// Code is the exit code of an error.
func Code(err error) int {
	var e *Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled):
		return CodeInterrupted
	}
	return CodeFailed
}

// API explains an error of a call to the Kubernetes API: what was attempted, and what the usual causes are.
func API(err error, what string, args ...any) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	var dns *net.DNSError
	var op *net.OpError
	try := ""
	switch {
	case apierrors.IsForbidden(err):
		try = "ask for the right named above, or use another --context"
	case apierrors.IsUnauthorized(err):
		try = "log in again: the credentials of this context are not accepted"
	case errors.As(err, &dns), errors.As(err, &op), errors.Is(err, context.DeadlineExceeded):
		try = "is the cluster up? check --kubeconfig, --context and the network"
	}
	return Failed(err, try, what, args...)
}
