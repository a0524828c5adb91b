//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

// rivalSet is a StatefulSet whose pod writes to a device as long as it is let (rival/main.go).
const rivalSet = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: rival}
provisioner: com.iomesh.csi-driver
parameters: {replicaFactor: "3"}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: rival}
spec:
  serviceName: rival
  replicas: 1
  selector: {matchLabels: {app: rival}}
  template:
    metadata: {labels: {app: rival}}
    spec:
      terminationGracePeriodSeconds: 30
      containers:
      - name: rival
        image: ` + busybox + `
        imagePullPolicy: IfNotPresent
        env:
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        command: [/tools/rival, --name, $(NODE), --log, /tools/rival-$(NODE).log, /dev/data]
        securityContext: {runAsUser: 0}
        volumeDevices: [{name: data, devicePath: /dev/data}]
        volumeMounts: [{name: tools, mountPath: /tools}]
      volumes: [{name: tools, hostPath: {path: /opt/iomesh}}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: rival, volumeMode: Block, resources: {requests: {storage: 64Mi}}}
`

// TestLateWritesOfAFrozenNode freezes a node whose pod writes, gives the volume to another node, thaws the first one.
func TestLateWritesOfAFrozenNode(t *testing.T) {
	ctx, l := ready(t, 15*time.Minute)
	freeze := func(ctx context.Context, node string) error {
		// A process that waits for its device, whose daemon is frozen already, cannot be frozen in turn; it runs no further than that.
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := l.Cluster.Freeze(short, node)
		if short.Err() != nil && ctx.Err() == nil {
			return nil
		}
		return err
	}
	lateWrites(ctx, t, l, "frozen", freeze, l.Cluster.Thaw)
}

// TestLateWritesOfANodeCutOffFromTheAPI cuts a node from the API server only: its pod writes on, and has the network to do so, while
// Kubernetes gives its volume to another node.
func TestLateWritesOfANodeCutOffFromTheAPI(t *testing.T) {
	ctx, l := ready(t, 15*time.Minute)
	lateWrites(ctx, t, l, "cut off from the API server", l.Cluster.CutAPI, l.Cluster.HealAPI)
}

func lateWrites(ctx context.Context, t *testing.T, l *lab.Lab, what string, fault, heal func(context.Context, string) error) {
	giveProgram(ctx, t, l, "rival")
	for _, n := range nodesOf(t, l) {
		_ = os.Remove(nodeFile(l, n, "opt", "iomesh", "rival-"+n+".log"))
	}
	must(t, l.Apply(ctx, rivalSet))
	must(t, l.Until(ctx, 3*time.Minute, "the first writer runs", func(ctx context.Context) string { return podRuns(ctx, l, "rival-0", "") }))
	victim := get(ctx, l, "pod", "rival-0", "-o", "jsonpath={.spec.nodeName}")
	owned := func(node string) string {
		if readRival(l, node).owned.IsZero() {
			return "the writer on " + node + " has not written every slot yet"
		}
		return ""
	}
	must(t, l.Until(ctx, time.Minute, "it owns the device", func(context.Context) string { return owned(victim) }))

	l.Say("node %s is %s, its pod writes", victim, what)
	begin := time.Now()
	must(t, fault(ctx, victim))
	healed := false
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if !healed {
			_ = heal(ctx, victim)
		}
		_, _ = l.Kubectl(ctx, "taint", "node", victim, outOfService+"-")
	})
	must(t, notReady(ctx, l, victim))
	if _, err := l.Kubectl(ctx, "taint", "node", victim, outOfService); err != nil {
		t.Fatal(err)
	}
	tainted := time.Now()
	must(t, l.Until(ctx, 4*time.Minute, "the pod runs on another node", func(ctx context.Context) string { return podRuns(ctx, l, "rival-0", victim) }))
	next := get(ctx, l, "pod", "rival-0", "-o", "jsonpath={.spec.nodeName}")
	must(t, l.Until(ctx, time.Minute, "its writer owns the device", func(context.Context) string { return owned(next) }))
	taken := readRival(l, next)
	l.Say("%s took the volume %.1f s after the taint (%.1f s after the fault)", next, taken.started.Sub(tainted).Seconds(), taken.started.Sub(begin).Seconds())
	if first := readRival(l, victim); taken.took < first.lastAcked {
		t.Errorf("%d writes were acknowledged to %s, %s found %d", first.lastAcked, victim, next, taken.took)
	}

	must(t, heal(ctx, victim))
	healed = true
	thawed := time.Now()
	// Either the old writer is told so (at the latest when its initiator gives up, after 120 s), or it has been ended before.
	must(t, l.Until(ctx, 4*time.Minute, "the old writer has been refused, or ended", func(ctx context.Context) string {
		if readRival(l, victim).refusedSince(taken.started) > 0 {
			return ""
		}
		out, err := l.Cluster.Exec(ctx, victim, "sh", "-c", "pgrep -x rival; true")
		if err == nil && strings.TrimSpace(out) == "" && time.Since(thawed) > 5*time.Second {
			return ""
		}
		return "it is there, and waits"
	}))
	before := readRival(l, next).lastAcked
	must(t, l.Until(ctx, time.Minute, "the new writer has gone round twice more", func(context.Context) string {
		if n := readRival(l, next).lastAcked; n < before+600 {
			return fmt.Sprintf("%d of 600", n-before)
		}
		return ""
	}))
	old, now := readRival(l, victim), readRival(l, next)
	late, tried := old.ackedAfter(taken.started, taken.took), old.triedSince(taken.started)
	l.Say("planted counters: %s acknowledged %d writes to the old writer after it lost the volume (it tried or was refused %d times); the new writer found %d late writes in %d of its own",
		what, late, tried, now.late, now.lastAcked-taken.took)
	if late != 0 || now.late != 0 {
		t.Errorf("late writes were accepted: %d acknowledged, %d found", late, now.late)
	}
	_, err := l.Kubectl(ctx, "taint", "node", victim, outOfService+"-")
	must(t, err)
	_, err = l.Kubectl(ctx, "delete", "statefulset", "rival", "--wait=true")
	must(t, err)
	_, err = l.Kubectl(ctx, "delete", "pvc", "data-rival-0", "storageclass/rival", "--wait=false")
	if err != nil {
		_, err = l.Kubectl(ctx, "delete", "pvc/data-rival-0", "storageclass/rival", "--wait=false")
	}
	must(t, err)
	nothingLeft(ctx, t, l)
}

// rivalLog is what a writer said.
type rivalLog struct {
	started, owned time.Time
	took           uint64
	lastAcked      uint64
	late           int
	lines          []rivalLine
}

type rivalLine struct {
	at   time.Time
	word string
	n    uint64
}

func (r rivalLog) count(since time.Time, words ...string) (n int) {
	for _, line := range r.lines {
		for _, w := range words {
			if line.word == w && line.at.After(since) {
				n++
			}
		}
	}
	return n
}

// ackedAfter counts the writes acknowledged after t that the next writer did not find. The answer to one that it did find may come late.
func (r rivalLog) ackedAfter(t time.Time, found uint64) (n int) {
	for _, line := range r.lines {
		if line.word == "acked" && line.at.After(t) && line.n > found {
			n++
		}
	}
	return n
}

func (r rivalLog) refusedSince(t time.Time) int { return r.count(t, "refused") }
func (r rivalLog) triedSince(t time.Time) int   { return r.count(t, "try", "refused") }

func readRival(l *lab.Lab, node string) (out rivalLog) {
	f, err := os.Open(nodeFile(l, node, "opt", "iomesh", "rival-"+node+".log"))
	if err != nil {
		return out
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		w := strings.Fields(sc.Text())
		if len(w) < 2 {
			continue
		}
		ms, err := strconv.ParseInt(w[0], 10, 64)
		if err != nil {
			continue
		}
		at := time.UnixMilli(ms)
		line := rivalLine{at: at, word: w[1]}
		if len(w) > 2 {
			line.n, _ = strconv.ParseUint(strings.TrimSuffix(w[2], ":"), 10, 64)
		}
		out.lines = append(out.lines, line)
		switch {
		case w[1] == "start" && len(w) > 4:
			out.started = at
			out.took, _ = strconv.ParseUint(w[4], 10, 64)
		case w[1] == "owned":
			out.owned = at
		case w[1] == "acked":
			out.lastAcked = line.n
		case w[1] == "LATE":
			out.late++
		}
	}
	return out
}
