package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCertificatesServeTheirPurposeOnly(t *testing.T) {
	dir := t.TempDir()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	server := Leaf{Name: "server", CommonName: "s", Server: true, DNSNames: []string{"kubernetes"}, IPs: []net.IP{net.ParseIP("10.89.0.1")}}
	client := Leaf{Name: "client", CommonName: "c", Organization: "system:nodes"}
	for _, l := range []Leaf{server, client} {
		if err := a.Issue(l); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	load := func(name string) *x509.Certificate {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
	asServer := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	asClient := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, name := range []string{"kubernetes", "10.89.0.1"} {
		if _, err := load("server").Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: asServer}); err != nil {
			t.Errorf("server as %s: %v", name, err)
		}
	}
	c := load("client")
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: asClient}); err != nil {
		t.Errorf("client: %v", err)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: asServer}); err == nil {
		t.Error("a client's certificate may serve")
	}
	if c.Subject.CommonName != "c" || len(c.Subject.Organization) != 1 || c.Subject.Organization[0] != "system:nodes" {
		t.Errorf("client is %v", c.Subject)
	}
}

func TestWhatExistsIsKept(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		a, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Issue(Leaf{Name: "x", CommonName: "x"}); err != nil {
			t.Fatal(err)
		}
		if err := a.SigningKey("sa"); err != nil {
			t.Fatal(err)
		}
		if err := a.Kubeconfig("x", "https://10.89.0.1:6443"); err != nil {
			t.Fatal(err)
		}
		now := map[string]string{}
		for _, f := range []string{"ca.crt", "ca.key", "x.crt", "x.key", "sa.pub", "x.kubeconfig"} {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				t.Fatal(err)
			}
			now[f] = string(b)
		}
		if !strings.Contains(now["x.kubeconfig"], "https://10.89.0.1:6443") {
			t.Error("kubeconfig lacks the server")
		}
		if _, err := os.Stat(filepath.Join(dir, "first")); err != nil {
			if err := os.WriteFile(filepath.Join(dir, "first"), []byte(now["ca.crt"]+now["x.crt"]+now["sa.pub"]), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		first, err := os.ReadFile(filepath.Join(dir, "first"))
		if err != nil {
			t.Fatal(err)
		}
		if string(first) != now["ca.crt"]+now["x.crt"]+now["sa.pub"] {
			t.Error("opening the authority again changed its certificates")
		}
	}
}

func TestADamagedAuthorityIsAnError(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"ca.crt", "ca.key"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "not PEM") {
		t.Errorf("error %v", err)
	}
}
