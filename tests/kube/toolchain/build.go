package toolchain

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// step is one run of the go command.
type step struct {
	title string
	dir   string   // module, relative to the source
	out   string   // relative to the bin directory; "/" for several programs
	verb  []string // of the go command
	args  []string // packages
}

// Without the version the programs call themselves v0.0.0-master, and the
// version skew checks suffer.
const ldflags = "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=" + KubernetesVersion +
	" -X k8s.io/component-base/version.gitMajor=1" +
	" -X k8s.io/component-base/version.gitMinor=36" +
	" -X k8s.io/component-base/version.gitTreeState=clean" +
	" -X k8s.io/client-go/pkg/version.gitVersion=" + KubernetesVersion

func clusterSteps() []step {
	build := []string{"build"}
	return []step{
		{"containerd", "containerd", "/", build, []string{
			"github.com/containerd/containerd/v2/cmd/containerd",
			"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
			"github.com/containerd/containerd/v2/cmd/ctr"}},
		{"pause", ".", "pause", build, []string{"./pause"}},
		// By name: the program would be called "server".
		{"etcd", ".", "etcd", build, []string{"go.etcd.io/etcd/server/v3"}},
		{"Kubernetes " + KubernetesVersion, ".", "/", build, []string{
			"k8s.io/kubernetes/cmd/kube-apiserver",
			"k8s.io/kubernetes/cmd/kube-controller-manager",
			"k8s.io/kubernetes/cmd/kube-scheduler",
			"k8s.io/kubernetes/cmd/kubelet",
			"k8s.io/kubernetes/cmd/kube-proxy",
			"k8s.io/kubernetes/cmd/kubectl"}},
		{"the CSI sidecars", ".", "/", build, []string{
			"github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher",
			"github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner",
			"github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer",
			"github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter",
			"github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller"}},
		{"helm", ".", "helm", build, []string{"helm.sh/helm/v4/cmd/helm"}},
	}
}

func conformanceSteps() []step {
	return []step{
		{"agnhost and ginkgo", ".", "/", []string{"build"}, []string{"k8s.io/kubernetes/test/images/agnhost", "github.com/onsi/ginkgo/v2/ginkgo"}},
		// Named in tools/go.mod only to pin what it imports: it is a test.
		{"e2e.test", ".", "e2e.test", []string{"test", "-c"}, []string{"k8s.io/kubernetes/test/e2e"}},
	}
}

// sayEvery is how often a long step says that it still runs.
const sayEvery = 20 * time.Second

func build(ctx context.Context, o Options, set Set, steps []step) error {
	for i, s := range steps {
		o.Progress("[%d/%d] building %s", i+1, len(steps), s.title)
		args := append(slices.Clone(s.verb), "-trimpath", "-ldflags", ldflags, "-o", set.Bin+"/"+strings.TrimPrefix(s.out, "/"))
		args = append(args, s.args...)
		start := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := goIn(ctx, filepath.Join(o.Source, s.dir), args...)
			done <- err
		}()
		if err := wait(done, func() {
			o.Progress("[%d/%d] building %s: %s so far", i+1, len(steps), s.title, time.Since(start).Round(time.Second))
		}); err != nil {
			return fmt.Errorf("build %s: %w", s.title, err)
		}
		o.Progress("[%d/%d] built %s in %s", i+1, len(steps), s.title, time.Since(start).Round(time.Second))
	}
	return nil
}

func wait(done <-chan error, say func()) error {
	t := time.NewTicker(sayEvery)
	defer t.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-t.C:
			say()
		}
	}
}

// snapshotModule holds the definitions of the snapshot kinds.
const snapshotModule = "github.com/kubernetes-csi/external-snapshotter/client/v8"

// copyCRDs copies the definitions of the snapshot kinds out of the module
// cache, which may be emptied later.
func copyCRDs(ctx context.Context, source, to string) error {
	if _, err := goIn(ctx, source, "mod", "download", snapshotModule); err != nil {
		return err
	}
	dir, err := goIn(ctx, source, "list", "-m", "-f", "{{.Dir}}", snapshotModule)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(dir), "config", "crd", "*snapshot.storage.k8s.io_*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no definitions of the snapshot kinds in %s: %w", strings.TrimSpace(dir), err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(f)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}
