package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/operator/placement"
)

// judge evaluates what the metadata members say together with what Kubernetes says of nodes and pods.
func judge(f *Facts) status.Verdict {
	var read time.Time
	why := ""
	last := f.Cluster.Status
	switch {
	case f.Storage != nil:
		read = f.Now
	case last.MetaAsOf != nil:
		read = last.MetaAsOf.Time
	}
	if f.StorageErr != nil {
		why = f.StorageErr.Error()
	}
	facts := status.FromStatus(f.Storage, why, read, f.Now)
	if known := trimKnown(last.HealthReason); f.Storage == nil && known != "" {
		for _, s := range status.States() {
			if s > status.OK && string(last.Health) == s.Word() {
				facts.Given = append(facts.Given, status.Finding{Code: status.Reported, State: s, Object: status.Object{Kind: status.KindCluster, Name: f.Cluster.Name},
					Reason: lastKnown + known, NextStep: last.NextStep, At: read, Stale: true})
			}
		}
	}
	chunk := map[string]bool{}
	for _, c := range f.Chunks {
		chunk[c.Node] = true
	}
	for i := range f.Nodes {
		if n := &f.Nodes[i]; chunk[n.Name] && !placement.Ready(n) {
			facts.Nodes = append(facts.Nodes, status.Node{Name: n.Name, Online: true, NotReady: true})
		}
	}
	if want, have := nodeSetWant(f), nodeSetReady(f); f.everReady() && f.NodeSet != nil && have < want {
		facts.Components = append(facts.Components, status.Component{Name: f.NodeSet.Name, Message: fmt.Sprintf("%d of %d pods are ready", have, want)})
	}
	return status.Evaluate(facts)
}

const lastKnown = "last known: "

// trimKnown keeps the reason of the last answer, and only that, through any number of rounds without one.
func trimKnown(reason string) string {
	if _, known, ok := strings.Cut(reason, lastKnown); ok {
		return known
	}
	if strings.HasPrefix(reason, status.SilentReason) {
		return ""
	}
	return reason
}
