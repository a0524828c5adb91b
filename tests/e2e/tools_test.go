//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

const busybox = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"

// nodeFile is where a file of a node's disk lies on this machine.
func nodeFile(l *lab.Lab, node string, path ...string) string {
	return filepath.Join(append([]string{filepath.Dir(filepath.Dir(l.Cluster.Kubeconfig())), "nodes", node, "root"}, path...)...)
}

// giveProgram builds a program of this folder and puts it into /opt/iomesh of every node.
func giveProgram(ctx context.Context, t *testing.T, l *lab.Lab, name string) {
	t.Helper()
	out := filepath.Join(l.Root, "build", name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, "./tests/e2e/"+name)
	cmd.Dir = l.Root
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodesOf(t, l) {
		dst := nodeFile(l, n, "opt", "iomesh", name)
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dst+".new", b, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dst+".new", dst); err != nil { // an earlier one may be running
			t.Fatal(err)
		}
	}
}

func nodesOf(t *testing.T, l *lab.Lab) []string {
	t.Helper()
	nodes, err := l.Cluster.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	return nodes
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get reads one field of an object.
func get(ctx context.Context, l *lab.Lab, args ...string) string {
	out, err := l.Kubectl(ctx, append([]string{"get", "--ignore-not-found"}, args...)...)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// podRuns says why a pod does not run on another node than not ("": on any), "" if it does.
func podRuns(ctx context.Context, l *lab.Lab, pod, not string) string {
	f := strings.Fields(get(ctx, l, "pod", pod, "-o", `jsonpath={.spec.nodeName} {.status.phase} {.status.conditions[?(@.type=="Ready")].status} {.metadata.deletionTimestamp}`))
	switch {
	case len(f) < 3 || f[0] == not || len(f) > 3:
		return fmt.Sprintf("pod %s: %v", pod, f)
	case f[1] != "Running" || f[2] != "True":
		ev, _ := l.Kubectl(ctx, "get", "events", "--field-selector", "involvedObject.name="+pod+",type=Warning", "-o", "jsonpath={.items[-1:].message}")
		return fmt.Sprintf("pod %s is %s: %s", pod, f[1], ev)
	}
	return ""
}

// outOfService is the taint by which an administrator says that a node is gone.
const outOfService = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"

// notReady waits until Kubernetes has noticed that a node is lost.
func notReady(ctx context.Context, l *lab.Lab, node string) error {
	return l.Until(ctx, 2*time.Minute, "Kubernetes has noticed that "+node+" is lost", func(ctx context.Context) string {
		if s := get(ctx, l, "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`); s == "True" || s == "" {
			return "node " + node + " still counts as Ready"
		}
		return ""
	})
}

// objects are the names of all objects of some kinds, but those in which the metadata members keep their state.
func objects(ctx context.Context, l *lab.Lab, kinds string) []string {
	return slices.DeleteFunc(strings.Fields(get(ctx, l, kinds, "-A", "-o", "name")), func(name string) bool {
		return strings.HasPrefix(name, "persistentvolumeclaim/state-iomesh-meta-") || strings.HasPrefix(name, "persistentvolume/iomesh-meta-")
	})
}

// nothingLeft demands that no volume, snapshot, attachment, mount, loop device, session or record is left of what a test made.
func nothingLeft(ctx context.Context, t *testing.T, l *lab.Lab) {
	t.Helper()
	err := l.Until(ctx, 3*time.Minute, "nothing is left", func(ctx context.Context) string {
		var left []string
		if objects := objects(ctx, l, "pvc,pv,volumeattachments,volumesnapshotcontents"); len(objects) > 0 {
			left = append(left, "objects "+strings.Join(objects, " "))
		}
		if out, err := l.Storaged(ctx, "volume", "list", "-o", "json"); err != nil || strings.Contains(out, `"id"`) {
			left = append(left, fmt.Sprintf("volumes in the block service %s (%v)", brief(out), err))
		}
		for _, n := range nodesOf(t, l) {
			out, err := l.Cluster.Exec(ctx, n, "sh", "-c",
				`cat /proc/self/mountinfo | grep -E 'iomesh/attach/|com.iomesh.csi-driver/[0-9a-f]{20}|pvc-' ; ls /run/iomesh/csi/volumes 2>/dev/null; losetup -nO NAME,BACK-FILE | grep /run/iomesh; true`)
			if err != nil {
				left = append(left, n+": "+err.Error())
			} else if s := strings.TrimSpace(out); s != "" {
				left = append(left, n+": "+s)
			}
		}
		return strings.Join(left, "; ")
	})
	if err != nil {
		t.Error(err)
	}
}

func brief(s string) string {
	if s = strings.Join(strings.Fields(s), " "); len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}

// seconds is a time since, for the narrative.
func seconds(since time.Time) string {
	return strconv.FormatFloat(time.Since(since).Seconds(), 'f', 1, 64) + " s"
}
