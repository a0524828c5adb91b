package meta

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/iomesh/iomesh/internal/mtls"
)

// conns keeps one gRPC connection per address and role. Safe for concurrent use.
type conns struct {
	tls  *mtls.Source                                                // nil = plain
	dial func(ctx context.Context, address string) (net.Conn, error) // nil = TCP

	mu    sync.Mutex
	conns map[connKey]*grpc.ClientConn
}

type connKey struct {
	address string
	role    mtls.Role
}

// connsMax bounds the connections kept; addresses of chunks that moved are dropped with all others then.
const connsMax = 1024

func newConns(tls *mtls.Source) *conns {
	return &conns{tls: tls, conns: map[connKey]*grpc.ClientConn{}}
}

// to returns the connection to a component of a role; it is made when first used.
func (c *conns) to(address string, role mtls.Role) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := connKey{address, role}
	if cc := c.conns[key]; cc != nil {
		return cc, nil
	}
	if len(c.conns) >= connsMax {
		c.closeLocked()
	}
	var creds credentials.TransportCredentials = insecure.NewCredentials()
	if c.tls != nil {
		creds = c.tls.ClientCredentials(role)
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(creds),
		// A component that restarts is back within a second: ask often.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		})}
	if c.dial != nil {
		opts = append(opts, grpc.WithContextDialer(c.dial))
	}
	cc, err := grpc.NewClient("passthrough:///"+address, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s at %s: %w", role, address, err)
	}
	c.conns[key] = cc
	return cc, nil
}

func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked()
}

func (c *conns) closeLocked() {
	for key, cc := range c.conns {
		_ = cc.Close()
		delete(c.conns, key)
	}
}
