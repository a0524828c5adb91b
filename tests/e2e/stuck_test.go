//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

const stuckPod = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: stuck}
spec: {accessModes: [ReadWriteOnce], storageClassName: iomesh-csi-driver, resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: stuck}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: ` + busybox + `
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "exec sleep 1000000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: stuck}}]
`

// whyAnswer is what `kubectl iomesh why -o json` says.
type whyAnswer struct {
	State  string `json:"state"`
	Causes []struct {
		Code   string `json:"code"`
		Reason string `json:"reason"`
	} `json:"causes"`
}

// TestPodStuckOnAttach: a volume is held exclusively by an initiator that Kubernetes knows nothing of, so that its pod cannot have it. `why` says so
// first, for the pod and for the claim; when the initiator is gone the pod runs by itself.
func TestPodStuckOnAttach(t *testing.T) {
	ctx, l := ready(t, 10*time.Minute)
	claim, pod, _ := strings.Cut(stuckPod, "---")
	must(t, l.Apply(ctx, claim))
	must(t, l.Until(ctx, time.Minute, "the claim is bound", func(ctx context.Context) string {
		return unless(get(ctx, l, "pvc", "stuck", "-o", "jsonpath={.status.phase}") == "Bound", "not bound yet")
	}))
	id := get(ctx, l, "pv", get(ctx, l, "pvc", "stuck", "-o", "jsonpath={.spec.volumeName}"), "-o", "jsonpath={.spec.csi.volumeHandle}")
	const rival = "iqn.2026-01.com.example:rival"
	_, err := l.Storaged(ctx, "volume", "publish", id, "--initiator", rival)
	must(t, err)
	must(t, l.Apply(ctx, pod))
	begin := time.Now()
	for _, object := range []string{"pod/stuck", "pvc/stuck"} {
		must(t, l.Until(ctx, time.Minute, "why "+object+" names the attachment first", func(ctx context.Context) string {
			w, err := whyOf(ctx, l, object)
			switch {
			case err != nil:
				return err.Error()
			case len(w.Causes) == 0 || w.Causes[0].Code != "AttachFailed":
				return "it says: " + w.State
			case !strings.Contains(w.Causes[0].Reason, rival):
				return "the reason does not name who has it: " + w.Causes[0].Reason
			}
			return ""
		}))
	}
	l.Say("told %s after the pod was made", seconds(begin))
	_, err = l.Storaged(ctx, "volume", "unpublish", id, "--initiator", rival)
	must(t, err)
	must(t, l.Until(ctx, 3*time.Minute, "the pod runs by itself", func(ctx context.Context) string { return podRuns(ctx, l, "stuck", "") }))
	must(t, l.Until(ctx, time.Minute, "why finds nothing any more", func(ctx context.Context) string {
		w, err := whyOf(ctx, l, "pod/stuck")
		if err != nil {
			return err.Error()
		}
		return unless(len(w.Causes) == 0, "it still says: "+w.State)
	}))
	for _, what := range []string{"pod/stuck", "pvc/stuck"} {
		_, err := l.Kubectl(ctx, "delete", what, "--wait=true", "--timeout=2m")
		must(t, err)
	}
	nothingLeft(ctx, t, l)
}

// whyOf asks; the command's exit code 3 only says that problems were found.
func whyOf(ctx context.Context, l *lab.Lab, object string) (w whyAnswer, err error) {
	out, err := l.Plugin(ctx, "why", object, "-o", "json")
	if ce := (*lab.CommandError)(nil); err != nil && (!errors.As(err, &ce) || ce.ExitCode() != 3) {
		return w, err
	}
	return w, json.Unmarshal([]byte(out), &w)
}
