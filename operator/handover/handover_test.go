package handover

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/operator/certs"
)

func TestCopy(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).Build()
	dir := t.TempDir()
	copier := &Copier{Reader: c, Namespace: "s", Dir: dir, Log: slog.New(slog.DiscardHandler)}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return ""
		}
		return string(data)
	}

	if err := copier.Copy(t.Context()); err != nil {
		t.Fatalf("with nothing there: %v", err)
	}
	if read(MetaFile) != "" {
		t.Fatal("endpoints appeared from nowhere")
	}

	a, err := mtls.NewAuthority("cluster-1", certs.AuthorityValidity)
	if err != nil {
		t.Fatal(err)
	}
	issue := func() map[string][]byte {
		data, err := certs.Issue(a, certs.Wanted{Secret: "x", Role: mtls.RoleController})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SecretControllerTLS, Namespace: "s"}, Data: issue()}
	endpoints := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.ConfigMapEndpoints, Namespace: "s"}, Data: map[string]string{"meta": "10.0.0.1:10100", "clusterID": "id"}}
	if err := c.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), endpoints); err != nil {
		t.Fatal(err)
	}
	if err := copier.Copy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if read(MetaFile) != "10.0.0.1:10100" || read(ClusterIDFile) != "id" {
		t.Errorf("endpoints %q of cluster %q", read(MetaFile), read(ClusterIDFile))
	}
	source, err := mtls.Load(filepath.Join(dir, TLSDir))
	if err != nil {
		t.Fatal(err)
	}
	if id := source.Identity(); id.Role != mtls.RoleController || id.Cluster != "cluster-1" {
		t.Errorf("credentials of %+v", id)
	}

	// A renewed certificate and moved members arrive; an incomplete Secret changes nothing and is named.
	secret.Data = issue()
	endpoints.Data["meta"] = "10.0.0.2:10100"
	if err := c.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context(), endpoints); err != nil {
		t.Fatal(err)
	}
	if err := copier.Copy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if read(MetaFile) != "10.0.0.2:10100" || read(TLSDir+"/tls.crt") != string(secret.Data["tls.crt"]) {
		t.Error("the change was not copied")
	}
	before := read(TLSDir + "/tls.key")
	delete(secret.Data, "tls.key")
	if err := c.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if err := copier.Copy(t.Context()); err == nil || read(TLSDir+"/tls.key") != before {
		t.Errorf("an incomplete Secret: error %v", err)
	}
}
