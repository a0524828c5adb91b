//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

const chapClass = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: chap}
provisioner: com.iomesh.csi-driver
parameters:
  auth: "true"
  csi.storage.k8s.io/controller-publish-secret-name: chap-storage
  csi.storage.k8s.io/controller-publish-secret-namespace: iomesh-system
  csi.storage.k8s.io/node-stage-secret-name: ${pvc.annotations['iomesh.com/key']}
  csi.storage.k8s.io/node-stage-secret-namespace: ${pvc.namespace}
`

func chapSecret(namespace, name, password string) string {
	return "---\napiVersion: v1\nkind: Secret\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nstringData: {username: app, password: " + password + "}\n"
}

func chapPod(name, key string) string {
	return `---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ` + name + `, annotations: {iomesh.com/key: ` + key + `}}
spec: {accessModes: [ReadWriteOnce], storageClassName: chap, resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: ` + busybox + `
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "date >> /data/starts && sync && exec sleep 1000000"]
    securityContext: {runAsUser: 0}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: ` + name + `}}]
`
}

// TestCHAPWithTheUsersOwnSecrets: secrets with templated names, a wrong one, and the rotation of docs/csi.md.
func TestCHAPWithTheUsersOwnSecrets(t *testing.T) {
	ctx, l := ready(t, 15*time.Minute)
	must(t, l.Apply(ctx, chapClass+chapSecret(lab.Namespace, "chap-storage", "first-secret-1")+
		chapSecret("default", "right", "first-secret-1")+chapSecret("default", "wrong", "not-that-secret")+chapPod("chap-right", "right")+chapPod("chap-wrong", "wrong")))
	must(t, l.Until(ctx, 3*time.Minute, "the pod with the right secret runs", func(ctx context.Context) string { return podRuns(ctx, l, "chap-right", "") }))
	said := ""
	must(t, l.Until(ctx, 2*time.Minute, "the other pod's events say why it does not run", func(ctx context.Context) string {
		said, _ = l.Kubectl(ctx, "get", "events", "--field-selector", "involvedObject.name=chap-wrong,reason=FailedMount", "-o", "jsonpath={.items[*].message}")
		return unless(strings.Contains(said, "refused the credentials"), "events: "+brief(said))
	}))
	l.Say("event on the pod with a wrong secret: %s", said)
	if strings.Contains(said, "not-that-secret") || strings.Contains(said, "first-secret-1") {
		t.Error("a secret is in the events")
	}
	must(t, l.Apply(ctx, chapSecret("default", "wrong", "first-secret-1")))
	must(t, l.Until(ctx, 3*time.Minute, "it runs when its secret is put right, by itself", func(ctx context.Context) string { return podRuns(ctx, l, "chap-wrong", "") }))

	l.Say("rotation: both secrets are changed")
	must(t, l.Apply(ctx, chapSecret(lab.Namespace, "chap-storage", "second-secret")+chapSecret("default", "right", "second-secret")+chapSecret("default", "wrong", "second-secret")))
	if _, err := l.Kubectl(ctx, "exec", "chap-right", "--", "sh", "-c", "echo on >> /data/starts && sync"); err != nil {
		t.Errorf("the running pod does not write any more: %v", err)
	}
	_, err := l.Kubectl(ctx, "delete", "pod", "chap-right", "chap-wrong", "--wait=true")
	must(t, err)
	must(t, l.Until(ctx, time.Minute, "the volumes are detached", func(ctx context.Context) string {
		return get(ctx, l, "volumeattachments", "-o", "name")
	}))
	must(t, l.Apply(ctx, chapPod("chap-right", "right")+chapPod("chap-wrong", "wrong")))
	for _, pod := range []string{"chap-right", "chap-wrong"} {
		must(t, l.Until(ctx, 3*time.Minute, pod+" runs with the new secret", func(ctx context.Context) string { return podRuns(ctx, l, pod, "") }))
	}
	for _, what := range []string{"pod/chap-right", "pod/chap-wrong", "pvc/chap-right", "pvc/chap-wrong", "storageclass/chap"} {
		_, err := l.Kubectl(ctx, "delete", what, "--wait=true", "--timeout=2m")
		must(t, err)
	}
	// The secrets go last: detaching needs them too.
	nothingLeft(ctx, t, l)
	_, err = l.Kubectl(ctx, "delete", "secret", "right", "wrong")
	must(t, err)
	_, err = l.Kubectl(ctx, "-n", lab.Namespace, "delete", "secret", "chap-storage")
	must(t, err)
}
