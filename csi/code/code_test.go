package code

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestEveryKindAndEveryPeerCodeHasACode(t *testing.T) {
	for k := Invalid; k <= Internal; k++ {
		if c, ok := ofKind[k]; !ok || c == codes.OK {
			t.Errorf("kind %d is not in the table", k)
		}
	}
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		if got, ok := ofPeer[c]; !ok || got == codes.OK {
			t.Errorf("code %s of the block service is not in the table", c)
		}
	}
}

func TestOf(t *testing.T) {
	peer := status.Error(codes.ResourceExhausted, "pool is full")
	for _, tc := range []struct {
		name string
		err  error
		want codes.Code
		text string
	}{
		{"a kind of ours wins over the peer's code", &Error{InUse, peer}, codes.FailedPrecondition, "pool is full"},
		{"a wrapped peer error keeps its code and loses gRPC's words", fmt.Errorf("create volume a: %w", peer), codes.ResourceExhausted, "create volume a: pool is full"},
		{"a refused role is our own fault", status.Error(codes.PermissionDenied, "role node"), codes.Internal, "role node"},
		{"a context that ended", fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "x: context deadline exceeded"},
		{"anything else", errors.New("x"), codes.Internal, "x"},
		{"an unknown kind", &Error{Kind(99), errors.New("x")}, codes.Internal, "x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st, _ := status.FromError(Status(tc.err))
			if st.Code() != tc.want || st.Message() != tc.text {
				t.Errorf("%v %q, want %v %q", st.Code(), st.Message(), tc.want, tc.text)
			}
		})
	}
	if Status(nil) != nil {
		t.Error("nil became an error")
	}
}
