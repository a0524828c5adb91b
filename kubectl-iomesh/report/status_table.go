package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// styleOf is the colour of a state word.
func styleOf(word string) output.Style {
	switch word {
	case "OK", "Ready", "Online", "Active", "active", "Claimed", "Healthy":
		return output.Good
	case "Degraded", "Installing", "maintenance", "Draining", "Drained", "Stalled", "Unhealthy", "Released", "Pending", "Ready,SchedulingDisabled", "warning", "Unclaimed":
		return output.Warn
	case "AtRisk", "Unavailable", "Error", "Offline", "Failed", "Missing", "NotReady", "critical", "Inactive", "Failing":
		return output.Bad
	}
	return output.Plain
}

func word(s string) output.Cell { return output.S(output.Or(s), styleOf(s)) }

// Names implements output.Value.
func (s *Status) Names() []string { return []string{"iomeshcluster.iomesh.com/" + s.Name} }

// Table implements output.Value.
func (s *Status) Table(p *output.Page, wide bool) {
	p.Line("Cluster    %s in namespace %s", s.Name, s.Namespace)
	p.Line("Phase      %s", p.Styled(s.Phase, styleOf(s.Phase)))
	health := p.Styled(s.Health, styleOf(s.Health))
	if s.Reason != "" {
		health += "  " + s.Reason
	}
	p.Line("Health     %s", health)
	if s.Task != "" {
		p.Line("Task       %s", s.Task)
	}
	p.Line("Meta       %d of %d healthy, leader %s", s.Members.Healthy, s.Members.Members, output.Or(s.Members.Leader))
	p.Line("Volumes    %d (%d degraded, %d unavailable)", s.Volumes.Total, s.Volumes.Degraded, s.Volumes.Unavailable)
	p.Line("Space      %s", spaceText(s.Space))
	p.Line("Resync     %s", resyncText(s.Resync))
	p.Line("Disks      %d of %d claimed are active; %d more eligible", s.Disks.Active, s.Disks.Claimed, s.Disks.Eligible)
	var parts []string
	for _, c := range s.Components {
		text := fmt.Sprintf("%s %d/%d", c.Name, c.Ready, c.Pods)
		if c.Ready < c.Pods {
			text = p.Styled(text, output.Warn)
		}
		parts = append(parts, text)
	}
	p.Line("Pods       %s", output.Or(strings.Join(parts, ", ")))
	p.Line("Version    client %s, cluster %s", s.Version.Client, output.Or(strings.Join(s.Version.Images, ", ")))
	if wide {
		p.Line("ClusterID  %s", output.Or(s.ClusterID))
	}
	if s.Source == "object" {
		when := "an unknown time"
		if s.AsOf != nil {
			when = s.AsOf.UTC().Format(time.RFC3339)
		}
		p.Line("%s", p.Styled("Figures are the operator's view of "+when+": the block service could not be asked.", output.Warn))
	}
	s.nodeTable(p, wide)
	s.taskTable(p)
	s.problemTable(p)
}

func spaceText(s Space) string {
	if s.TotalBytes == 0 {
		return "no disks"
	}
	return fmt.Sprintf("%s used of %s raw (%d %%), %s provisioned", output.Bytes(s.UsedBytes), output.Bytes(s.TotalBytes), s.UsedBytes*100/s.TotalBytes, output.Bytes(s.ProvisionedBytes))
}

func resyncText(r Resync) string {
	switch {
	case r.BytesLeft == 0:
		return "nothing to copy"
	case r.BytesPerSecond == 0:
		return output.Bytes(r.BytesLeft) + " to copy, not running"
	}
	left := time.Duration(r.BytesLeft/r.BytesPerSecond) * time.Second
	return fmt.Sprintf("%s to copy at %s/s, about %s", output.Bytes(r.BytesLeft), output.Bytes(r.BytesPerSecond), output.Age(left))
}

func (s *Status) nodeTable(p *output.Page, wide bool) {
	p.Line("")
	drawNodes(p, s.Nodes, wide)
}

func drawNodes(p *output.Page, nodes []Node, wide bool) {
	if len(nodes) == 0 {
		p.Line("No storage nodes yet.")
		return
	}
	header := []string{"NODE", "STATE", "MODE", "KUBERNETES", "DISKS", "OWNS", "SESSIONS", "ATTACH"}
	if wide {
		header = append(header, "ADDRESS", "VERSION", "MESSAGE")
	}
	var rows [][]output.Cell
	for _, n := range nodes {
		disks := output.C(fmt.Sprintf("%d/%d", n.DisksActive, n.Disks))
		if n.DisksActive < n.Disks {
			disks.Style = output.Bad
		}
		row := []output.Cell{output.C(n.Name), word(n.State), word(n.Mode), word(n.Kubernetes), disks, output.C(n.OwnedVolumes), output.C(n.Sessions), output.C(output.Or(n.Attach))}
		if wide {
			row = append(row, output.C(output.Or(n.Address)), output.C(output.Or(n.Version)), output.C(output.Or(n.Message)))
		}
		rows = append(rows, row)
	}
	p.Table(header, rows)
}

func (s *Status) taskTable(p *output.Page) {
	if len(s.Tasks) == 0 {
		return
	}
	p.Line("")
	var rows [][]output.Cell
	for _, t := range s.Tasks {
		progress := "-"
		if t.BytesTotal > 0 {
			progress = fmt.Sprintf("%d %% of %s", t.BytesDone*100/t.BytesTotal, output.Bytes(t.BytesTotal))
		}
		rows = append(rows, []output.Cell{output.C(t.Kind), output.C(t.Object), output.C(output.Or(t.State)), output.C(progress), output.C(output.Or(t.Message))})
	}
	p.Table([]string{"TASK", "OBJECT", "STATE", "PROGRESS", "MESSAGE"}, rows)
}

func (s *Status) problemTable(p *output.Page) {
	if len(s.Problems) > 0 {
		p.Line("")
		p.Line("Problems")
		for _, x := range s.Problems {
			p.Line("  %s  %s: %s", p.Styled(fmt.Sprintf("%-8s", x.Severity), styleOf(x.Severity)), x.Object, x.Message)
			if x.NextStep != "" {
				p.Line("            → %s", x.NextStep)
			}
		}
	}
	if len(s.Unread) > 0 {
		p.Line("")
		p.Line("Could not read")
		for _, u := range s.Unread {
			p.Line("  %s: %s", u.What, u.Why)
		}
	}
}
