//go:build e2e

package e2e

import (
	"context"
	"path/filepath"
	"testing"
	"time"
)

// TestPodDeletePolicy switches the original's opt-in on, and a node off without telling anybody: the pod is on another node without a hand.
func TestPodDeletePolicy(t *testing.T) {
	ctx, l := ready(t, 20*time.Minute)
	values, err := l.Values(tag)
	must(t, err)
	policy := func(ctx context.Context, p string) {
		_, err := l.Run(ctx, "helm", "upgrade", "iomesh", filepath.Join(l.Root, "manifests", "chart"), "-n", "iomesh-system", "--reuse-values", "-f", values,
			"--set", "csi-driver.driver.controller.driver.podDeletePolicy="+p, "--set", "csi-driver.driver.controller.driver.podDeleteLatency=15s", "--wait", "--timeout", "4m")
		must(t, err)
	}
	policy(ctx, "delete-statefulset-pod")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		policy(ctx, "no-delete-pod")
	})
	must(t, l.Apply(ctx, copiesSet))
	must(t, l.Until(ctx, 3*time.Minute, "the writer runs", func(ctx context.Context) string { return podRuns(ctx, l, "copies-0", "") }))
	must(t, l.Until(ctx, time.Minute, "some records are there", func(ctx context.Context) string { return unless(lastAcked(ctx, l, "copies-0") > 300, "not yet") }))
	victim := get(ctx, l, "pod", "copies-0", "-o", "jsonpath={.spec.nodeName}")
	l.Say("node %s loses power; nobody sets a taint", victim)
	begin := time.Now()
	acked := lastAcked(ctx, l, "copies-0")
	must(t, l.Cluster.PowerOff(ctx, victim))
	off := true
	t.Cleanup(func() {
		if off {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
			defer cancel()
			_ = l.Cluster.Boot(ctx, victim)
		}
	})
	must(t, l.Until(ctx, 6*time.Minute, "the pod runs elsewhere", func(ctx context.Context) string { return podRuns(ctx, l, "copies-0", victim) }))
	must(t, l.Until(ctx, time.Minute, "it writes", func(ctx context.Context) string { return unless(lastAcked(ctx, l, "copies-0") > acked, "not yet") }))
	l.Say("the pod writes again %s after the power cut (Kubernetes notices after about 25 s, latency 15 s)", seconds(begin))
	must(t, l.Cluster.Boot(ctx, victim))
	off = false
	for _, what := range []string{"statefulset/copies", "pvc/data-copies-0", "storageclass/copies"} {
		_, err := l.Kubectl(ctx, "delete", what, "--wait=true", "--timeout=2m")
		must(t, err)
	}
	nothingLeft(ctx, t, l)
}
