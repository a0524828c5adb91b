//go:build e2e

// Package e2e holds the end-to-end tests on a real Kubernetes cluster.
package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
	"github.com/iomesh/iomesh/tests/story"
)

const tag = "dev"

// output passes the narrative on to the test's log, line by line, as it happens.
type output struct{ t *testing.T }

func (o output) Write(p []byte) (int, error) { return os.Stdout.Write(p) }

func open(t *testing.T) *lab.Lab {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Open(root, "/tmp/iomesh-e2e", output{t})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestStory is the life of a cluster, and then what a user can do wrong on it.
func TestStory(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	l := open(t)
	if err := l.Up(ctx, lab.Setup{Nodes: 3, DisksPerNode: 1, DiskBytes: 4 << 30, Tag: tag}); err != nil {
		t.Fatal(err)
	}
	if t.Run("without a release", func(t *testing.T) { notInstalled(ctx, t, l) }); t.Failed() {
		return
	}
	if err := story.Tell(ctx, l, tag, 0); err != nil {
		dump(ctx, l)
		t.Fatal(err)
	}
	t.Run("footprint", func(t *testing.T) { footprint(ctx, t, l) })
	t.Run("wrong use", func(t *testing.T) { wrongUse(ctx, t, l) })
}

func dump(ctx context.Context, l *lab.Lab) {
	for _, argv := range [][]string{
		{"kubectl", "get", "pods,pvc,pv,volumeattachment", "-A", "-o", "wide"},
		{"kubectl", "get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"kubectl-iomesh", "status"},
	} {
		_, _ = l.Show(ctx, argv...)
	}
}

// notInstalled: commands on a cluster without IOMesh fail with one clear line.
func notInstalled(ctx context.Context, t *testing.T, l *lab.Lab) {
	fails(ctx, t, l, "status", "kubectl-iomesh", "status")
	fails(ctx, t, l, "no cluster reachable", "kubectl-iomesh", "status", "--server", "https://127.0.0.1:1", "--request-timeout", "3s")
}

// fails demands a non-zero exit and one line that says what is wrong.
func fails(ctx context.Context, t *testing.T, l *lab.Lab, what string, argv ...string) string {
	t.Helper()
	_, err := l.Run(ctx, argv...)
	var ce *lab.CommandError
	if !errors.As(err, &ce) || ce.ExitCode() <= 0 {
		t.Errorf("%s: %s ended without a failure: %v", what, strings.Join(argv, " "), err)
		return ""
	}
	if n := strings.Count(strings.TrimSpace(ce.Output), "\n"); n > 2 || ce.Output == "" {
		t.Errorf("%s: not a clear line: %q", what, ce.Output)
	}
	t.Logf("%s: exit %d: %s", what, ce.ExitCode(), ce.Output)
	return ce.Output
}

// footprint: at most 12 pods from 4 workloads, 15 with the userspace attacher, on three nodes.
func footprint(ctx context.Context, t *testing.T, l *lab.Lab) {
	out, err := l.Kubectl(ctx, "-n", lab.Namespace, "get", "pods", "--no-headers", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(strings.Fields(out)); n > 15 {
		t.Errorf("%d pods:\n%s", n, out)
	}
}

// wrongUse: each mistake is answered by one line that names it.
func wrongUse(ctx context.Context, t *testing.T, l *lab.Lab) {
	values, err := l.Values(tag)
	if err != nil {
		t.Fatal(err)
	}
	fails(ctx, t, l, "install twice", "kubectl-iomesh", "install", "-f", values)
	fails(ctx, t, l, "no such disk", "kubectl-iomesh", "disk", "map", "--mount-type", "dataStoreWithJournal", "--device", "n1:/dev/nosuch", "--confirm", "iomesh")
	for name, c := range map[string]struct{ params, size, want string }{
		"too-large":   {`{replicaFactor: "2"}`, "40Ti", "size"},
		"bad-param":   {`{replicaFactor: "2", compression: "on"}`, "1Gi", "compression"},
		"four-copies": {`{replicaFactor: "4"}`, "1Gi", "replicaFactor"},
	} {
		if err := l.Apply(ctx, `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: `+name+`}
provisioner: com.iomesh.csi-driver
parameters: `+c.params+`
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: `+name+`}
spec: {accessModes: [ReadWriteOnce], storageClassName: `+name+`, resources: {requests: {storage: `+c.size+`}}}
`); err != nil {
			t.Fatal(err)
		}
		if err := l.Until(ctx, time.Minute, "claim "+name+" is refused with the reason", func(ctx context.Context) string {
			out, err := l.Kubectl(ctx, "get", "events", "--field-selector", "involvedObject.name="+name+",type=Warning", "-o", "jsonpath={.items[*].message}")
			if err != nil {
				return err.Error()
			}
			if !strings.Contains(out, c.want) {
				return "events: " + out
			}
			t.Logf("%s: %s", name, out)
			return ""
		}); err != nil {
			t.Error(err)
		}
		if _, err := l.Kubectl(ctx, "delete", "pvc,storageclass", name, "--wait=false"); err != nil {
			t.Error(err)
		}
	}
}
