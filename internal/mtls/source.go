package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// recheck is how long the files are trusted to be unchanged.
const recheck = 2 * time.Second

// Source is a directory of credentials, read again when its files change. Safe for concurrent use.
type Source struct {
	dir string

	mu      sync.Mutex
	cur     *material
	checked time.Time
	err     error // of the last failed reload; cur is older then
}

type material struct {
	id    Identity
	cert  tls.Certificate
	pool  *x509.CertPool
	files [3]fileState
}

type fileState struct {
	size    int64
	modTime time.Time
}

// Load reads the credentials in dir.
func Load(dir string) (*Source, error) {
	c, err := read(dir)
	if err != nil {
		return nil, err
	}
	return &Source{dir: dir, cur: c, checked: time.Now()}, nil
}

// Dir is the directory given to Load.
func (s *Source) Dir() string { return s.dir }

// Identity is what our own certificate says.
func (s *Source) Identity() Identity { return s.current().id }

// NotAfter is the end of our own certificate's validity.
func (s *Source) NotAfter() time.Time { return s.current().cert.Leaf.NotAfter }

// ReloadError is why changed files could not be used, or nil. The credentials before the change are in use then.
func (s *Source) ReloadError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Source) current() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.checked) >= recheck {
		s.checked = now
		s.reload()
	}
	return s.cur
}

// Reload looks at the files now.
func (s *Source) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reload()
	return s.err
}

func (s *Source) reload() {
	files, err := stat(s.dir)
	if err == nil && files == s.cur.files {
		s.err = nil
		return
	}
	// A half-written set (a new certificate with the old key) fails here and is read again at the next check.
	c, err := read(s.dir)
	if err != nil {
		s.err = err
		return
	}
	s.cur, s.err = c, nil
}

func stat(dir string) (st [3]fileState, err error) {
	for i, name := range []string{CAFile, CertFile, KeyFile} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return st, fmt.Errorf("credentials: %w", err)
		}
		st[i] = fileState{size: fi.Size(), modTime: fi.ModTime()}
	}
	return st, nil
}

func read(dir string) (*material, error) {
	// The state is taken before the content: a change in between shows as a difference at the next check.
	files, err := stat(dir)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("credentials in %s: %w", dir, err)
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, fmt.Errorf("credentials in %s: %w", dir, err)
		}
	}
	c := &material{cert: cert, pool: x509.NewCertPool(), files: files}
	if !c.pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("credentials: %s holds no certificate", filepath.Join(dir, CAFile))
	}
	if c.id, err = IdentityOf(cert.Leaf); err != nil {
		return nil, fmt.Errorf("credentials in %s: %w", dir, err)
	}
	return c, nil
}

// verify checks a peer's chain against the authorities, its cluster against ours, and its role.
func (c *material) verify(cs tls.ConnectionState, address string, roles []Role) error {
	fail := func(err error) error { return &PeerError{Address: address, Expected: roles, Err: err} }
	if len(cs.PeerCertificates) == 0 {
		return fail(fmt.Errorf("it sent none"))
	}
	leaf := cs.PeerCertificates[0]
	opts := x509.VerifyOptions{Roots: c.pool, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, ic := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(ic)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return fail(err)
	}
	id, err := IdentityOf(leaf)
	if err != nil {
		return fail(err)
	}
	if id.Cluster != c.id.Cluster {
		return fail(fmt.Errorf("it is of cluster %s, ours is %s", id.Cluster, c.id.Cluster))
	}
	if !slices.Contains(roles, id.Role) {
		return &PeerError{Address: address, Expected: roles, Actual: id.Role}
	}
	return nil
}
