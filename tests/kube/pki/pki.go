// Package pki issues the certificates of the test cluster: one authority,
// ECDSA P-256 keys, valid for a year, as files NAME.crt and NAME.key in one
// directory, and kubeconfigs NAME.kubeconfig that use them. Nothing here is
// fit for anything but a throw-away cluster: the authority's key lies beside
// the rest.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime of every certificate.
const lifetime = 365 * 24 * time.Hour

// Authority signs certificates into its directory.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Leaf describes one certificate.
type Leaf struct {
	Name         string // file name without extension
	CommonName   string // user name, for the API server
	Organization string // group, may be empty
	Server       bool   // may serve TLS as DNSNames and IPs
	DNSNames     []string
	IPs          []net.IP
}

// Open returns the authority kept in dir; it makes one if there is none.
func Open(dir string) (*Authority, error) {
	a := &Authority{dir: dir}
	certPEM, err := os.ReadFile(a.path("ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return a, a.create()
	}
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(a.path("ca.key"))
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	certDER, _ := pem.Decode(certPEM)
	keyDER, _ := pem.Decode(keyPEM)
	if certDER == nil || keyDER == nil {
		return nil, fmt.Errorf("open certificate authority in %s: not PEM; remove the directory", dir)
	}
	if a.cert, err = x509.ParseCertificate(certDER.Bytes); err != nil {
		return nil, fmt.Errorf("open certificate authority in %s: %w", dir, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keyDER.Bytes)
	if err != nil {
		return nil, fmt.Errorf("open certificate authority in %s: %w", dir, err)
	}
	var ok bool
	if a.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return nil, fmt.Errorf("open certificate authority in %s: key is %T, want ECDSA", dir, key)
	}
	return a, nil
}

func (a *Authority) create() error {
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return fmt.Errorf("create certificate authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("create certificate authority: %w", err)
	}
	t := template(pkix.Name{CommonName: "iomesh-test-ca"})
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return fmt.Errorf("create certificate authority: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("create certificate authority: %w", err)
	}
	a.key = key
	// The certificate last: its presence says that the authority is complete.
	if err := a.writeKey("ca.key", key); err != nil {
		return err
	}
	return a.writePEM("ca.crt", "CERTIFICATE", der)
}

// Issue writes a key and a certificate. What exists is left alone.
func (a *Authority) Issue(l Leaf) error {
	if _, err := os.Stat(a.path(l.Name + ".crt")); err == nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", l.Name, err)
	}
	subject := pkix.Name{CommonName: l.CommonName}
	if l.Organization != "" {
		subject.Organization = []string{l.Organization}
	}
	t := template(subject)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if l.Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		t.DNSNames, t.IPAddresses = l.DNSNames, l.IPs
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", l.Name, err)
	}
	if err := a.writeKey(l.Name+".key", key); err != nil {
		return err
	}
	return a.writePEM(l.Name+".crt", "CERTIFICATE", der)
}

// SigningKey writes a key pair NAME.key and NAME.pub without a certificate,
// for service account tokens. What exists is left alone.
func (a *Authority) SigningKey(name string) error {
	if _, err := os.Stat(a.path(name + ".pub")); err == nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key %s: %w", name, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("make key %s: %w", name, err)
	}
	if err := a.writeKey(name+".key", key); err != nil {
		return err
	}
	return a.writePEM(name+".pub", "PUBLIC KEY", der)
}

// Kubeconfig writes NAME.kubeconfig, which talks to server (a URL) with the
// certificate NAME, everything embedded.
func (a *Authority) Kubeconfig(name, server string) error {
	data := map[string]string{}
	for _, f := range []string{"ca.crt", name + ".crt", name + ".key"} {
		b, err := os.ReadFile(a.path(f))
		if err != nil {
			return fmt.Errorf("write kubeconfig %s: %w", name, err)
		}
		data[f] = base64.StdEncoding.EncodeToString(b)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: iomesh-test
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: %s
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: iomesh-test
  context: {cluster: iomesh-test, user: %s}
current-context: iomesh-test
`, server, data["ca.crt"], name, data[name+".crt"], data[name+".key"], name)
	return a.write(name+".kubeconfig", []byte(text))
}

func (a *Authority) path(file string) string { return filepath.Join(a.dir, file) }

func (a *Authority) writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key %s: %w", file, err)
	}
	return a.writePEM(file, "PRIVATE KEY", der)
}

func (a *Authority) writePEM(file, kind string, der []byte) error {
	return a.write(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// write replaces a file at once, so that a crash leaves the old or the new.
func (a *Authority) write(file string, b []byte) error {
	tmp := a.path("." + file)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.Rename(tmp, a.path(file)); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// template holds what all certificates share. They are valid from an hour
// ago, for machines whose clock is set while the cluster comes up.
func template(subject pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(fmt.Sprintf("read random bytes: %v", err)) // crypto/rand never fails on Linux
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(lifetime)}
}
