// Package rpc opens the gRPC connections between the parts of the block service.
//
// Such a connection has to be usable again at once when a node is back. TCP alone does not see to that: what it sent into a cut it sends again after
// ever longer times, and after a cut of a minute the next attempt may be another minute away, while everything that uses the connection waits. So a
// connection ends when the other side has acknowledged nothing for Silence (TCP_USER_TIMEOUT, tcp(7); on Linux), and is made anew at short intervals.
package rpc

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Windows of flow control: what one side may send before the other says that it has taken it. They are fixed, because gRPC's own estimate of what a
// line can carry pings the other side for every burst of data; two messages and two wake-ups more for each heartbeat.
const (
	streamWindow     = 1 << 20
	connectionWindow = 4 << 20
)

// DialOptions are what the client's side of every gRPC connection has.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connectionWindow)}
}

// ServerOptions are what every gRPC server has.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connectionWindow)}
}

// Silence is how long data may go unacknowledged before a connection ends.
const Silence = 2 * time.Second

// Options of a connection. The zero value is a connection in the clear with the usual times.
type Options struct {
	// Credentials of the client; nil: none.
	Credentials credentials.TransportCredentials
	// MaxDelay bounds the time between attempts to connect; 0: a second.
	MaxDelay time.Duration
	// Dial takes the place of TCP, in simulations.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Connect returns a connection to a host:port, which is made when it is first used and made again whenever it breaks. The caller closes it.
func Connect(address string, o Options) (*grpc.ClientConn, error) {
	if o.Credentials == nil {
		o.Credentials = insecure.NewCredentials()
	}
	if o.MaxDelay == 0 {
		o.MaxDelay = time.Second
	}
	if o.Dial == nil {
		o.Dial = Dial
	}
	cc, err := grpc.NewClient("passthrough:///"+address, append(DialOptions(), grpc.WithTransportCredentials(o.Credentials), grpc.WithContextDialer(o.Dial),
		// A part that restarts is back within a second: ask often.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: o.MaxDelay},
			MinConnectTimeout: time.Second,
		}))...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return cc, nil
}

// Dial opens a TCP connection that ends after Silence.
func Dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Control: endInSilence}
	return d.DialContext(ctx, "tcp", address)
}
