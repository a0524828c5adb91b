package report

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// WhyFacts are what an explanation is made of, beside the facts of a status.
type WhyFacts struct {
	Facts
	Object      status.Object
	Namespace   string                         // of the pod or claim
	Pod         *corev1.Pod                    // asked for
	PVCs        []corev1.PersistentVolumeClaim // asked for, or the pod's
	PVs         []corev1.PersistentVolume
	Attachments []storagev1.VolumeAttachment
	Events      []corev1.Event       // of the pod and the claims
	Volumes     []*storagedv1.Volume // with their extents
}

// Why is what `why` prints.
type Why struct {
	output.Meta
	Object   status.Object `json:"object"`
	State    string        `json:"state"`
	NextStep string        `json:"nextStep,omitempty"`
	Causes   []Cause       `json:"causes"`
	Chain    []status.Step `json:"chain"`
	Unread   []Unread      `json:"unread,omitempty"`
}

// Cause is a finding with its state as a word.
type Cause struct {
	status.Finding
	State string `json:"state"`
}

// BuildWhy explains.
func BuildWhy(f WhyFacts) *Why {
	facts := StatusFacts(f.Facts)
	var g status.Graph
	g.Add(status.Object{Kind: status.KindCluster}, "cluster "+f.Cluster.Name, nil)
	if f.Data != nil {
		g.AddCluster(f.Data)
	}
	for _, c := range facts.Components {
		o := status.Object{Kind: status.KindComponent, Name: c.Name}
		says := "runs"
		if !c.Up {
			says = c.Message
		}
		g.Add(o, says, nil)
		g.Add(status.Object{Kind: status.KindNode, Name: c.Node}, "", nil, o)
	}
	for i := range f.Nodes {
		n := &f.Nodes[i]
		g.Add(status.Object{Kind: status.KindNode, Name: n.Name}, "", []string{"Kubernetes: " + NodeReady(n)})
	}
	for _, v := range f.Volumes {
		g.AddVolume(v, f.Data)
		if own, bad := status.FindingOf(v); bad {
			facts.Given = append(facts.Given, own)
		}
	}
	f.claims(&g, &facts)
	f.pod(&g, &facts)
	o := f.Object
	if o.Kind == status.KindDisk && f.Data != nil {
		// A disk may be named by its BlockDevice too.
		if d, ok := status.DiskNamed(f.Data, o.Name); ok {
			o = d
		}
	}
	x := status.Why(&g, status.Evaluate(facts), o)
	w := &Why{Meta: output.Of("Explanation"), Object: o, State: x.State.Word(), NextStep: x.Next(), Causes: []Cause{}, Chain: x.Chain, Unread: f.Unread}
	for _, c := range x.Causes {
		w.Causes = append(w.Causes, Cause{c, c.State.Word()})
	}
	if w.Chain == nil {
		w.Chain = []status.Step{}
	}
	return w
}

// Known reports whether there is such an object to explain.
func (f *WhyFacts) Known() bool {
	switch f.Object.Kind {
	case status.KindNode:
		return slices.ContainsFunc(f.Nodes, func(n corev1.Node) bool { return n.Name == f.Object.Name }) ||
			slices.ContainsFunc(f.Data.GetNodes(), func(n *storagedv1.Node) bool { return n.GetName() == f.Object.Name })
	case status.KindDisk:
		if f.Data == nil {
			return true
		}
		_, ok := status.DiskNamed(f.Data, f.Object.Name)
		return ok
	case status.KindMeta:
		return f.Data == nil || slices.ContainsFunc(f.Data.GetMeta(), func(m *storagedv1.MetaMember) bool { return m.GetName() == f.Object.Name })
	}
	return true
}

// events are the warnings about an object, newest last, at most three.
func (f *WhyFacts) events(kind, name string) []string {
	var list []corev1.Event
	for _, e := range f.Events {
		if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && e.Type == corev1.EventTypeWarning {
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	if len(list) > 3 {
		list = list[len(list)-3:]
	}
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprintf("event %s: %s", e.Reason, strings.TrimSpace(e.Message)))
	}
	return out
}

