package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/iomesh/iomesh/internal/mtls"
)

// MTLS makes a Secure of the credentials of a chunk: both sides must be chunks of the same cluster.
func MTLS(src *mtls.Source) Secure { return mutual{src} }

type mutual struct{ src *mtls.Source }

func (m mutual) Client(ctx context.Context, raw net.Conn, leave bool) (net.Conn, error) {
	if leave {
		_, err := m.src.ConnectPlain(ctx, raw, mtls.RoleChunk)
		return raw, err
	}
	tc := tls.Client(raw, m.src.ClientConfig(mtls.RoleChunk))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS with %s: %w", raw.RemoteAddr(), err)
	}
	return tc, nil
}

func (m mutual) Server(ctx context.Context, raw net.Conn, leave bool) (net.Conn, error) {
	if leave {
		_, err := m.src.AcceptPlain(ctx, raw, mtls.RoleChunk)
		return raw, err
	}
	tc := tls.Server(raw, m.src.ServerConfig(mtls.RoleChunk))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS with %s: %w", raw.RemoteAddr(), err)
	}
	return tc, nil
}
