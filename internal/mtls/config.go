package mtls

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
)

// ServerConfig accepts clients whose certificate is of our cluster's authority and names one of the allowed roles. Usable
// for raw TLS and gRPC (credentials.NewTLS). The configuration follows renewals.
func (s *Source) ServerConfig(allowed ...Role) *tls.Config {
	base := s.serverConfig("", allowed)
	// One configuration per connection, so that errors can name the peer's address.
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		cfg := s.serverConfig(hello.Conn.RemoteAddr().String(), allowed)
		cfg.NextProtos = base.NextProtos
		return cfg, nil
	}
	return base
}

func (s *Source) serverConfig(address string, allowed []Role) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true, // every connection proves its role; and see Leave in the package documentation
		ClientAuth:             tls.RequireAnyClientCert,
		NextProtos:             []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &s.current().cert, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			return s.current().verify(cs, address, allowed)
		},
	}
}

// ClientConfig accepts servers whose certificate is of our cluster's authority and names one of the expected roles, at
// whatever address. Usable for raw TLS, gRPC and etcd clients. The configuration follows renewals.
func (s *Source) ClientConfig(expected ...Role) *tls.Config { return s.clientConfig("", expected) }

func (s *Source) clientConfig(address string, expected []Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The standard check wants the host's name in the certificate; VerifyConnection does the rest of it, and the role.
		InsecureSkipVerify:     true,
		ServerName:             expected[0].DNSName(),
		SessionTicketsDisabled: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &s.current().cert, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			return s.current().verify(cs, address, expected)
		},
	}
}

// ServerCredentials is ServerConfig for grpc.Creds.
func (s *Source) ServerCredentials(allowed ...Role) credentials.TransportCredentials {
	return credentials.NewTLS(s.ServerConfig(allowed...))
}

// ClientCredentials is ClientConfig for grpc.WithTransportCredentials, with errors that name the peer's address.
func (s *Source) ClientCredentials(expected ...Role) credentials.TransportCredentials {
	return &clientCredentials{TransportCredentials: credentials.NewTLS(s.ClientConfig(expected...)), s: s, expected: expected}
}

type clientCredentials struct {
	credentials.TransportCredentials
	s        *Source
	expected []Role
}

func (c *clientCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg := c.s.clientConfig(conn.RemoteAddr().String(), c.expected)
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
}

func (c *clientCredentials) Clone() credentials.TransportCredentials {
	return &clientCredentials{TransportCredentials: c.TransportCredentials.Clone(), s: c.s, expected: c.expected}
}
