//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestManyClaims makes 500 claims in one go, and deletes them in one go.
func TestManyClaims(t *testing.T) {
	const n = 500
	ctx, l := ready(t, 25*time.Minute)
	_, err := l.Kubectl(ctx, "create", "namespace", "many")
	must(t, err)
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: c%d, namespace: many}
spec: {accessModes: [ReadWriteOnce], storageClassName: iomesh-csi-driver, resources: {requests: {storage: 16Mi}}}
`, i)
	}
	begin := time.Now()
	must(t, l.Apply(ctx, b.String()))
	applied := time.Since(begin)
	phases := func(ctx context.Context) map[string]int {
		out := map[string]int{}
		for p := range strings.FieldsSeq(get(ctx, l, "pvc", "-n", "many", "-o", "jsonpath={.items[*].status.phase}")) {
			out[p]++
		}
		return out
	}
	must(t, l.Until(ctx, 10*time.Minute, "all claims are Bound", func(ctx context.Context) string {
		p := phases(ctx)
		return unless(p["Bound"] == n, fmt.Sprint(p))
	}))
	l.Say("%d claims: applied in %.1f s, all Bound after %s", n, applied.Seconds(), seconds(begin))
	begin = time.Now()
	_, err = l.Kubectl(ctx, "delete", "namespace", "many", "--wait=false")
	must(t, err)
	must(t, l.Until(ctx, 10*time.Minute, "all volumes have gone", func(ctx context.Context) string {
		left := objects(ctx, l, "pv")
		return unless(len(left) == 0, fmt.Sprintf("%d are left", len(left)))
	}))
	l.Say("%d claims and volumes deleted after %s", n, seconds(begin))
	nothingLeft(ctx, t, l)
}

// TestManyPodsOnOneNode runs 80 pods with a volume each on one node.
func TestManyPodsOnOneNode(t *testing.T) {
	const n = 80
	ctx, l := ready(t, 25*time.Minute)
	node := nodesOf(t, l)[0]
	begin := time.Now()
	must(t, l.Apply(ctx, still("crowd", n, "32Mi", "nodeSelector: {kubernetes.io/hostname: "+node+"}")))
	must(t, l.Until(ctx, 12*time.Minute, "all pods run", func(ctx context.Context) string {
		ready := get(ctx, l, "statefulset", "crowd", "-o", "jsonpath={.status.readyReplicas}")
		return unless(ready == fmt.Sprint(n), ready+" run")
	}))
	l.Say("%d pods with a volume each on one node: all Running after %s", n, seconds(begin))
	begin = time.Now()
	_, err := l.Kubectl(ctx, "delete", "statefulset", "crowd", "--wait=false")
	must(t, err)
	must(t, l.Until(ctx, 10*time.Minute, "pods and volumes have gone", func(ctx context.Context) string {
		left := append(objects(ctx, l, "pvc,pv"), strings.Fields(get(ctx, l, "pods", "-o", "name"))...)
		return unless(len(left) == 0, fmt.Sprintf("%d objects are left", len(left)))
	}))
	l.Say("all deleted after %s", seconds(begin))
	nothingLeft(ctx, t, l)
}

// still are pods of a StatefulSet that each mount a volume and do nothing more than write to it once. more is added to the pods' spec.
func still(name string, replicas int, size, more string) string {
	return `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ` + name + `}
spec:
  serviceName: ` + name + `
  replicas: ` + fmt.Sprint(replicas) + `
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}
  selector: {matchLabels: {app: ` + name + `}}
  template:
    metadata: {labels: {app: ` + name + `}}
    spec:
      terminationGracePeriodSeconds: 0
      ` + more + `
      containers:
      - name: c
        image: ` + busybox + `
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "date > /data/started && sync && exec sleep 1000000"]
        volumeMounts: [{name: data, mountPath: /data}]
        securityContext: {runAsUser: 0}
        resources: {requests: {cpu: 1m, memory: 1Mi}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: iomesh-csi-driver, resources: {requests: {storage: ` + size + `}}}
`
}
