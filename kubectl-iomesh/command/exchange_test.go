package command

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

func TestTakingDisksAndNodesOut(t *testing.T) {
	// n3 has an eligible disk besides its old one.
	released := func() *world {
		w := healthy()
		s := w.cluster.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal]
		s.Exclude = []string{"bd-d"}
		w.cluster.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal] = s
		return w
	}
	four := func() *world {
		w := healthy()
		w.nodes = append(w.nodes, node("n4", "True"))
		w.devices = append(w.devices, disk("bd-f", "n4", "/dev/sdb", claimed))
		w.ctl["status"] = strings.Replace(healthyStatus, `"disks":[`, `"disks":[{"id":"disk-f","name":"bd-f","node":"n4","state":"Active"},`, 1)
		w.ctl["status"] = strings.Replace(w.ctl["status"], `"nodes":[`, `"nodes":[{"name":"n4","state":"Online","mode":"active"},`, 1)
		return w
	}
	spare := func() *world { // n4 has nothing of ours yet
		w := healthy()
		w.nodes = append(w.nodes, node("n4", "True"))
		return w
	}
	removed := func() *world { // n4 was removed, and is still in Kubernetes
		w := spare()
		w.nodes[3].Labels = map[string]string{v1alpha1.LabelLeaving: "true"}
		return w
	}
	maintenance := func() *world {
		w := healthy()
		w.ctl["node maintenance -- n3"], w.ctl["node active -- n3"] = "{}", "{}"
		return w
	}
	for _, c := range []struct {
		name  string
		world *world
		line  []string
	}{
		{"disk-replace", healthy(), []string{"disk", "replace", "bd-c", "--confirm", "iomesh", "--wait=false"}},
		{"disk-replace-with-smaller-choice", healthy(), []string{"disk", "replace", "bd-a", "--with", "n3:/dev/sdc", "--confirm", "iomesh", "--wait=false"}},
		{"disk-replace-no-substitute", healthy(), []string{"disk", "replace", "bd-a"}},
		{"disk-replace-ineligible", healthy(), []string{"disk", "replace", "bd-a", "--with", "bd-e"}},
		{"disk-release", healthy(), []string{"disk", "release", "n2:/dev/sdb", "--confirm", "iomesh", "--wait=false"}},
		{"disk-release-dry-run", healthy(), []string{"disk", "release", "bd-b", "--dry-run", "client"}},
		{"disk-release-unused", healthy(), []string{"disk", "release", "bd-e"}},
		{"disk-release-again", released(), []string{"disk", "release", "bd-d"}},
		{"disk-release-no-name", healthy(), []string{"disk", "release"}},
		{"node-drain", four(), []string{"node", "drain", "n4", "--confirm", "n4", "--wait=false"}},
		{"node-drain-unconfirmed", four(), []string{"node", "drain", "n4"}},
		{"node-drain-empty", healthy(), []string{"node", "drain", "n7"}},
		{"node-remove-again", removed(), []string{"node", "remove", "n4"}},
		{"node-remove-meta", healthy(), []string{"node", "remove", "n1", "--confirm", "n1"}},
		{"node-remove-member-moves", spare(), []string{"node", "remove", "n1", "--confirm", "n1", "--wait=false"}},
		{"node-remove-unknown", healthy(), []string{"node", "remove", "n7", "--confirm", "n7"}},
		{"node-maintenance", maintenance(), []string{"node", "maintenance", "n3"}},
		{"node-maintenance-end", maintenance(), []string{"node", "maintenance", "n3", "--end"}},
		{"node-maintenance-unknown", healthy(), []string{"node", "maintenance", "n9"}},
	} {
		t.Run(c.name, func(t *testing.T) { golden(t, c.name, c.world.run(t, c.line...)) })
	}
}

func TestRemovingANodeLabelsItWhenItsDisksAreOnTheirWayOut(t *testing.T) {
	w := healthy()
	w.nodes = append(w.nodes, node("n4", "True"))
	w.run(t, "node", "remove", "n1", "--confirm", "n1", "--wait=false")
	n, err := w.l.Core.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil || n.Labels[v1alpha1.LabelLeaving] != "true" {
		t.Errorf("labels %v, %v", n.Labels, err)
	}
	c, err := w.l.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal]; !slices.Equal(s.Exclude, []string{"bd-a"}) {
		t.Errorf("excluded %v", s.Exclude)
	}
}

func TestReplacingADiskExcludesTheOldAndLabelsTheNew(t *testing.T) {
	w := healthy()
	w.run(t, "disk", "replace", "bd-c", "--confirm", "iomesh", "--wait=false")
	c, err := w.l.Cluster(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s := c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal]
	if !slices.Equal(s.Exclude, []string{"bd-c"}) || s.Selector.MatchLabels["iomesh.com/disk-map"] != "dataStoreWithJournal" {
		b, _ := json.Marshal(s)
		t.Errorf("device map %s", b)
	}
	devices, err := w.l.ListDevices(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if d := deviceNamed(devices, "bd-d"); d.Labels["iomesh.com/disk-map"] != "dataStoreWithJournal" {
		t.Errorf("the new disk has the labels %v", d.Labels)
	}
}
