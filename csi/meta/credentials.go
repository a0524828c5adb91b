package meta

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"

	"github.com/iomesh/iomesh/internal/mtls"
)

// Credentials authenticate the driver to the meta members with the certificate in a directory. The directory may still be empty when
// the driver starts (the operator fills it once there is a cluster): until then connections fail, and nothing else. Safe for concurrent use.
type Credentials struct {
	dir string

	mu    sync.Mutex
	ready credentials.TransportCredentials
	id    string
}

// NewCredentials reads dir when a connection is made.
func NewCredentials(dir string) *Credentials { return &Credentials{dir: dir} }

func (c *Credentials) load() (credentials.TransportCredentials, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ready == nil {
		source, err := mtls.Load(c.dir)
		if err != nil {
			return nil, "", fmt.Errorf("there is no certificate yet: %w", err)
		}
		// The source follows renewals by itself.
		c.ready, c.id = source.ClientCredentials(mtls.RoleMeta), source.Identity().Cluster
	}
	return c.ready, c.id, nil
}

// ClusterID is the cluster that our certificate was issued for.
func (c *Credentials) ClusterID() (string, error) {
	_, id, err := c.load()
	return id, err
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *Credentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	ready, _, err := c.load()
	if err != nil {
		return nil, nil, err
	}
	return ready.ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials. The driver is never a server of this kind.
func (c *Credentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("credentials of a client only")
}

// Info implements credentials.TransportCredentials.
func (c *Credentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (c *Credentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials. Peers are checked by role, not by name.
func (c *Credentials) OverrideServerName(string) error { return nil }
