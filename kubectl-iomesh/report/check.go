package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// CheckReport is what `check` prints.
type CheckReport struct {
	output.Meta
	Findings []Finding `json:"findings"`
	Unread   []Unread  `json:"unread"`
	Nodes    int       `json:"nodes"`
}

// Finding is the result of one check. Status: ok, warning, failed, unknown.
type Finding struct {
	Scope    string `json:"scope"` // a node, or "cluster"
	ID       string `json:"id"`
	Status   string `json:"status"`
	Evidence string `json:"evidence"`
	Fix      string `json:"fix,omitempty"`
}

// Answer is what one agent found, and when it was asked and had answered by our clock.
type Answer struct {
	Response        *agentv1.CheckResponse
	Asked, Answered time.Time
}

// skewMax is the difference between the clocks of nodes above which logs, certificates and leases of others suffer.
const skewMax = 500 * time.Millisecond

// BuildCheck joins the agents' findings and adds what only a comparison between nodes shows.
func BuildCheck(answers []Answer, cluster []Finding, unread []Unread) *CheckReport {
	// Answers come in the order in which nodes happened to finish.
	slices.SortFunc(answers, func(a, b Answer) int { return strings.Compare(a.Response.Node, b.Response.Node) })
	slices.SortFunc(unread, func(a, b Unread) int { return strings.Compare(a.What, b.What) })
	r := &CheckReport{Meta: output.Of("CheckReport"), Findings: append([]Finding{}, cluster...), Unread: append([]Unread{}, unread...), Nodes: len(answers)}
	words := map[agentv1.Status]string{agentv1.Status_STATUS_OK: "ok", agentv1.Status_STATUS_WARNING: "warning", agentv1.Status_STATUS_FAILED: "failed"}
	for _, a := range answers {
		for _, f := range a.Response.Findings {
			w := words[f.Status]
			if w == "" {
				w = "unknown"
			}
			r.Findings = append(r.Findings, Finding{a.Response.Node, f.Id, w, f.Evidence, f.Fix})
		}
	}
	r.Findings = append(r.Findings, clockSkew(answers)...)
	r.Findings = append(r.Findings, mtu(answers)...)
	r.Sort()
	return r
}

// Sort puts the gravest first.
func (r *CheckReport) Sort() {
	rank := map[string]int{"failed": 0, "unknown": 1, "warning": 2, "ok": 3}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		if d := rank[a.Status] - rank[b.Status]; d != 0 {
			return d
		}
		if d := strings.Compare(a.Scope, b.Scope); d != 0 || a.Scope == "volume" { // whose steps have an order
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
}

// clockSkew compares the nodes' clocks through ours: each answer says what the node's clock was at some moment between asking and answering.
// Two clocks differ for sure by what remains after both uncertainties.
func clockSkew(answers []Answer) []Finding {
	if len(answers) < 2 {
		return nil
	}
	type offset struct {
		node   string
		lo, hi time.Duration // of the node's clock against ours
	}
	var offsets []offset
	for _, a := range answers {
		if a.Response.Now == nil {
			continue
		}
		now := a.Response.Now.AsTime()
		offsets = append(offsets, offset{a.Response.Node, now.Sub(a.Answered), now.Sub(a.Asked)})
	}
	worst := Finding{Scope: "cluster", ID: "clock-skew", Status: "ok", Evidence: fmt.Sprintf("no two clocks differ by more than %s for sure", skewMax)}
	most := skewMax
	for i, a := range offsets {
		for _, b := range offsets[i+1:] {
			sure := max(a.lo-b.hi, b.lo-a.hi)
			if sure > most {
				most = sure
				worst.Status, worst.Fix = "failed", "run a time service (chrony) on all nodes"
				worst.Evidence = fmt.Sprintf("the clocks of %s and %s differ by at least %s", a.node, b.node, sure.Round(time.Millisecond))
			}
		}
	}
	return []Finding{worst}
}

func mtu(answers []Answer) []Finding {
	byMTU := map[uint32][]string{}
	for _, a := range answers {
		if m := a.Response.DataMtuBytes; m > 0 {
			byMTU[m] = append(byMTU[m], a.Response.Node)
		}
	}
	if len(byMTU) < 2 {
		return nil
	}
	var parts []string
	for m, nodes := range byMTU {
		slices.Sort(nodes)
		parts = append(parts, fmt.Sprintf("%d on %s", m, strings.Join(nodes, ", ")))
	}
	slices.Sort(parts)
	return []Finding{{"cluster", "mtu", "failed", "the MTU of the data network differs: " + strings.Join(parts, "; "), "set one MTU on all nodes and switches of the data network"}}
}

// Failed reports whether the command ends with the code for problems: something failed, or could not be asked.
func (r *CheckReport) Failed() bool {
	return len(r.Unread) > 0 || slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Status == "failed" })
}

// Names implements output.Value.
func (r *CheckReport) Names() []string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, "finding/"+f.Scope+"/"+f.ID)
	}
	return out
}

// Table implements output.Value.
func (r *CheckReport) Table(p *output.Page, wide bool) {
	count := map[string]int{}
	styles := map[string]output.Style{"ok": output.Good, "warning": output.Warn, "failed": output.Bad, "unknown": output.Warn}
	var rows [][]output.Cell
	for _, f := range r.Findings {
		count[f.Status]++
		if f.Status == "ok" && !wide {
			continue
		}
		rows = append(rows, []output.Cell{output.S(f.Status, styles[f.Status]), output.C(f.Scope), output.C(f.ID), output.C(f.Evidence)})
		if f.Fix != "" && f.Status != "ok" {
			rows = append(rows, []output.Cell{output.C(""), output.C(""), output.C(""), output.C("→ " + f.Fix)})
		}
	}
	if len(rows) > 0 {
		p.Table([]string{"STATUS", "WHERE", "CHECK", "EVIDENCE AND FIX"}, rows)
		p.Line("")
	}
	p.Line("%s on %s: %d ok, %s, %d failed, %d unknown", output.Count(len(r.Findings), "check"), output.Count(r.Nodes, "node"), count["ok"], output.Count(count["warning"], "warning"), count["failed"], count["unknown"])
	if !wide && count["ok"] > 0 {
		p.Line("Those that are ok are shown with -o wide.")
	}
	for _, u := range r.Unread {
		p.Line("Could not examine %s: %s", u.What, u.Why)
	}
}
