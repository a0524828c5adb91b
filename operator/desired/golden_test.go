package desired

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/placement"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func input() Input {
	c := &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "iomesh", Namespace: "iomesh-system", UID: "0d7c0a52-6a5e-4f0c-9f6e-2f4cf1f2a111"}}
	return Input{
		Cluster: c, ClusterID: "11111111-2222-3333-4444-555555555555", Image: "iomesh/iomesh:v1",
		Meta:   []placement.Member{{Ordinal: 0, Node: "n1", Hostname: "n1.example", Address: "10.0.0.1"}, {Ordinal: 1, Node: "n2", Hostname: "n2.example", Address: "10.0.0.2"}, {Ordinal: 2, Node: "n3", Hostname: "n3.example", Address: "10.0.0.3"}},
		Chunks: []Chunk{{"n1", "10.1.0.1", "z1"}, {"n2", "10.1.0.2", ""}}, ChunkBudget: Budget{1, "every volume has all its replicas"},
	}
}

// full sets everything that a user can set about pods.
func full() Input {
	in := input()
	policy := &v1alpha1.PodPolicy{
		NodeSelector: map[string]string{"storage": "yes"},
		Tolerations:  []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpEqual, Value: "storage"}},
		Affinity: &v1alpha1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disks", Operator: corev1.NodeSelectorOpExists}}}}}}},
	}
	resources := requests("1", "1Gi")
	in.Cluster.Spec = v1alpha1.IOMeshClusterSpec{
		ImagePullPolicy: corev1.PullAlways, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}, Attach: v1alpha1.AttachISCSI,
		Meta:       v1alpha1.MetaSpec{Replicas: 3, PodPolicy: policy, Resources: &resources},
		Chunk:      v1alpha1.ChunkSpec{PodPolicy: policy, Resources: &resources},
		Node:       &v1alpha1.NodeSpec{PodPolicy: policy, KubeletRootDir: "/data/kubelet", Resources: &resources},
		Redirector: &v1alpha1.RedirectorSpec{Resources: &resources},
		Monitoring: &v1alpha1.MonitoringSpec{ScrapeAnnotations: true},
	}
	return in
}

func render(t *testing.T, in Input) []byte {
	t.Helper()
	var objects []any
	objects = append(objects, Endpoints(in))
	for _, pv := range MetaVolumes(in) {
		objects = append(objects, pv)
	}
	objects = append(objects, Meta(in))
	for _, c := range in.Chunks {
		pod, err := ChunkPod(in, c)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, pod)
	}
	objects = append(objects, Node(in))
	if WantsAttach(in) {
		objects = append(objects, Attach(in))
	}
	for _, b := range Budgets(in) {
		objects = append(objects, b)
	}
	objects = append(objects, CleanPod(in, "n1", true))
	var out bytes.Buffer
	for _, o := range objects {
		data, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n")
		out.Write(data)
	}
	return out.Bytes()
}

func TestGolden(t *testing.T) {
	for name, in := range map[string]Input{"default": input(), "full": full()} {
		t.Run(name, func(t *testing.T) {
			got := render(t, in)
			path := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("objects differ from %s; look at the difference, then run the test with -update\n%s", path, firstDifference(string(got), string(want)))
			}
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			lo := max(0, i-5)
			return "got\n" + strings.Join(g[lo:min(len(g), i+5)], "\n") + "\nwant\n" + strings.Join(w[lo:min(len(w), i+5)], "\n")
		}
	}
	return "got fewer lines"
}
