//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/csi/controller"
	"github.com/iomesh/iomesh/csi/crash"
	"github.com/iomesh/iomesh/csi/node"
	"github.com/iomesh/iomesh/tests/lab"
)

// crashClaims are a volume with a filesystem and one without, and a pod on one node that uses both.
func crashClaims(at string) string {
	return `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: crash-fs}
spec: {accessModes: [ReadWriteOnce], storageClassName: iomesh-csi-driver, resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: crash-raw}
spec: {accessModes: [ReadWriteOnce], storageClassName: iomesh-csi-driver, volumeMode: Block, resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  nodeName: ` + at + `
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: ` + busybox + `
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "echo written > /data/file && sync && exec sleep 1000000"]
    securityContext: {runAsUser: 0}
    volumeMounts: [{name: fs, mountPath: /data}]
    volumeDevices: [{name: raw, devicePath: /dev/raw-data}]
  volumes:
  - {name: fs, persistentVolumeClaim: {claimName: crash-fs}}
  - {name: raw, persistentVolumeClaim: {claimName: crash-raw}}
`
}

// TestPluginsKilledAtEveryStep has CSI controller and node plugins end themselves once at each step of each call (csi/crash), while a volume of
// either mode goes through its whole life: everything converges, and nothing is left over.
func TestPluginsKilledAtEveryStep(t *testing.T) {
	ctx, l := ready(t, 35*time.Minute)
	nodes := nodesOf(t, l)
	crashAt(ctx, t, l, "all")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*time.Minute)
		defer cancel()
		crashAt(ctx, t, l, "")
	})
	begin := time.Now()
	must(t, l.Apply(ctx, crashClaims(nodes[0])))
	must(t, l.Until(ctx, 12*time.Minute, "the pod runs", func(ctx context.Context) string { return podRuns(ctx, l, "crash", "") }))
	must(t, l.Apply(ctx, `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: crash}
spec: {volumeSnapshotClassName: iomesh-csi-driver, source: {persistentVolumeClaimName: crash-raw}}
`))
	must(t, l.Until(ctx, 4*time.Minute, "the snapshot is ready", func(ctx context.Context) string {
		return unless(get(ctx, l, "volumesnapshot", "crash", "-o", "jsonpath={.status.readyToUse}") == "true", "not ready")
	}))
	_, err := l.Kubectl(ctx, "patch", "pvc", "crash-raw", "-p", `{"spec":{"resources":{"requests":{"storage":"128Mi"}}}}`)
	must(t, err)
	must(t, l.Until(ctx, 4*time.Minute, "the device has grown", func(ctx context.Context) string {
		out, err := l.Kubectl(ctx, "exec", "crash", "--", "blockdev", "--getsize64", "/dev/raw-data")
		return unless(err == nil && strings.TrimSpace(out) == "134217728", fmt.Sprintf("it has %s bytes (%v)", strings.TrimSpace(out), err))
	}))
	out, err := l.Kubectl(ctx, "exec", "crash", "--", "cat", "/data/file")
	if err != nil || strings.TrimSpace(out) != "written" {
		t.Errorf("the file holds %q (%v)", out, err)
	}
	for _, what := range []string{"volumesnapshot/crash", "pod/crash", "pvc/crash-fs", "pvc/crash-raw"} {
		_, err := l.Kubectl(ctx, "delete", what, "--wait=true", "--timeout=8m")
		must(t, err)
	}
	nothingLeft(ctx, t, l)
	l.Say("the whole life took %s", seconds(begin))

	for _, step := range node.Steps() {
		if _, err := l.Cluster.Exec(ctx, nodes[0], "test", "-e", "/run/iomesh/csi/crashed-at-"+step); err != nil {
			t.Errorf("the node plugin was not killed at %s", step)
		}
	}
	killed := ""
	for pod := range strings.FieldsSeq(get(ctx, l, "pods", "-n", lab.Namespace, "-l", "app.kubernetes.io/component=controller", "-o", "jsonpath={.items[*].metadata.name}")) {
		// The image has a shell; the files are in the pod's directory of sockets.
		out, _ := l.Kubectl(ctx, "-n", lab.Namespace, "exec", pod, "-c", "csi-controller", "--", "ls", "/csi")
		killed += out
	}
	for _, step := range controller.Steps() {
		if !strings.Contains(killed, "crashed-at-"+step) {
			t.Errorf("the controller was not killed at %s", step)
		}
	}
}

func unless(ok bool, why string) string {
	if ok {
		return ""
	}
	return why
}

// crashAt sets or removes the variable that ends the plugins, and waits until it is in effect.
func crashAt(ctx context.Context, t *testing.T, l *lab.Lab, wish string) {
	t.Helper()
	set := crash.Env + "=" + wish
	if wish == "" {
		set = crash.Env + "-"
	} else {
		for _, n := range nodesOf(t, l) {
			if _, err := l.Cluster.Exec(ctx, n, "sh", "-c", "rm -f /run/iomesh/csi/crashed-at-*"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range [][]string{{"daemonset/iomesh-node", "csi"}, {"deployment/iomesh-controller", "csi-controller"}} {
		if _, err := l.Kubectl(ctx, "-n", lab.Namespace, "set", "env", w[0], "-c", w[1], set); err != nil {
			t.Error(err)
		}
	}
	for _, w := range []string{"daemonset/iomesh-node", "deployment/iomesh-controller"} {
		if _, err := l.Kubectl(ctx, "-n", lab.Namespace, "rollout", "status", w, "--timeout=4m"); err != nil {
			t.Error(err)
		}
	}
}
