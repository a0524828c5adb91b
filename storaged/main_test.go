package main

import (
	"os/exec"
	"strings"
	"testing"
)

// The block service runs without Kubernetes and knows nothing of it; the plugin's and operator's libraries would also double its size.
func TestNothingOfKubernetesIsLinked(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skipf("the go command does not list dependencies here: %v", err)
	}
	for _, p := range strings.Fields(string(out)) {
		// Both are libraries of etcd.
		if strings.HasPrefix(p, "k8s.io/utils/third_party/") || p == "sigs.k8s.io/yaml" {
			continue
		}
		if strings.HasPrefix(p, "k8s.io/") || strings.HasPrefix(p, "sigs.k8s.io/") || strings.HasPrefix(p, "helm.sh/") {
			t.Errorf("storaged links %s", p)
		}
	}
}
