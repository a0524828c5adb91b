// Package handover copies what the pod's containers need to reach the metadata members from Kubernetes into a directory that
// they share: each replica of iomesh-controller does it for its own pod, leader or not.
//
//	<dir>/tls/ca.crt, tls.crt, tls.key     Secret iomesh-controller-tls
//	<dir>/meta                             host:port,host:port,…   ConfigMap iomesh-endpoints
//	<dir>/clusterID
//
// A mounted Secret would appear in a running pod only after the kubelet's next look, up to two minutes after the operator of
// this very pod has made it. Files are replaced as a whole; meta is written last, so whoever finds it finds the rest.
package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/mtls"
)

// Names below the directory.
const (
	TLSDir        = "tls"
	MetaFile      = "meta"
	ClusterIDFile = "clusterID"
)

const interval = 2 * time.Second

// Copier copies for one namespace. It is a manager's runnable that needs no leadership.
type Copier struct {
	Reader    client.Reader
	Namespace string
	Dir       string
	Log       *slog.Logger
}

// NeedLeaderElection says that every replica runs it.
func (c *Copier) NeedLeaderElection() bool { return false }

// Start copies until ctx ends. What does not exist yet is waited for.
func (c *Copier) Start(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	last := ""
	for {
		err := c.Copy(ctx)
		switch {
		case err == nil:
			last = ""
		case ctx.Err() == nil && err.Error() != last:
			last = err.Error()
			c.Log.Warn("copy credentials and endpoints", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Copy copies once. Nothing to copy yet is no error.
func (c *Copier) Copy(ctx context.Context) error {
	var secret corev1.Secret
	var endpoints corev1.ConfigMap
	for name, obj := range map[string]client.Object{v1alpha1.SecretControllerTLS: &secret, v1alpha1.ConfigMapEndpoints: &endpoints} {
		err := c.Reader.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, obj)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s/%s: %w", c.Namespace, name, err)
		}
	}
	if err := c.credentials(&secret); err != nil {
		return err
	}
	if err := replace(filepath.Join(c.Dir, ClusterIDFile), endpoints.Data[v1alpha1.EndpointsKeyCluster]); err != nil {
		return err
	}
	return replace(filepath.Join(c.Dir, MetaFile), endpoints.Data[v1alpha1.EndpointsKeyMeta])
}

func (c *Copier) credentials(secret *corev1.Secret) error {
	dir := filepath.Join(c.Dir, TLSDir)
	leaf := mtls.Leaf{CA: secret.Data[mtls.CAFile], Cert: secret.Data[mtls.CertFile], Key: secret.Data[mtls.KeyFile]}
	if len(leaf.CA) == 0 || len(leaf.Cert) == 0 || len(leaf.Key) == 0 {
		return fmt.Errorf("secret %s/%s is incomplete: delete it, and the operator makes it anew", secret.Namespace, secret.Name)
	}
	if same(filepath.Join(dir, mtls.CertFile), leaf.Cert) && same(filepath.Join(dir, mtls.KeyFile), leaf.Key) && same(filepath.Join(dir, mtls.CAFile), leaf.CA) {
		return nil
	}
	return leaf.Write(dir)
}

func same(path string, data []byte) bool {
	old, err := os.ReadFile(path)
	return err == nil && string(old) == string(data)
}

func replace(path, data string) error {
	if same(path, []byte(data)) {
		return nil
	}
	tmp := path + ".new"
	if err := errors.Join(os.WriteFile(tmp, []byte(data), 0o644), os.Rename(tmp, path)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
