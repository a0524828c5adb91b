package placement

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// LabelZone is the well-known label of a node's failure domain.
const LabelZone = corev1.LabelTopologyZone

// Tolerated are the taints that every daemon of the cluster tolerates: a sick or lost node keeps its pods, since its disks
// cannot be served from elsewhere, and pressure on a node must not stop the storage of all.
func Tolerated() []corev1.Toleration {
	return []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists},
		// Set by hand to move pods off a node that was shut down; its disks are wanted when it returns.
		{Key: corev1.TaintNodeOutOfService, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists},
	}
}

// Ready reports the node's Ready condition.
func Ready(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Allowed reports whether a policy lets pods onto a node, whatever the node's state, and if not why.
func Allowed(node *corev1.Node, policy *v1alpha1.PodPolicy) (bool, string) {
	var tolerations []corev1.Toleration
	if policy != nil {
		for key, want := range policy.NodeSelector {
			if got, ok := node.Labels[key]; !ok || got != want {
				return false, fmt.Sprintf("has no label %s=%s (podPolicy.nodeSelector)", key, want)
			}
		}
		if policy.Affinity != nil && policy.Affinity.NodeAffinity != nil {
			if s := policy.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution; s != nil && !matchesAny(node, s.NodeSelectorTerms) {
				return false, "does not match podPolicy.affinity.nodeAffinity"
			}
		}
		tolerations = policy.Tolerations
	}
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule || t.Key == corev1.TaintNodeUnschedulable {
			continue // a cordon is a passing state, which callers look at by themselves
		}
		if !tolerates(append(Tolerated(), tolerations...), t) {
			return false, fmt.Sprintf("has the taint %s, which podPolicy.tolerations does not tolerate", t.ToString())
		}
	}
	return true, ""
}

func tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	for i := range tolerations {
		t := &tolerations[i]
		if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
			continue
		}
		switch t.Operator {
		case corev1.TolerationOpExists:
			return true
		case corev1.TolerationOpEqual, "":
			if t.Key != "" && t.Value == taint.Value {
				return true
			}
		}
	}
	return false
}

// matchesAny reports whether a node matches one of the terms, as the scheduler evaluates them; an empty term matches nothing.
func matchesAny(node *corev1.Node, terms []corev1.NodeSelectorTerm) bool {
	for _, term := range terms {
		if len(term.MatchExpressions) == 0 && len(term.MatchFields) == 0 {
			continue
		}
		if matchesAll(labels.Set(node.Labels), term.MatchExpressions) &&
			matchesAll(labels.Set{"metadata.name": node.Name}, term.MatchFields) {
			return true
		}
	}
	return false
}

var operators = map[corev1.NodeSelectorOperator]selection.Operator{
	corev1.NodeSelectorOpIn:           selection.In,
	corev1.NodeSelectorOpNotIn:        selection.NotIn,
	corev1.NodeSelectorOpExists:       selection.Exists,
	corev1.NodeSelectorOpDoesNotExist: selection.DoesNotExist,
	corev1.NodeSelectorOpGt:           selection.GreaterThan,
	corev1.NodeSelectorOpLt:           selection.LessThan,
}

func matchesAll(set labels.Set, requirements []corev1.NodeSelectorRequirement) bool {
	for _, r := range requirements {
		if r.Operator == corev1.NodeSelectorOpGt || r.Operator == corev1.NodeSelectorOpLt {
			// labels would panic-free but silently refuse a value that is no number: say no here.
			if len(r.Values) != 1 {
				return false
			}
			if _, err := strconv.ParseInt(r.Values[0], 10, 64); err != nil {
				return false
			}
		}
		req, err := labels.NewRequirement(r.Key, operators[r.Operator], r.Values)
		if err != nil || !req.Matches(set) {
			return false
		}
	}
	return true
}

// InternalAddress is the node's first internal IP, the one that host-network pods have.
func InternalAddress(node *corev1.Node) (string, bool) {
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				return ip.String(), true
			}
		}
	}
	return "", false
}

// DataAddress is the node's address in the storage network. cidr may be empty: the internal IP. addresses is what the node's
// agent reported of its host, which knows interfaces that Kubernetes does not.
func DataAddress(node *corev1.Node, addresses []string, cidr string) (string, error) {
	if cidr == "" {
		ip, ok := InternalAddress(node)
		if !ok {
			return "", fmt.Errorf("node %s has no internal IP in its status: check the kubelet's --node-ip", node.Name)
		}
		return ip, nil
	}
	network, err := netip.ParsePrefix(cidr)
	if err != nil {
		return "", fmt.Errorf("chunk.dataCIDR %q is not a network such as 10.234.1.0/24: %w", cidr, err)
	}
	var known []string
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			known = append(known, a.Address)
		}
	}
	reported := slices.Clone(addresses)
	slices.Sort(reported)
	known = append(known, reported...)
	for _, k := range known {
		if ip, err := netip.ParseAddr(k); err == nil && network.Contains(ip.Unmap()) {
			return ip.Unmap().String(), nil
		}
	}
	if len(addresses) == 0 {
		return "", fmt.Errorf("node %s: none of its known addresses (%s) is inside chunk.dataCIDR %s, and its agent has not yet reported others",
			node.Name, strings.Join(known, ", "), cidr)
	}
	return "", fmt.Errorf("node %s has no address inside chunk.dataCIDR %s (it has %s): give it one or correct chunk.dataCIDR",
		node.Name, cidr, strings.Join(known, ", "))
}
