package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
)

const planted = "correct-horse-battery-staple"

// runner answers storaged ctl.
type runner struct{ fail string }

func (r runner) Run(_ context.Context, _ link.Target, argv []string, _ io.Reader, out, errs io.Writer) error {
	line := strings.Join(argv, " ")
	if r.fail != "" && strings.Contains(line, r.fail) {
		_, _ = io.WriteString(errs, "it does not answer")
		return errors.New("exit 1")
	}
	_, err := io.WriteString(out, `{"ok":true,"chapSecret":"`+planted+`"}`)
	return err
}

func world(t *testing.T, r runner) *link.Link {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "iomesh-meta-0", Namespace: "ns", Labels: map[string]string{"app.kubernetes.io/part-of": "iomesh", "app.kubernetes.io/component": "meta"},
		Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": planted}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "meta", Env: []corev1.EnvVar{{Name: "DB_URL", Value: "https://u:" + planted + "@h"}}}},
			InitContainers: []corev1.Container{{Name: "init", Env: []corev1.EnvVar{{Name: "X", Value: planted}}}}},
		Status: corev1.PodStatus{PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{{Name: "meta", Ready: true, RestartCount: 1}}}}
	core := fake.NewClientset(pod,
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"}, Data: map[string][]byte{"k": []byte(planted)}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}, Data: map[string]string{"k": planted}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{"x": planted}}},
		&corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "ns"}, Reason: "Failed", Message: "login with password=" + planted + " failed"})
	cluster := &v1alpha1.IOMeshCluster{TypeMeta: metav1.TypeMeta{APIVersion: "iomesh.com/v1alpha1", Kind: "IOMeshCluster"}, ObjectMeta: metav1.ObjectMeta{Name: "iomesh", Namespace: "ns"}}
	return &link.Link{Core: core, Dynamic: dynamicfake.NewSimpleDynamicClient(scheme, cluster), Namespace: "ns", Run: r}
}

func take(t *testing.T, l *link.Link, limits Limits) (Index, map[string]string) {
	t.Helper()
	var b bytes.Buffer
	s := Source{Link: l, Client: "v1", Now: time.Unix(1_800_000_000, 0), Say: func(string, ...any) {}, Reports: map[string][]byte{"status.txt": []byte("token: " + planted)}}
	index, err := Take(context.Background(), s, limits, &b)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "iomesh-bundle/")] = string(data)
	}
	return index, files
}

func TestNoSecretGetsIntoABundle(t *testing.T) {
	_, files := take(t, world(t, runner{}), DefaultLimits)
	for name, content := range files {
		if strings.Contains(content, planted) {
			t.Errorf("%s holds the secret:\n%s", name, content)
		}
	}
	if !strings.Contains(files["objects/pods.yaml"], "DB_URL") {
		t.Error("the names of environment variables are missing")
	}
}

func TestABundleHoldsWhatTheRunbooksAskFor(t *testing.T) {
	index, files := take(t, world(t, runner{}), DefaultLimits)
	for _, name := range []string{"index.json", "reports/status.txt", "objects/iomeshcluster-iomesh.yaml", "objects/blockdevices.yaml", "objects/pods.yaml", "objects/nodes.yaml",
		"objects/volumeattachments.yaml", "objects/storageclasses.yaml", "objects/workloads.yaml", "events.txt", "storage/status.json", "storage/volumes.json", "storage/why.json",
		"logs/iomesh-meta-0/meta.log", "logs/iomesh-meta-0/meta.previous.log"} {
		if _, ok := files[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if len(index.Missing) > 0 {
		t.Errorf("missing: %v", index.Missing)
	}
	var back Index
	if err := json.Unmarshal([]byte(files["index.json"]), &back); err != nil || len(back.Files) != len(files)-1 {
		t.Errorf("index: %v, %d of %d files", err, len(back.Files), len(files)-1)
	}
}

func TestWhatCannotBeReadIsListedWithTheReason(t *testing.T) {
	index, files := take(t, world(t, runner{fail: "volume list"}), DefaultLimits)
	if len(index.Missing) != 1 || !strings.Contains(index.Missing[0].What, "volume list") || !strings.Contains(index.Missing[0].Why, "does not answer") {
		t.Errorf("%v", index.Missing)
	}
	if files["storage/status.json"] == "" {
		t.Error("one failure took the others along")
	}
}

func TestABundleIsBounded(t *testing.T) {
	limits := DefaultLimits
	limits.FileBytes, limits.TotalBytes = 100, 400
	index, files := take(t, world(t, runner{}), limits)
	total := 0
	for name, content := range files {
		if name != "index.json" {
			total += len(content)
			if len(content) > 100 {
				t.Errorf("%s has %d bytes", name, len(content))
			}
		}
	}
	if total > 400 || len(index.Missing) == 0 {
		t.Errorf("%d bytes, missing %v", total, index.Missing)
	}
}

func TestValuesOfWhatNamesItselfASecretAreRemoved(t *testing.T) {
	for in, want := range map[string]string{
		`"chapSecret":"a\"b"`:            `"chapSecret":REDACTED`,
		`password = hunter2 rest`:        `password = REDACTED rest`,
		`Authorization: Bearer abc.def=`: `Authorization: Bearer REDACTED`,
		`level=info msg="all is well"`:   `level=info msg="all is well"`,
		`node.session.auth.password=x,y`: `node.session.auth.password=REDACTED,y`,
	} {
		if got := string(cleanText([]byte(in))); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}
