package placement

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

type edit func(*corev1.Node)

func node(name, ip string, edits ...edit) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if ip != "" {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
	}
	for _, e := range edits {
		e(&n)
	}
	return n
}

func notReady(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }
func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }
func labelled(k, v string) edit {
	return func(n *corev1.Node) { n.Labels[k] = v }
}
func tainted(key string, effect corev1.TaintEffect) edit {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func TestMeta(t *testing.T) {
	three := []corev1.Node{node("n3", "10.0.0.3"), node("n1", "10.0.0.1"), node("n2", "10.0.0.2")}
	for _, tc := range []struct {
		name     string
		nodes    []corev1.Node
		policy   *v1alpha1.PodPolicy
		pinned   []Member
		replicas int32
		want     string // "node@address node@address" by ordinal
		err      []string
	}{
		{"nodes are taken by name whatever order they come in", three, nil, nil, 3, "n1@10.0.0.1 n2@10.0.0.2 n3@10.0.0.3", nil},
		{"one member takes one node", three, nil, nil, 1, "n1@10.0.0.1", nil},
		{"a pinned member stays where it is with its old address, although its node is gone",
			three, nil, []Member{{Ordinal: 1, Node: "gone", Address: "10.9.9.9"}}, 3, "n1@10.0.0.1 gone@10.9.9.9 n2@10.0.0.2", nil},
		{"members are spread over zones before names",
			[]corev1.Node{node("a", "10.0.0.1", labelled(LabelZone, "z1")), node("b", "10.0.0.2", labelled(LabelZone, "z1")),
				node("c", "10.0.0.3", labelled(LabelZone, "z1")), node("d", "10.0.0.4", labelled(LabelZone, "z2"))},
			nil, nil, 3, "a@10.0.0.1 d@10.0.0.4 b@10.0.0.2", nil},
		{"every unsuitable node is named with its reason",
			[]corev1.Node{node("a", "10.0.0.1"), node("b", "10.0.0.2", notReady), node("c", "10.0.0.3", cordoned),
				node("d", "10.0.0.4", tainted("dedicated", corev1.TaintEffectNoSchedule)), node("e", "")},
			nil, nil, 3, "a@10.0.0.1", []string{"meta.replicas is 3 and only 1 nodes are suitable", "b is not ready", "c is cordoned",
				"d has the taint dedicated:NoSchedule", "e has no internal IP"}},
		{"a node that is leaving takes no member", append(three[:2:2], node("n2", "10.0.0.2", labelled(v1alpha1.LabelLeaving, "true"))), nil,
			[]Member{{Ordinal: 0, Node: "n1", Address: "10.0.0.1"}, {Ordinal: 1, Node: "n3", Address: "10.0.0.3"}}, 3, "n1@10.0.0.1 n3@10.0.0.3", []string{"n2 is leaving"}},
		{"the place of a member that left is taken by a free node", append(three[:3:3], node("n4", "10.0.0.4")), nil,
			[]Member{{Ordinal: 1, Node: "n2", Address: "10.0.0.2"}, {Ordinal: 2, Node: "n3", Address: "10.0.0.3"}}, 3, "n1@10.0.0.1 n2@10.0.0.2 n3@10.0.0.3", nil},
		{"a taint is tolerated by the policy",
			[]corev1.Node{node("d", "10.0.0.4", tainted("dedicated", corev1.TaintEffectNoSchedule))},
			&v1alpha1.PodPolicy{Tolerations: []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}}, nil, 1, "d@10.0.0.4", nil},
		{"the node selector restricts", three, &v1alpha1.PodPolicy{NodeSelector: map[string]string{"disk": "yes"}}, nil, 1, "",
			[]string{"n1 has no label disk=yes (podPolicy.nodeSelector)"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			members, err := Meta(tc.nodes, tc.policy, tc.pinned, tc.replicas)
			var got []string
			for i, m := range members {
				if tc.err == nil && m.Ordinal != int32(i) {
					t.Errorf("member %d has ordinal %d", i, m.Ordinal)
				}
				got = append(got, m.Node+"@"+m.Address)
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("members %q, want %q", s, tc.want)
			}
			if (err != nil) != (tc.err != nil) {
				t.Fatalf("error %v", err)
			}
			for _, part := range tc.err {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

func TestAllowedEvaluatesAffinityAsTheSchedulerDoes(t *testing.T) {
	term := func(rs ...corev1.NodeSelectorRequirement) *v1alpha1.PodPolicy {
		return &v1alpha1.PodPolicy{Affinity: &v1alpha1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: rs}}}}}}
	}
	n := node("n1", "10.0.0.1", labelled("disks", "4"), labelled("kind", "fast"))
	for _, tc := range []struct {
		name   string
		policy *v1alpha1.PodPolicy
		want   bool
	}{
		{"In matches one of the values", term(corev1.NodeSelectorRequirement{Key: "kind", Operator: corev1.NodeSelectorOpIn, Values: []string{"slow", "fast"}}), true},
		{"NotIn excludes", term(corev1.NodeSelectorRequirement{Key: "kind", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"fast"}}), false},
		{"Gt compares numbers", term(corev1.NodeSelectorRequirement{Key: "disks", Operator: corev1.NodeSelectorOpGt, Values: []string{"3"}}), true},
		{"Gt with a word matches nothing", term(corev1.NodeSelectorRequirement{Key: "disks", Operator: corev1.NodeSelectorOpGt, Values: []string{"many"}}), false},
		{"all expressions of a term must hold", term(
			corev1.NodeSelectorRequirement{Key: "kind", Operator: corev1.NodeSelectorOpExists},
			corev1.NodeSelectorRequirement{Key: "gpu", Operator: corev1.NodeSelectorOpExists}), false},
		{"an empty term matches nothing", term(), false},
		{"an unknown operator matches nothing", term(corev1.NodeSelectorRequirement{Key: "kind", Operator: "Like", Values: []string{"f*"}}), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, reason := Allowed(&n, tc.policy); got != tc.want || !got && reason == "" {
				t.Errorf("allowed %v (%s), want %v", got, reason, tc.want)
			}
		})
	}
}

func TestDataAddress(t *testing.T) {
	n := node("n1", "10.0.0.1")
	for _, tc := range []struct {
		name, cidr string
		reported   []string
		want, err  string
	}{
		{"without a network the internal IP is used", "", []string{"192.168.5.7"}, "10.0.0.1", ""},
		{"the internal IP is preferred when it is inside", "10.0.0.0/24", []string{"10.0.0.99"}, "10.0.0.1", ""},
		{"an address that only the agent knows is found", "192.168.5.0/24", []string{"192.168.7.7", "192.168.5.7"}, "192.168.5.7", ""},
		{"a missing report is told apart from a missing address", "192.168.5.0/24", nil, "", "has not yet reported"},
		{"a node without an address inside says what it has", "192.168.5.0/24", []string{"172.16.0.1"}, "", "172.16.0.1"},
		{"a bad network is named", "10.0.0.0", nil, "", `chunk.dataCIDR "10.0.0.0"`},
		{"garbage in a report is passed over", "192.168.5.0/24", []string{"not-an-ip", "192.168.5.7"}, "192.168.5.7", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := DataAddress(&n, tc.reported, tc.cidr)
			if got != tc.want {
				t.Errorf("address %q, want %q", got, tc.want)
			}
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want one that says %q", err, tc.err)
			}
		})
	}
}
