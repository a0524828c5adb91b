package certs

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/mtls"
)

// Validity of what is issued.
const (
	AuthorityValidity = 10 * 365 * 24 * time.Hour
	LeafValidity      = 365 * 24 * time.Hour
	// renewAt is the part of a leaf's validity after which it is made anew.
	renewAtNumerator, renewAtDenominator = 2, 3
)

// Keys in the Secret of the authority.
const (
	KeyAuthority = "ca.key"
	KeyClusterID = "clusterID"
)

// Wanted is a certificate that must exist.
type Wanted struct {
	Secret string
	Role   mtls.Role
	Hosts  []string // IP addresses that the certificate must name
}

// Set lists the certificates of a cluster with the given addresses of metadata members.
func Set(metaAddresses []string) []Wanted {
	hosts := slices.Clone(metaAddresses)
	slices.Sort(hosts)
	return []Wanted{
		{v1alpha1.SecretMetaTLS, mtls.RoleMeta, append(hosts, "127.0.0.1")},
		{v1alpha1.SecretChunkTLS, mtls.RoleChunk, nil},
		{v1alpha1.SecretNodeTLS, mtls.RoleNode, nil},
		{v1alpha1.SecretControllerTLS, mtls.RoleController, nil},
		{v1alpha1.SecretAdminTLS, mtls.RoleAdmin, nil},
	}
}

// NewAuthority makes the content of the Secret iomesh-ca.
func NewAuthority(clusterID string) (map[string][]byte, error) {
	a, err := mtls.NewAuthority(clusterID, AuthorityValidity)
	if err != nil {
		return nil, err
	}
	key, err := a.KeyPEM()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{mtls.CAFile: a.CertPEM(), KeyAuthority: key, KeyClusterID: []byte(clusterID)}, nil
}

// LoadAuthority reads the Secret iomesh-ca.
func LoadAuthority(s *corev1.Secret) (*mtls.Authority, error) {
	id := string(s.Data[KeyClusterID])
	if id == "" {
		return nil, fmt.Errorf("secret %s/%s has no %s: it is not one that the operator made; restore it from a backup", s.Namespace, s.Name, KeyClusterID)
	}
	a, err := mtls.LoadAuthority(id, s.Data[mtls.CAFile], s.Data[KeyAuthority])
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w; restore it from a backup", s.Namespace, s.Name, err)
	}
	return a, nil
}

// WhyIssue says why a certificate must be made (anew); empty: the one in the Secret is good. s may be nil.
func WhyIssue(s *corev1.Secret, a *mtls.Authority, w Wanted, now time.Time) string {
	if s == nil {
		return "it does not exist"
	}
	leaf, err := parse(s.Data[mtls.CertFile])
	if err != nil {
		return err.Error()
	}
	id, err := mtls.IdentityOf(leaf)
	switch {
	case err != nil:
		return err.Error()
	case id.Cluster != a.Cluster() || id.Role != w.Role:
		return fmt.Sprintf("it is for %s of the cluster %s", id.Role, id.Cluster)
	case string(s.Data[mtls.CAFile]) != string(a.CertPEM()):
		return "it is of another authority"
	case len(s.Data[mtls.KeyFile]) == 0:
		return "its key is missing"
	}
	for _, h := range w.Hosts {
		if leaf.VerifyHostname(h) != nil {
			return "it does not name " + h
		}
	}
	if renew := RenewAt(leaf); !now.Before(renew) {
		return fmt.Sprintf("it ends at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return ""
}

// RenewAt is when a certificate is made anew.
func RenewAt(leaf *x509.Certificate) time.Time {
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / renewAtDenominator * renewAtNumerator)
}

// Issue makes the content of a certificate's Secret.
func Issue(a *mtls.Authority, w Wanted) (map[string][]byte, error) {
	leaf, err := a.Issue(mtls.LeafOptions{Role: w.Role, Name: w.Secret, Hosts: w.Hosts, Validity: LeafValidity})
	if err != nil {
		return nil, err
	}
	return map[string][]byte{mtls.CAFile: leaf.CA, mtls.CertFile: leaf.Cert, mtls.KeyFile: leaf.Key}, nil
}

func parse(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("it holds no certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	return cert, nil
}
