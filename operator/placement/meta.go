package placement

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Member is a metadata member: its ordinal, the node that holds its state, and its address. It changes only by leaving its node and being taken in
// anew on another.
type Member struct {
	Ordinal  int32
	Node     string
	Hostname string // value of the node's label kubernetes.io/hostname, which a volume's node affinity goes by
	Address  string
}

// Leaving reports whether a node is to hold no member.
func Leaving(n *corev1.Node) bool { return n.Labels[v1alpha1.LabelLeaving] == "true" }

// Rejection says why a node was not chosen.
type Rejection struct {
	Node   string
	Reason string
}

func (r Rejection) String() string { return r.Node + " " + r.Reason }

// Meta completes the pinned members to the wished number. It chooses ready, schedulable nodes that the policy allows, spread
// over zones, by name. err says what is missing; then nothing may be created, because the initial cluster is static.
func Meta(nodes []corev1.Node, policy *v1alpha1.PodPolicy, pinned []Member, replicas int32) ([]Member, error) {
	members := slices.Clone(pinned)
	slices.SortFunc(members, func(a, b Member) int { return int(a.Ordinal) - int(b.Ordinal) })
	taken := map[string]bool{}
	ordinals := map[int32]bool{}
	zones := map[string]int{}
	zoneOf := map[string]string{}
	for i := range nodes {
		zoneOf[nodes[i].Name] = nodes[i].Labels[LabelZone]
	}
	for _, m := range members {
		taken[m.Node], ordinals[m.Ordinal] = true, true
		zones[zoneOf[m.Node]]++
	}

	var candidates []*corev1.Node
	var rejected []Rejection
	for i := range nodes {
		n := &nodes[i]
		if taken[n.Name] {
			continue
		}
		if reason := against(n, policy); reason != "" {
			rejected = append(rejected, Rejection{n.Name, reason})
			continue
		}
		candidates = append(candidates, n)
	}
	suitable := len(candidates) + len(members)
	for ordinal := int32(0); ordinal < replicas; ordinal++ {
		if ordinals[ordinal] {
			continue
		}
		if len(candidates) == 0 {
			return members, shortage(replicas, suitable, rejected)
		}
		slices.SortStableFunc(candidates, func(a, b *corev1.Node) int {
			if d := zones[zoneOf[a.Name]] - zones[zoneOf[b.Name]]; d != 0 {
				return d
			}
			return strings.Compare(a.Name, b.Name)
		})
		n := candidates[0]
		candidates = candidates[1:]
		address, _ := InternalAddress(n)
		members = append(members, Member{Ordinal: ordinal, Node: n.Name, Hostname: hostname(n), Address: address})
		zones[zoneOf[n.Name]]++
	}
	slices.SortFunc(members, func(a, b Member) int { return int(a.Ordinal) - int(b.Ordinal) })
	return members, nil
}

// against says what speaks against starting a new member on a node; empty is nothing.
func against(n *corev1.Node, policy *v1alpha1.PodPolicy) string {
	if n.DeletionTimestamp != nil {
		return "is being deleted"
	}
	if Leaving(n) {
		return "is leaving (label " + v1alpha1.LabelLeaving + ")"
	}
	if n.Spec.Unschedulable {
		return "is cordoned"
	}
	if !Ready(n) {
		return "is not ready"
	}
	if ok, reason := Allowed(n, policy); !ok {
		return reason
	}
	if _, ok := InternalAddress(n); !ok {
		return "has no internal IP"
	}
	return ""
}

func hostname(n *corev1.Node) string {
	if h := n.Labels[corev1.LabelHostname]; h != "" {
		return h
	}
	return n.Name
}

func shortage(wanted int32, have int, rejected []Rejection) error {
	msg := fmt.Sprintf("meta.replicas is %d and only %d nodes are suitable", wanted, have)
	if len(rejected) > 0 {
		texts := make([]string, 0, len(rejected))
		for _, r := range rejected {
			texts = append(texts, r.String())
		}
		if len(texts) > 5 {
			texts = append(texts[:5], fmt.Sprintf("and %d more", len(rejected)-5))
		}
		msg += "; " + strings.Join(texts, "; ")
	}
	return fmt.Errorf("%s. Make nodes suitable, or lower meta.replicas before the cluster exists", msg)
}
