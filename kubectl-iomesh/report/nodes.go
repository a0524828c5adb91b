package report

import "github.com/iomesh/iomesh/kubectl-iomesh/output"

// NodeList is what `node list` prints.
type NodeList struct {
	output.Meta
	Items  []Node   `json:"items"`
	Source string   `json:"source"`
	Unread []Unread `json:"unread,omitempty"`
}

// BuildNodes takes the nodes from a status.
func BuildNodes(s *Status) *NodeList {
	return &NodeList{Meta: output.Of("NodeList"), Items: s.Nodes, Source: s.Source, Unread: s.Unread}
}

// Names implements output.Value.
func (l *NodeList) Names() []string {
	var out []string
	for _, n := range l.Items {
		out = append(out, "node/"+n.Name)
	}
	return out
}

// Table implements output.Value.
func (l *NodeList) Table(p *output.Page, wide bool) {
	drawNodes(p, l.Items, wide)
	for _, u := range l.Unread {
		p.Line("Could not read %s: %s", u.What, u.Why)
	}
}
