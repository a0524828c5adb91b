package metadb

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// passing reports whether err is of the kind that goes away by itself: no leader, a member that is down or slow.
// It is false for wrong requests and refused credentials, so that those are not retried in silence.
func passing(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	var coder interface{ Code() codes.Code } // etcd's own error type
	code := codes.Unknown
	if errors.As(err, &coder) {
		code = coder.Code()
	} else if s, ok := status.FromError(err); ok {
		code = s.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return true
	}
	// The in-process client of an embedded member returns the server's errors as they are.
	return code == codes.Unknown && errors.Unwrap(err) == nil
}

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }
