package manifests

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// load loads the chart from the embedded files, as the plugin does.
func load(t *testing.T) *chartv2.Chart {
	t.Helper()
	var files []*archive.BufferedFile
	err := fs.WalkDir(Chart(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(Chart(), path)
		files = append(files, &archive.BufferedFile{Name: path, Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func values(t *testing.T, text string) map[string]any {
	t.Helper()
	v := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// render gives the rendered files with their templates' base names.
func render(t *testing.T, text string) (map[string]string, error) {
	t.Helper()
	c := load(t)
	v, err := util.ToRenderValues(c, values(t, text), common.ReleaseOptions{Name: "iomesh", Namespace: "iomesh-system", Revision: 1, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	out, err := engine.Render(c, v)
	if err != nil {
		return nil, err
	}
	short := map[string]string{}
	for name, content := range out {
		short[filepath.Base(name)] = content
	}
	return short, nil
}

// objects decodes what a render gives, strictly: an unknown or doubled field is an error.
func objects(t *testing.T, text string) []runtime.Object {
	t.Helper()
	files, err := render(t, text)
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var out []runtime.Object
	for name, content := range files {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		for _, doc := range strings.Split("\n"+content, "\n---") {
			if strings.TrimSpace(stripComments(doc)) == "" {
				continue
			}
			if strings.Contains(doc, "snapshot.storage.k8s.io/v1\nkind") {
				u := &unstructured.Unstructured{}
				if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
					t.Fatalf("%s: %v\n%s", name, err, doc)
				}
				out = append(out, u)
				continue
			}
			obj, _, err := decoder.Decode([]byte(doc), nil, nil)
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, doc)
			}
			out = append(out, obj)
		}
	}
	return out
}

func stripComments(doc string) string {
	var b strings.Builder
	for line := range strings.Lines(doc) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func find[T runtime.Object](t *testing.T, objs []runtime.Object) T {
	t.Helper()
	for _, o := range objs {
		if x, ok := o.(T); ok {
			return x
		}
	}
	var zero T
	t.Fatalf("no %T was rendered", zero)
	return zero
}

func example(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTheChartPassesLint(t *testing.T) {
	l := lint.RunAll("chart", nil, "iomesh-system")
	for _, m := range l.Messages {
		if m.Severity >= support.WarningSev {
			t.Errorf("%s", m)
		}
	}
}

func TestGoldenRenders(t *testing.T) {
	for name, text := range map[string]string{"default": "", "all-flash": example(t, "all-flash.yaml"), "hybrid": example(t, "hybrid.yaml"), "test-cluster": example(t, "test-cluster.yaml")} {
		t.Run(name, func(t *testing.T) {
			objects(t, text) // all of it decodes strictly
			files, err := render(t, text)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for n := range files {
				names = append(names, n)
			}
			slices.Sort(names)
			var got bytes.Buffer
			for _, n := range names {
				if strings.TrimSpace(files[n]) != "" {
					got.WriteString("=== " + n + "\n" + strings.TrimSpace(files[n]) + "\n")
				}
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("the render differs from %s; look at the difference, then run the test with -update", path)
			}
		})
	}
}

func TestWrongValuesAreRefusedWithTheFieldAndWhatItMayBe(t *testing.T) {
	for name, tc := range map[string]struct{ text, field, says string }{
		"an unknown mode":         {"iomesh: {diskDeploymentMode: flash}", "/iomesh/diskDeploymentMode", "'hybridFlash', 'allFlash'"},
		"an even number of meta":  {"iomesh: {meta: {replicaCount: 2}}", "/iomesh/meta/replicaCount", "1, 3, 5"},
		"a misspelt key":          {"iomesh: {chunk: {dataCdir: 10.0.0.0/8}}", "/iomesh/chunk", "dataCdir"},
		"a network without mask":  {"iomesh: {chunk: {dataCIDR: 10.0.0.0}}", "/iomesh/chunk/dataCIDR", "10.0.0.0"},
		"an unknown mount type":   {"iomesh: {chunk: {deviceMap: {rawCache: {selector: {matchLabels: {a: b}}}}}}", "/iomesh/chunk/deviceMap", "rawCache"},
		"an empty selector":       {"iomesh: {chunk: {deviceMap: {dataStore: {selector: {}}}}}", "/iomesh/chunk/deviceMap/dataStore/selector", "minProperties"},
		"four replicas":           {`csi-driver: {storageClass: {parameters: {replicaFactor: "4"}}}`, "replicaFactor", "'1', '2', '3'"},
		"an unknown attach mode":  {"iomesh: {attach: nbd}", "/iomesh/attach", "'userspace'"},
		"a relative backing file": {"iomesh: {devices: {loopBackingFiles: {n1: [disk.img]}}}", "loopBackingFiles/n1/0", "^/.+"},
		"a broken digest":         {"image: {digest: abc}", "/image/digest", "sha256"},
		"an unknown top level":    {"iomeshh: {}", "iomeshh", "not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render(t, tc.text)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.field) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error does not name %q and say %q:\n%v", tc.field, tc.says, err)
			}
		})
	}
}

func TestValuesOfTheOriginalAreAccepted(t *testing.T) {
	objs := objects(t, `
iomesh:
  platform: hygon_x86_64
  edition: enterprise
  storageClass: hostpath
  diskDeploymentMode: hybridFlash
  zookeeper: {replicas: 3, storageClass: hostpath}
  meta: {replicaCount: 5, serviceMonitor: {relabelings: []}}
  chunk:
    dataCIDR: 10.234.1.0/24
    replicaCount: 3
    podPolicy: {nodeSelector: {a: b}}
  redirector: {iscsiVirtualIP: "", podPolicy: {}}
operator: {replicaCount: 3, serviceMonitor: {create: false}}
prepareCSI: {enabled: true}
openebs-ndm: {enabled: true}
csi-driver:
  co: kubernetes
  coVersion: "1.18"
  driver: {clusterID: iomesh, controller: {driver: {podDeletePolicy: no-delete-pod}}, node: {driver: {kubeletRootDir: /data/kubelet}}}
`)
	c := find[*v1alpha1.IOMeshCluster](t, objs)
	if c.Spec.Meta.Replicas != 5 || c.Spec.Chunk.Replicas != 3 || c.Spec.Chunk.DataCIDR != "10.234.1.0/24" || c.Spec.Node.KubeletRootDir != "/data/kubelet" ||
		c.Spec.Chunk.PodPolicy.NodeSelector["a"] != "b" {
		t.Errorf("the wish became %+v", c.Spec)
	}
	if d := find[*appsv1.Deployment](t, objs); *d.Spec.Replicas != 3 {
		t.Errorf("%d replicas of the controller", *d.Spec.Replicas)
	}
}

func containers(objs []runtime.Object) (out []corev1.Container) {
	for _, o := range objs {
		switch o := o.(type) {
		case *appsv1.Deployment:
			out = append(out, o.Spec.Template.Spec.Containers...)
		case *batchv1.Job:
			out = append(out, o.Spec.Template.Spec.Containers...)
		}
	}
	return out
}

func TestSidecarsComeFromUpstreamOrFromOneImage(t *testing.T) {
	for _, c := range containers(objects(t, "")) {
		if strings.HasPrefix(c.Name, "csi-") && c.Name != "csi-controller" && (!strings.HasPrefix(c.Image, "registry.k8s.io/sig-storage/"+c.Name+":") || c.Command != nil) {
			t.Errorf("by default %s is %s with the command %v", c.Name, c.Image, c.Command)
		}
	}
	n := 0
	for _, c := range containers(objects(t, example(t, "test-cluster.yaml"))) {
		if c.Image == "iomesh/csi-sidecars:dev" {
			n++
			if len(c.Command) != 1 || c.Command[0] != "/usr/local/bin/"+c.Name {
				t.Errorf("%s is started by %v", c.Name, c.Command)
			}
		} else if c.Image != "iomesh/iomesh:dev" {
			t.Errorf("%s still is %s", c.Name, c.Image)
		}
	}
	if n != 5 {
		t.Errorf("%d sidecars use the one image, want 5", n)
	}
}

func TestTheSnapshotControllerCanBeLeftOut(t *testing.T) {
	has := func(text string) (container, right bool) {
		objs := objects(t, text)
		for _, c := range containers(objs) {
			container = container || c.Name == "snapshot-controller"
		}
		for _, o := range objs {
			if r, ok := o.(*rbacv1.ClusterRole); ok {
				for _, rule := range r.Rules {
					right = right || slices.Contains(rule.Resources, "volumesnapshots") && slices.Contains(rule.Verbs, "delete")
				}
			}
		}
		return container, right
	}
	if c, r := has("snapshot: {controller: auto}"); !c || !r {
		t.Errorf("auto with the API absent: container %v, right %v", c, r)
	}
	if c, r := has("snapshot: {controller: false}"); c || r {
		t.Errorf("left out: container %v, right %v", c, r)
	}
}

func TestRightsAreNamed(t *testing.T) {
	for _, o := range objects(t, "") {
		var rules []rbacv1.PolicyRule
		name := ""
		switch r := o.(type) {
		case *rbacv1.ClusterRole:
			rules, name = r.Rules, "ClusterRole "+r.Name
			for _, rule := range rules {
				if slices.Contains(rule.Resources, "secrets") {
					t.Errorf("%s reads Secrets of all namespaces", name)
				}
				if slices.Contains(rule.Resources, "pods") && slices.ContainsFunc(rule.Verbs, func(v string) bool { return v != "get" && v != "list" && v != "watch" }) {
					t.Errorf("%s changes pods of all namespaces", name)
				}
			}
		case *rbacv1.Role:
			rules, name = r.Rules, "Role "+r.Name
		}
		for _, rule := range rules {
			if slices.Contains(rule.Verbs, "*") || slices.Contains(rule.Resources, "*") || slices.Contains(rule.APIGroups, "*") {
				t.Errorf("%s has a wildcard: %v", name, rule)
			}
		}
	}
}

func TestNoContainerOfTheChartHasPrivileges(t *testing.T) {
	for _, c := range containers(objects(t, "")) {
		sc := c.SecurityContext
		if sc == nil || sc.Privileged != nil || sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot || sc.ReadOnlyRootFilesystem == nil || len(sc.Capabilities.Drop) != 1 {
			t.Errorf("container %s: %+v", c.Name, sc)
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
			t.Errorf("container %s requests nothing", c.Name)
		}
	}
}
