package mtls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// Names of the files in a directory of credentials.
const (
	CAFile   = "ca.crt"
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
)

// backdate lets a fresh certificate be valid on hosts whose clocks are somewhat behind.
const backdate = 10 * time.Minute

var clusterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$`)

// Authority signs the certificates of one cluster.
type Authority struct {
	cluster string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// NewAuthority makes a self-signed authority. cluster names it in every certificate: 1 to 63 letters, digits, dots and hyphens.
func NewAuthority(cluster string, validity time.Duration) (*Authority, error) {
	if !clusterName.MatchString(cluster) {
		return nil, fmt.Errorf("authority: cluster name %q: want 1 to 63 letters, digits, dots and hyphens", cluster)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("authority of %s: %w", cluster, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "IOMesh " + cluster, Organization: []string{"iomesh"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("authority of %s: %w", cluster, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("authority of %s: %w", cluster, err)
	}
	return &Authority{cluster: cluster, cert: cert, key: key}, nil
}

// LoadAuthority reads what CertPEM and KeyPEM returned.
func LoadAuthority(cluster string, certPEM, keyPEM []byte) (*Authority, error) {
	cb, _ := pem.Decode(certPEM)
	kb, _ := pem.Decode(keyPEM)
	if cb == nil || kb == nil {
		return nil, errors.New("authority: certificate or key is not PEM")
	}
	cert, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, fmt.Errorf("authority certificate: %w", err)
	}
	key, err := x509.ParseECPrivateKey(kb.Bytes)
	if err != nil {
		return nil, fmt.Errorf("authority key: %w", err)
	}
	if !cert.IsCA || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("authority: the certificate is not of an authority with this key")
	}
	return &Authority{cluster: cluster, cert: cert, key: key}, nil
}

// Cluster is the name given to NewAuthority.
func (a *Authority) Cluster() string { return a.cluster }

// NotAfter is the end of the authority's validity.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// CertPEM is the authority's certificate: ca.crt of every component.
func (a *Authority) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// KeyPEM is the authority's private key. It belongs to the issuer alone.
func (a *Authority) KeyPEM() ([]byte, error) { return keyPEM(a.key) }

// IssueAll issues a certificate of each role and writes them to DIR/ROLE, for clusters that look after themselves: development and tests.
func (a *Authority) IssueAll(dir string, hosts []string, validity time.Duration) error {
	for _, role := range Roles() {
		leaf, err := a.Issue(LeafOptions{Role: role, Hosts: hosts, Validity: validity})
		if err != nil {
			return err
		}
		if err := leaf.Write(filepath.Join(dir, string(role))); err != nil {
			return err
		}
	}
	return nil
}

// LeafOptions says what a certificate is for.
type LeafOptions struct {
	Role     Role
	Name     string   // common name, for people; empty = the role
	Hosts    []string // IP addresses and DNS names to add
	Validity time.Duration
}

// Leaf is a component's credentials in PEM.
type Leaf struct{ CA, Cert, Key []byte }

// Issue makes a key and signs a certificate for it, usable as client and server.
func (a *Authority) Issue(o LeafOptions) (Leaf, error) {
	if !slices.Contains(Roles(), o.Role) {
		return Leaf{}, fmt.Errorf("issue certificate: role %q is not one of %v", o.Role, Roles())
	}
	fail := func(err error) (Leaf, error) {
		return Leaf{}, fmt.Errorf("issue certificate for role %s: %w", o.Role, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	serial, err := newSerial()
	if err != nil {
		return fail(err)
	}
	if o.Name == "" {
		o.Name = string(o.Role)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: o.Name, Organization: []string{"iomesh"}},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(o.Validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:         []*url.URL{{Scheme: "iomesh", Host: a.cluster, Path: "/" + string(o.Role)}},
		DNSNames:     []string{o.Role.DNSName()},
	}
	if tmpl.NotAfter.After(a.cert.NotAfter) {
		tmpl.NotAfter = a.cert.NotAfter
	}
	for _, h := range o.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return fail(err)
	}
	kp, err := keyPEM(key)
	if err != nil {
		return fail(err)
	}
	return Leaf{CA: a.CertPEM(), Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Key: kp}, nil
}

// Write stores the credentials in dir (mode 0700), each file replaced as a whole, the key readable by its owner only.
func (l Leaf) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{{CAFile, l.CA, 0o644}, {KeyFile, l.Key, 0o600}, {CertFile, l.Cert, 0o644}} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path+".new", f.data, f.mode); err != nil {
			return fmt.Errorf("write credentials: %w", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("write credentials: %w", err)
		}
	}
	return nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("certificate serial number: %w", err)
	}
	return n, nil
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