func (f *WhyFacts) claims(g *status.Graph, facts *status.Facts) {
	for i := range f.PVCs {
		c := &f.PVCs[i]
		o := status.Object{Kind: status.KindPVC, Name: c.Name}
		says := strings.ToLower(string(c.Status.Phase))
		evidence := f.events("PersistentVolumeClaim", c.Name)
		if c.Status.Phase != corev1.ClaimBound {
			facts.Given = append(facts.Given, status.Finding{Code: status.ClaimPending, State: status.Degraded, Object: o, Reason: "claim " + c.Name + " has no volume", Evidence: evidence,
				NextStep: "see: kubectl describe pvc -n " + c.Namespace + " " + c.Name, At: f.Now})
			g.Add(o, says, evidence)
			continue
		}
		var pv *corev1.PersistentVolume
		for j := range f.PVs {
			if f.PVs[j].Name == c.Spec.VolumeName {
				pv = &f.PVs[j]
			}
		}
		if pv == nil || pv.Spec.CSI == nil || pv.Spec.CSI.Driver != DriverName {
			g.Add(o, says+", not a volume of IOMesh", evidence)
			continue
		}
		name := pv.Spec.CSI.VolumeHandle
		for _, v := range f.Volumes {
			if v.GetId() == name {
				name = v.GetName()
			}
		}
		g.Add(o, says+" to PersistentVolume "+pv.Name, evidence, status.Object{Kind: status.KindVolume, Name: name})
		for _, a := range f.Attachments {
			if a.Spec.Source.PersistentVolumeName == nil || *a.Spec.Source.PersistentVolumeName != pv.Name {
				continue
			}
			says := "attached to node " + a.Spec.NodeName
			if !a.Status.Attached {
				says = "not attached to node " + a.Spec.NodeName + " yet"
			}
			var evidence []string
			for _, e := range []*storagev1.VolumeError{a.Status.AttachError, a.Status.DetachError} {
				if e != nil {
					evidence = append(evidence, e.Message)
					facts.Given = append(facts.Given, status.Finding{Code: status.AttachFailed, State: status.Degraded, Object: o, Reason: "attaching claim " + c.Name + " to node " + a.Spec.NodeName + ": " + e.Message,
						NextStep: "see: kubectl describe volumeattachment " + a.Name, At: e.Time.Time})
				}
			}
			g.Add(o, says, evidence, status.Object{Kind: status.KindNode, Name: a.Spec.NodeName})
		}
	}
}

func (f *WhyFacts) pod(g *status.Graph, facts *status.Facts) {
	if f.Pod == nil {
		return
	}
	o := status.Object{Kind: status.KindPod, Name: f.Pod.Name}
	deps := []status.Object{}
	for _, v := range f.Pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			deps = append(deps, status.Object{Kind: status.KindPVC, Name: v.PersistentVolumeClaim.ClaimName})
		}
	}
	if f.Pod.Spec.NodeName != "" {
		deps = append(deps, status.Object{Kind: status.KindNode, Name: f.Pod.Spec.NodeName})
	}
	evidence := f.events("Pod", f.Pod.Name)
	trouble := link.Trouble(f.Pod)
	says := "runs on node " + f.Pod.Spec.NodeName
	if trouble != "" {
		says = trouble
		facts.Given = append(facts.Given, status.Finding{Code: status.PodWaiting, State: status.Degraded, Object: o, Reason: "pod " + f.Pod.Name + ": " + trouble, Evidence: evidence,
			NextStep: "see: kubectl describe pod -n " + f.Pod.Namespace + " " + f.Pod.Name, At: f.Now})
	}
	g.Add(o, says, evidence, deps...)
}

// Names implements output.Value.
func (w *Why) Names() []string { return []string{w.Object.String()} }

// Table implements output.Value.
func (w *Why) Table(p *output.Page, _ bool) {
	p.Line("Object     %s", w.Object)
	p.Line("State      %s", word(w.State).Text)
	if w.NextStep != "" {
		p.Line("Next step  %s", w.NextStep)
	}
	if len(w.Causes) > 0 {
		p.Line("")
		p.Line("Causes, most likely first")
		for i, c := range w.Causes {
			stale := ""
			if c.Stale {
				stale = " (stale)"
			}
			p.Line("  %d. %s %s: %s%s", i+1, p.Styled(c.State, styleOf(c.State)), c.Code, c.Reason, stale)
			for _, e := range c.Evidence {
				p.Line("       %s", e)
			}
			if c.NextStep != "" {
				p.Line("     → %s", c.NextStep)
			}
		}
	}
	if len(w.Chain) > 0 {
		p.Line("")
		p.Line("Stands on")
		for _, s := range w.Chain {
			p.Line("  %s: %s", s.Object, s.Says)
			for _, e := range s.Evidence {
				p.Line("       %s", e)
			}
		}
	}
	if len(w.Unread) > 0 {
		p.Line("")
		p.Line("Could not read")
		for _, u := range w.Unread {
			p.Line("  %s: %s", u.What, u.Why)
		}
	}
}
