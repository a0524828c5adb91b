package controller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/operator/storage"
)

// Dialer connects by gRPC and keeps one connection, made anew when endpoints or credentials change. Safe for concurrent use.
type Dialer struct {
	// Dir is a private directory for the credentials.
	Dir string

	mu     sync.Mutex
	client *storage.Client
	wrote  [sha256.Size]byte
}

// Connect returns the connection to the members. It does not wait for it to be up.
func (d *Dialer) Connect(endpoints string, credentials *corev1.Secret) (Storage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	leaf := mtls.Leaf{CA: credentials.Data[mtls.CAFile], Cert: credentials.Data[mtls.CertFile], Key: credentials.Data[mtls.KeyFile]}
	h := sha256.New()
	for _, part := range [][]byte{leaf.CA, leaf.Cert, leaf.Key} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	sum := [sha256.Size]byte(h.Sum(nil))
	if d.client != nil && d.client.Endpoints() == endpoints && sum == d.wrote {
		return d.client, nil
	}
	dir := filepath.Join(d.Dir, "credentials")
	if err := leaf.Write(dir); err != nil {
		return nil, err
	}
	source, err := mtls.Load(dir)
	if err != nil {
		return nil, err
	}
	next, err := storage.New(endpoints, source)
	if err != nil {
		return nil, err
	}
	if d.client != nil {
		d.client.Close()
	}
	d.client, d.wrote = next, sum
	return next, nil
}

// Joined implements Connector over a connection of its own.
func (d *Dialer) Joined(ctx context.Context, endpoint string, credentials *corev1.Secret) (bool, error) {
	one := Dialer{Dir: filepath.Join(d.Dir, "joined")}
	if _, err := one.Connect(endpoint, credentials); err != nil {
		return false, err
	}
	joined, err := one.client.Joined(ctx)
	return joined, errors.Join(err, one.Close())
}

// Close ends the connection and removes the credentials.
func (d *Dialer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client != nil {
		d.client.Close()
		d.client = nil
	}
	return os.RemoveAll(filepath.Join(d.Dir, "credentials"))
}
