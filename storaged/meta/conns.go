package meta

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"

	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/rpc"
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
	o := rpc.Options{Dial: c.dial}
	if c.tls != nil {
		o.Credentials = c.tls.ClientCredentials(role)
	}
	cc, err := rpc.Connect(address, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", role, err)
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
