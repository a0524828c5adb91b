package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/controller"
)

func tree(t *testing.T, root string, files ...string) {
	t.Helper()
	for _, f := range files {
		path := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestCleanHost(t *testing.T) {
	for name, tc := range map[string]struct {
		keep bool
		left []string
		gone []string
	}{
		"everything goes":          {false, []string{"lib/other/file"}, []string{"lib/iomesh", "run/iomesh"}},
		"the members' state stays": {true, []string{"lib/other/file", "lib/iomesh/meta/c/0/db"}, []string{"run/iomesh", "lib/iomesh/disks", "lib/iomesh/meta/other"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			tree(t, root, "lib/other/file", "lib/iomesh/disks/a.json", "lib/iomesh/meta/c/0/db", "lib/iomesh/meta/other/0/db", "run/iomesh/agent.sock")
			lib, run := filepath.Join(root, "lib/iomesh"), filepath.Join(root, "run/iomesh")
			for range 2 { // again, as after a crash
				if err := cleanHost(lib, run, "c", tc.keep); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range tc.left {
				if !exists(filepath.Join(root, f)) {
					t.Errorf("%s is gone", f)
				}
			}
			for _, f := range tc.gone {
				if exists(filepath.Join(root, f)) {
					t.Errorf("%s is still there", f)
				}
			}
		})
	}
}

func TestCleanHostRefusesOtherDirectories(t *testing.T) {
	root := t.TempDir()
	tree(t, root, "lib/precious", "iomesh/x")
	for _, lib := range []string{filepath.Join(root, "lib"), "iomesh", "", "/"} {
		if err := cleanHost(lib, filepath.Join(root, "iomesh"), "c", false); err == nil || !strings.Contains(err.Error(), "--lib") {
			t.Errorf("%q: %v", lib, err)
		}
	}
	if !exists(filepath.Join(root, "lib/precious")) || !exists(filepath.Join(root, "iomesh/x")) {
		t.Error("something was erased all the same")
	}
}

// stub is metadata members with some volumes.
type stub struct {
	controller.Storage
	volumes []*storagedv1.Volume
}

func (stub) Joined(context.Context, string, *corev1.Secret) (bool, error) { return false, nil }

func (s stub) Connect(string, *corev1.Secret) (controller.Storage, error) { return s, nil }

func (s stub) Volumes(context.Context) ([]*storagedv1.Volume, error) { return s.volumes, nil }

func TestPreDelete(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	world := func(finalizers ...string) client.Client {
		cluster := &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "iomesh", Namespace: "s", Finalizers: finalizers}}
		cluster.Status.AttachedDevices = []v1alpha1.AttachedDevice{{Device: "bd"}}
		cluster.Status.TaskInProcess = "2 pods end"
		return fake.NewClientBuilder().WithScheme(scheme).WithObjects(cluster,
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.ConfigMapEndpoints, Namespace: "s"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SecretControllerTLS, Namespace: "s"}}).Build()
	}
	get := func(c client.Client) (*v1alpha1.IOMeshCluster, error) {
		var cluster v1alpha1.IOMeshCluster
		err := c.Get(t.Context(), client.ObjectKey{Namespace: "s", Name: "iomesh"}, &cluster)
		return &cluster, err
	}

	c := world()
	err := preDelete(t.Context(), c, stub{volumes: []*storagedv1.Volume{{Name: "pvc-1"}}}, "s", func(string) {})
	if err == nil || !strings.Contains(err.Error(), "pvc-1") {
		t.Errorf("with a volume: %v", err)
	}
	if cluster, err := get(c); err != nil || cluster.DeletionTimestamp != nil {
		t.Errorf("a refused deletion was begun: %v", err)
	}

	var said []string
	if err := preDelete(t.Context(), c, stub{}, "s", func(s string) { said = append(said, s) }); err != nil {
		t.Errorf("without volumes: %v", err)
	}
	if _, err := get(c); !apierrors.IsNotFound(err) || len(said) == 0 {
		t.Errorf("not deleted (%v), or nothing said: %v", err, said)
	}

	c = world(v1alpha1.FinalizerCluster)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := preDelete(ctx, c, stub{}, "s", func(string) {}); err == nil || !strings.Contains(err.Error(), "2 pods end") {
		t.Errorf("a deletion that does not end must say what it waits for: %v", err)
	}
}

func TestFlagsAreChecked(t *testing.T) {
	good := runOptions{namespace: "s", image: "i", poll: time.Second, podPolicy: "no-delete-pod", podLatency: 90 * time.Second}
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(*runOptions){
		"--namespace":          func(o *runOptions) { o.namespace = "" },
		"--image":              func(o *runOptions) { o.image = "" },
		"--poll":               func(o *runOptions) { o.poll = time.Millisecond },
		"--pod-delete-policy":  func(o *runOptions) { o.podPolicy = "delete-everything" },
		"--pod-delete-latency": func(o *runOptions) { o.podLatency = time.Second },
	} {
		o := good
		edit(&o)
		if err := o.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}
