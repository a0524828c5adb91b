//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

// copyClaim is a claim made of another object, and a pod that checks the records in it and prints the checksum of the device.
func copyClaim(name, kind, group, source string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: copies
  volumeMode: Block
  dataSource: {%[3]skind: %[2]s, name: %[4]s}
  resources: {requests: {storage: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  restartPolicy: Never
  containers:
  - name: check
    image: `+busybox+`
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "/tools/verifier check /dev/data && sha256sum /dev/data"]
    securityContext: {runAsUser: 0}
    volumeMounts: [{name: tools, mountPath: /tools}]
    volumeDevices: [{name: data, devicePath: /dev/data}]
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: %[1]s}}
  - {name: tools, hostPath: {path: /opt/iomesh}}
`, name, kind, group, source)
}

const copiesSet = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: copies}
provisioner: com.iomesh.csi-driver
parameters: {replicaFactor: "2"}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: copies}
spec:
  serviceName: copies
  replicas: 1
  selector: {matchLabels: {app: copies}}
  template:
    metadata: {labels: {app: copies}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: writer
        image: ` + busybox + `
        imagePullPolicy: IfNotPresent
        command: [/tools/verifier, --every, 2ms, write, /dev/data]
        securityContext: {runAsUser: 0}
        volumeMounts: [{name: tools, mountPath: /tools}]
        volumeDevices: [{name: data, devicePath: /dev/data}]
      volumes: [{name: tools, hostPath: {path: /opt/iomesh}}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: copies, volumeMode: Block, resources: {requests: {storage: 64Mi}}}
`

// TestCopiesUnderWrites takes a snapshot and a clone while the source is written, restores the snapshot twice at once and once later: all
// restores are the same bytes, and each copy holds an unbroken row of records with everything that was acknowledged before.
func TestCopiesUnderWrites(t *testing.T) {
	ctx, l := ready(t, 10*time.Minute)
	must(t, l.Apply(ctx, copiesSet))
	must(t, l.Until(ctx, 3*time.Minute, "the writer runs", func(ctx context.Context) string { return podRuns(ctx, l, "copies-0", "") }))
	acked := func() uint64 { return lastAcked(ctx, l, "copies-0") }
	must(t, l.Until(ctx, time.Minute, "some records are there", func(context.Context) string { return unless(acked() > 300, "not yet") }))

	before := acked()
	must(t, l.Apply(ctx, `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: copies}
spec: {volumeSnapshotClassName: iomesh-csi-driver, source: {persistentVolumeClaimName: data-copies-0}}
---`+copyClaim("clone", "PersistentVolumeClaim", "", "data-copies-0")))
	must(t, l.Until(ctx, time.Minute, "the snapshot is ready", func(ctx context.Context) string {
		return unless(get(ctx, l, "volumesnapshot", "copies", "-o", "jsonpath={.status.readyToUse}") == "true", "not ready")
	}))
	after := acked()
	restore := func(name string) string {
		return copyClaim(name, "VolumeSnapshot", "apiGroup: snapshot.storage.k8s.io, ", "copies")
	}
	must(t, l.Apply(ctx, restore("restore-1")+"---"+restore("restore-2")))
	n1, sum1 := checked(ctx, t, l, "restore-1")
	n2, sum2 := checked(ctx, t, l, "restore-2")
	must(t, l.Until(ctx, time.Minute, "the source has gone on", func(context.Context) string { return unless(acked() > after+300, "not yet") }))
	must(t, l.Apply(ctx, restore("restore-3")))
	n3, sum3 := checked(ctx, t, l, "restore-3")
	clone, _ := checked(ctx, t, l, "clone")
	l.Say("%d records were acknowledged before, %d when the snapshot was ready; restores hold %d, %d, %d; the clone %d", before, after, n1, n2, n3, clone)
	if sum1 != sum2 || sum1 != sum3 {
		t.Errorf("restores of one snapshot differ: %s, %s, %s", sum1, sum2, sum3)
	}
	if n1 < before || clone < before {
		t.Errorf("acknowledged records are missing: %d were, the snapshot has %d, the clone %d", before, n1, clone)
	}
	if n1 > after+200 {
		t.Errorf("the snapshot holds records (%d) of after it was ready (%d)", n1, after)
	}
	for _, what := range []string{"statefulset/copies", "pod/clone", "pod/restore-1", "pod/restore-2", "pod/restore-3", "pvc/clone", "pvc/restore-1", "pvc/restore-2", "pvc/restore-3",
		"volumesnapshot/copies", "pvc/data-copies-0", "storageclass/copies"} {
		_, err := l.Kubectl(ctx, "delete", what, "--wait=true", "--timeout=2m")
		must(t, err)
	}
	nothingLeft(ctx, t, l)
}

// lastAcked is the newest record that a writer said to be durable.
func lastAcked(ctx context.Context, l *lab.Lab, pod string) uint64 {
	out, err := l.Kubectl(ctx, "logs", "--tail=5", pod)
	if err != nil {
		return 0
	}
	var n uint64
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "acked "); ok {
			n, _ = strconv.ParseUint(rest, 10, 64)
		}
	}
	return n
}

// checked waits until a checking pod is done, and returns the newest record and the checksum that it printed.
func checked(ctx context.Context, t *testing.T, l *lab.Lab, pod string) (uint64, string) {
	t.Helper()
	must(t, l.Until(ctx, 3*time.Minute, "pod "+pod+" has checked its volume", func(ctx context.Context) string {
		switch phase := get(ctx, l, "pod", pod, "-o", "jsonpath={.status.phase}"); phase {
		case "Succeeded", "Failed":
			return ""
		default:
			return "it is " + phase
		}
	}))
	out, err := l.Kubectl(ctx, "logs", pod)
	f := strings.Fields(out)
	if err != nil || len(f) < 3 || f[0] != "verified" {
		t.Fatalf("pod %s said %q (%v)", pod, out, err)
	}
	n, err := strconv.ParseUint(f[1], 10, 64)
	must(t, err)
	return n, f[2]
}
