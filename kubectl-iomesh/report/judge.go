package report

import (
	"time"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
)

// StatusFacts joins what the block service said with what only Kubernetes knows: nodes it gave up, and pods that do not run.
func StatusFacts(f Facts) status.Facts {
	var read time.Time
	st := &f.Cluster.Status
	if f.Data != nil {
		read = f.Now
	} else if st.MetaAsOf != nil {
		read = st.MetaAsOf.Time
	}
	why := ""
	for _, u := range f.Unread {
		if u.What == "block service" {
			why = u.Why
		}
	}
	facts := status.FromStatus(f.Data, why, read, f.Now)
	if f.Data == nil {
		if last, known := stateOf(st.Health); known && last > status.OK {
			facts.Given = append(facts.Given, status.Finding{Code: status.Reported, State: last, Object: status.Object{Kind: status.KindCluster, Name: f.Cluster.Name},
				Reason: st.HealthReason, NextStep: st.NextStep, At: read, Stale: true})
		}
	}
	storage := map[string]bool{}
	for _, n := range f.Data.GetNodes() {
		storage[n.GetName()] = true
	}
	for _, n := range st.Nodes {
		storage[n.Name] = true
	}
	for i := range f.Nodes {
		if n := &f.Nodes[i]; storage[n.Name] && NodeReady(n) == NodeIsNotReady {
			facts.Nodes = append(facts.Nodes, status.Node{Name: n.Name, Online: true, NotReady: true})
		}
	}
	for i := range f.Pods {
		p := &f.Pods[i]
		switch link.Component(p) {
		case "controller", link.ComponentNode, link.ComponentAttach:
			// Members and chunks are judged by what the block service says of them.
			t := link.Trouble(p)
			facts.Components = append(facts.Components, status.Component{Name: p.Name, Node: p.Spec.NodeName, Up: t == "", Message: t,
				NextStep: "see: kubectl describe pod -n " + p.Namespace + " " + p.Name})
		}
	}
	return facts
}

func stateOf(h v1alpha1.HealthState) (status.State, bool) {
	for _, s := range status.States() {
		if string(h) == s.Word() {
			return s, true
		}
	}
	return status.OK, false
}

// judge sets health, reason and next step. A cluster that never was ready has no state yet: there is no data that could be in one.
func (s *Status) judge(f Facts) {
	v := status.Evaluate(StatusFacts(f))
	s.Findings = v.Findings
	if s.Findings == nil {
		s.Findings = []status.Finding{}
	}
	if f.Data == nil && (s.Phase == string(v1alpha1.PhaseInstalling) || s.Phase == "Unknown") {
		s.Health, s.Findings = string(v1alpha1.HealthUnknown), []status.Finding{}
		return
	}
	s.Health, s.Reason, s.NextStep = v.State.Word(), v.Reason(), v.NextStep()
}
