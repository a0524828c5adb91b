package desired

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// annotationBudgetReason says on a budget why it is what it is, for whoever finds kubectl drain waiting.
const annotationBudgetReason = "iomesh.com/reason"

// ChunkBudgetName is the name of the chunk pods' budget.
const ChunkBudgetName = "iomesh-chunk"

// Budgets are the PodDisruptionBudgets. Chunk pods have a number and no percentage, because only that works for pods
// without a scalable controller.
func Budgets(in Input) []*policyv1.PodDisruptionBudget {
	var out []*policyv1.PodDisruptionBudget
	if len(in.Chunks) > 0 {
		b := in.budget(ChunkBudgetName, ComponentChunk, in.ChunkBudget.Reason)
		b.Spec.MinAvailable = ptr(intstr.FromInt32(in.ChunkBudget.MinAvailable))
		out = append(out, b)
	}
	// One member of several may go at a time. A single member has no budget: it cannot move, so a budget would block its node for ever.
	if len(in.Meta) > 1 {
		b := in.budget(MetaName, ComponentMeta, "a majority of the metadata members must run")
		b.Spec.MaxUnavailable = ptr(intstr.FromInt32(1))
		out = append(out, b)
	}
	return out
}

func (in Input) budget(name, component, reason string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: in.meta(name, component),
		Spec: policyv1.PodDisruptionBudgetSpec{
			Selector:                   &metav1.LabelSelector{MatchLabels: Selector(in.Cluster.Name, component)},
			UnhealthyPodEvictionPolicy: ptr(policyv1.AlwaysAllow), // a pod that does not serve may always go
		},
	}
	b.Annotations = map[string]string{annotationBudgetReason: reason}
	return b
}
