package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Role is what a component is, as its certificate says.
type Role string

// Roles of the components.
const (
	RoleMeta       Role = "meta"
	RoleChunk      Role = "chunk"
	RoleNode       Role = "node"       // agent, CSI node, login redirector
	RoleController Role = "controller" // operator, CSI controller
	RoleAdmin      Role = "admin"      // command line
)

// Roles lists all roles.
func Roles() []Role { return []Role{RoleMeta, RoleChunk, RoleNode, RoleController, RoleAdmin} }

// DNSName is the role as a DNS name, for etcd, which checks only those.
func (r Role) DNSName() string { return string(r) + ".iomesh.internal" }

// Identity is what a certificate says of its holder.
type Identity struct {
	Cluster string
	Role    Role
}

// IdentityOf reads the URI name of a certificate. It verifies nothing.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	for _, u := range cert.URIs {
		if u.Scheme != "iomesh" {
			continue
		}
		role := Role(strings.TrimPrefix(u.Path, "/"))
		if u.Host == "" || !slices.Contains(Roles(), role) {
			return Identity{}, fmt.Errorf("certificate of %q names the unknown identity %q", cert.Subject.CommonName, u)
		}
		return Identity{Cluster: u.Host, Role: role}, nil
	}
	return Identity{}, fmt.Errorf("certificate of %q names no IOMesh role", cert.Subject.CommonName)
}

// PeerIdentity is the identity of the verified peer of a connection made with a configuration of this package.
func PeerIdentity(cs tls.ConnectionState) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, errors.New("the peer sent no certificate")
	}
	return IdentityOf(cs.PeerCertificates[0])
}

// PeerError says that a peer is not who it should be.
type PeerError struct {
	Address  string // of the peer; empty where the transport does not tell it
	Expected []Role
	Actual   Role  // empty if the certificate names none or is not trusted
	Err      error // why the certificate is not trusted, nil if only the role is wrong
}

func (e *PeerError) Error() string {
	peer := "peer"
	if e.Address != "" {
		peer += " " + e.Address
	}
	if e.Err != nil {
		return fmt.Sprintf("%s, expected role %s: certificate refused: %v", peer, join(e.Expected), e.Err)
	}
	return fmt.Sprintf("%s has role %s, expected %s: check which certificate its --tls-dir holds", peer, e.Actual, join(e.Expected))
}

func (e *PeerError) Unwrap() error { return e.Err }

func join(roles []Role) string {
	s := make([]string, len(roles))
	for i, r := range roles {
		s[i] = string(r)
	}
	return strings.Join(s, " or ")
}
