package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
)

// staleAfter is how old the operator's view may be before it is called stale.
const staleAfter = 2 * time.Minute

// problems adds what concerns the whole, and orders all of them.
func (s *Status) problems(f Facts) {
	switch v1alpha1.HealthState(s.Health) {
	case v1alpha1.HealthUnavailable:
		s.add("critical", "data", or(s.Reason, "some volumes do not serve"), s.NextStep)
	case v1alpha1.HealthAtRisk:
		s.add("critical", "data", or(s.Reason, "one more fault would stop or lose data"), s.NextStep)
	case v1alpha1.HealthDegraded:
		s.add("warning", "data", or(s.Reason, "fewer replicas than wanted"), s.NextStep)
	case v1alpha1.HealthUnknown:
		if s.Phase != string(v1alpha1.PhaseInstalling) {
			s.add("critical", "data", or(s.Reason, "its health is unknown: the metadata members do not answer"), s.NextStep)
		}
	}
	for i := range f.Pods {
		p := &f.Pods[i]
		if t := link.Trouble(p); t != "" {
			s.add("warning", "pod "+p.Name, t+on(p.Spec.NodeName), "see: kubectl describe pod -n "+p.Namespace+" "+p.Name)
		}
	}
	for i := range f.Devices {
		d := &f.Devices[i]
		if d.Spec.Claim == nil && d.Status.Claim == nil {
			continue
		}
		switch {
		case d.Status.State == v1alpha1.DeviceInactive:
			s.add("critical", "disk "+d.Name+" on "+d.Spec.Node, "is not there any more (was "+d.Spec.Path+")", "put it back, or replace it")
		case d.Status.Message != "":
			s.add("warning", "disk "+d.Name+" on "+d.Spec.Node, d.Status.Message, "")
		case d.Status.LastSeen != nil && f.Now.Sub(d.Status.LastSeen.Time) > 10*time.Minute:
			s.add("warning", "disk "+d.Name+" on "+d.Spec.Node, "its agent has been silent since "+d.Status.LastSeen.UTC().Format(time.RFC3339), "see: kubectl get pods -n "+s.Namespace+" -o wide")
		}
	}
	for _, c := range f.Cluster.Status.Conditions {
		switch {
		case c.Type == v1alpha1.ConditionDevicesMapped && c.Status == "False":
			s.add("warning", "device map", c.Message, "see: kubectl iomesh disk list")
		case c.Type == v1alpha1.ConditionDegraded && c.Status == "True" && s.Health == string(v1alpha1.HealthOK):
			s.add("warning", "cluster "+s.Name, c.Message, "")
		case c.Type == v1alpha1.ConditionReady && c.Status == "False" && s.Phase != string(v1alpha1.PhaseReady):
			s.add("warning", "cluster "+s.Name, "not ready: "+c.Message, nextOf(c.Reason, s))
		}
	}
	s.spaceProblems()
	if len(s.Version.Images) > 1 {
		s.add("warning", "version", "two images run at once: "+strings.Join(s.Version.Images, ", "), "wait for the rolling update to end; task: "+or(s.Task, "none"))
	}
	if s.Source == "object" {
		if s.AsOf != nil && f.Now.Sub(*s.AsOf) > staleAfter {
			s.add("warning", "status", "the figures are the operator's of "+s.AsOf.UTC().Format(time.RFC3339), "the block service does not answer; see what could not be read")
		}
	}
	s.dedupe()
}

// spaceProblems has the original's thresholds.
func (s *Status) spaceProblems() {
	if s.Space.TotalBytes <= 0 {
		return
	}
	percent := s.Space.UsedBytes * 100 / s.Space.TotalBytes
	switch {
	case percent >= 90:
		s.add("critical", "space", fmt.Sprintf("%d %% of the raw capacity is used", percent), "add disks or delete volumes; a full cluster stops taking writes")
	case percent >= 80:
		s.add("warning", "space", fmt.Sprintf("%d %% of the raw capacity is used", percent), "add disks or delete volumes")
	}
}

func on(node string) string {
	if node == "" {
		return ""
	}
	return " (on " + node + ")"
}

// dedupe removes repetitions and puts the worst first, otherwise in the order found.
func (s *Status) dedupe() {
	seen := map[string]bool{}
	s.Problems = slices.DeleteFunc(s.Problems, func(p Problem) bool {
		key := p.Object + "\x00" + p.Message
		was := seen[key]
		seen[key] = true
		return was
	})
	rank := map[string]int{"critical": 0, "warning": 1}
	slices.SortStableFunc(s.Problems, func(a, b Problem) int { return rank[a.Severity] - rank[b.Severity] })
}

// Sick reports whether the command ends with the code for problems.
func (s *Status) Sick() bool { return len(s.Problems) > 0 || len(s.Unread) > 0 }

// nextOf is the command that helps with a reason of the Ready condition.
func nextOf(reason string, s *Status) string {
	switch reason {
	case "NoDeviceMap":
		if s.Disks.Eligible > 0 {
			return fmt.Sprintf("%d disks are eligible; map them with: kubectl iomesh disk map", s.Disks.Eligible)
		}
		return "no disk is eligible; see why: kubectl iomesh disk list"
	case "NoDisks":
		return "see: kubectl iomesh disk list"
	}
	return ""
}
