package command

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

// nodePreparation is what node prepare prints: the plan, or what became of it.
type nodePreparation struct {
	output.Meta
	Undo   bool            `json:"undo"`
	Nodes  []preparedNode  `json:"nodes"`
	Unread []report.Unread `json:"unread"`
}

type preparedNode struct {
	Name     string         `json:"name"`
	Recorded bool           `json:"recorded"` // there is something to undo
	Attach   string         `json:"attach"`   // how volumes would be attached as the machine is, if the cluster does not say
	Reason   string         `json:"attachReason"`
	Steps    []preparedStep `json:"steps"`

	plan string
}

// preparedStep is one step on one node. State: done, needed, impossible, failed, unknown.
type preparedStep struct {
	ID       string        `json:"id"`
	State    string        `json:"state"`
	Changed  bool          `json:"changed"` // by this run
	Evidence string        `json:"evidence"`
	File     *preparedFile `json:"file,omitempty"`
	Commands [][]string    `json:"commands,omitempty"`
	Left     []string      `json:"left,omitempty"`
}

type preparedFile struct {
	Path    string `json:"path"`
	Content string `json:"content,omitempty"`
	Remove  bool   `json:"remove,omitempty"`
}

func preparedNodeOf(name string, r *agentv1.PrepareResponse) preparedNode {
	words := map[agentv1.PrepareState]string{agentv1.PrepareState_PREPARE_STATE_DONE: "done", agentv1.PrepareState_PREPARE_STATE_NEEDED: "needed",
		agentv1.PrepareState_PREPARE_STATE_IMPOSSIBLE: "impossible", agentv1.PrepareState_PREPARE_STATE_FAILED: "failed"}
	n := preparedNode{Name: name, Recorded: r.Recorded, Attach: r.Attach, Reason: r.AttachReason, Steps: []preparedStep{}, plan: r.Plan}
	for _, s := range r.Steps {
		st := preparedStep{ID: s.Id, State: words[s.State], Changed: s.Changed, Evidence: s.Evidence, Left: s.Left}
		if st.State == "" {
			st.State = "unknown"
		}
		if s.File != nil {
			st.File = &preparedFile{Path: s.File.Path, Content: string(s.File.Content), Remove: s.File.Remove}
		}
		for _, c := range s.Commands {
			st.Commands = append(st.Commands, c.Arguments)
		}
		n.Steps = append(n.Steps, st)
	}
	return n
}

func (n *preparedNode) has(states ...string) bool {
	return slices.ContainsFunc(n.Steps, func(s preparedStep) bool { return slices.Contains(states, s.State) })
}

// plans are the ids of the plans that would do something, by node. The last step to undo is to forget: also where nothing else is left.
func (p *nodePreparation) plans() map[string]string {
	out := map[string]string{}
	for i := range p.Nodes {
		if n := &p.Nodes[i]; n.has("needed") || p.Undo && n.Recorded {
			out[n.Name] = n.plan
		}
	}
	return out
}

// with replaces the plans by what became of them.
func (p *nodePreparation) with(done *nodePreparation) *nodePreparation {
	out := *p
	out.Nodes = slices.Clone(p.Nodes)
	for i := range out.Nodes {
		for j := range done.Nodes {
			if done.Nodes[j].Name == out.Nodes[i].Name {
				out.Nodes[i] = done.Nodes[j]
			}
		}
	}
	out.Unread = append(slices.Clone(p.Unread), done.Unread...)
	return &out
}

// verdict is what the command ends with: after a run a node that was not done is a failure, in a plan it is a problem.
func (p *nodePreparation) verdict(ran bool) error {
	failed, problems := map[string]bool{}, len(p.Unread) > 0
	for _, u := range p.Unread {
		failed[u.What] = true
	}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		if ran && n.has("failed", "needed", "unknown") {
			failed["node "+n.Name] = true
		}
		problems = problems || n.has("impossible", "failed", "unknown") || slices.ContainsFunc(n.Steps, func(s preparedStep) bool { return len(s.Left) > 0 })
	}
	switch {
	case ran && len(failed) > 0:
		return fault.Failed(nil, "see above; the same command goes on where this one ended", "%s could not be finished", output.Count(len(failed), "node"))
	case problems:
		return fault.ErrProblems
	}
	return nil
}

// Names implements output.Value.
func (p *nodePreparation) Names() []string {
	var out []string
	for _, n := range p.Nodes {
		out = append(out, "node/"+n.Name)
	}
	return out
}

// Table implements output.Value.
func (p *nodePreparation) Table(page *output.Page, wide bool) {
	styles := map[string]output.Style{"done": output.Good, "needed": output.Warn, "impossible": output.Bad, "failed": output.Bad, "unknown": output.Warn}
	count := map[string]int{}
	var rows [][]output.Cell
	more := func(format string, args ...any) {
		rows = append(rows, []output.Cell{output.C(""), output.C(""), output.C(""), output.C(fmt.Sprintf(format, args...))})
	}
	for _, n := range p.Nodes {
		if len(n.Steps) == 0 {
			rows = append(rows, []output.Cell{output.C(n.Name), output.C("-"), output.S("done", output.Good), output.C("nothing is recorded there")})
		}
		for _, s := range n.Steps {
			state := output.S(s.State, styles[s.State])
			if s.Changed {
				state.Text = "changed"
			}
			count[state.Text]++
			evidence := strings.Split(strings.TrimSpace(s.Evidence), "\n")
			rows = append(rows, []output.Cell{output.C(n.Name), output.C(s.ID), state, output.C(printable(evidence[0]))})
			for _, line := range evidence[1:] {
				more("    %s", printable(line))
			}
			tell(s, more)
			for _, l := range s.Left {
				more("left alone: %s", printable(l))
			}
		}
		if wide && n.Attach != "" {
			more("volumes would be attached in mode %s: %s", n.Attach, printable(n.Reason))
		}
	}
	if len(rows) > 0 {
		page.Table([]string{"NODE", "STEP", "STATE", "EVIDENCE AND CHANGE"}, rows)
		page.Line("")
	}
	var parts []string
	for _, w := range []string{"done", "changed", "needed", "impossible", "failed", "unknown"} {
		if count[w] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[w], w))
		}
	}
	if len(p.Nodes) > 0 {
		page.Line("%s: %s", output.Count(len(p.Nodes), "node"), output.Or(strings.Join(parts, ", ")))
	}
	for _, u := range p.Unread {
		page.Line("Not done on %s: %s", u.What, printable(u.Why))
	}
}

// tell says what a step does, or did.
func tell(s preparedStep, more func(format string, args ...any)) {
	if f := s.File; f != nil && f.Remove {
		more("→ remove %s", printable(f.Path))
	} else if f != nil {
		more("→ write %s:", printable(f.Path))
		for line := range strings.Lines(f.Content) {
			more("    %s", printable(line))
		}
	}
	for _, c := range s.Commands {
		more("→ run %s", printable(strings.Join(c, " ")))
	}
}

// printable is a line of a node's, in a form that a terminal shows and does not obey.
func printable(text string) string {
	text = strings.ReplaceAll(strings.TrimRight(text, "\r\n"), "\t", "    ")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
}
