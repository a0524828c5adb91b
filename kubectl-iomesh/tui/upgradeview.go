package tui

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

// upgradeFrame are the lines around the list: title, bar, data, task in two, header; detail, message, command, keys.
const upgradeFrame = 10

// View implements tea.Model.
func (m *Upgrade) View() tea.View { return fullScreen(m.Render()) }

// Render draws the screen: exactly the height, no line wider than the width.
func (m *Upgrade) Render() string {
	if !m.fits() {
		return m.tooSmall()
	}
	var lines []string
	switch {
	case m.help:
		lines = upgradeHelp()
	case m.at == nil:
		text := "Reading…"
		if m.stale != "" {
			text = m.stale
		}
		lines = []string{bold.Render("Upgrade of IOMesh"), "", fitEnds("  "+text, m.width)}
	default:
		lines = append(lines, m.title(), m.bar(), m.data())
		lines = append(lines, m.task()...)
		lines = append(lines, m.header())
		lines = append(lines, m.list()...)
		lines = append(lines, m.detail(), m.note(), faint.Render(fit("$ "+m.CommandLine(), m.width)), faint.Render(fit("? help  q leave (it goes on)  p pause or resume  b roll back  r read now", m.width)))
	}
	return m.fill(lines)
}

func (m *Upgrade) title() string {
	u := m.at
	left := fmt.Sprintf("Upgrade of cluster %s to %s", u.Cluster, u.Target)
	mark, style := "", warn
	switch {
	case m.stale != "":
		mark, style = " STALE (of "+output.Age(m.now().Sub(m.readAt))+" ago) ", warn.Reverse(true)
	case u.Complete:
		mark, style = " DONE ", good.Reverse(true)
	case u.Paused != "":
		mark, style = " PAUSED ", warn.Reverse(true)
	}
	return bold.Render(fit(left, m.width-len([]rune(mark)))) + style.Render(mark)
}

// bar is the progress in nodes, with what is left of the time.
func (m *Upgrade) bar() string {
	u := m.at
	text := fmt.Sprintf(" %d of %d nodes", u.Updated, u.Total)
	switch left := m.pace.left(u, m.now()); {
	case u.Complete:
		text += ", everything runs the new version"
	case u.Paused != "":
	case left > 0:
		text += ", about " + output.Age(left) + " left"
	default:
		text += ", the time left shows after the first node"
	}
	width := max(10, min(40, m.width-len([]rune(text))-2))
	full := 0
	if u.Total > 0 {
		full = width * u.Updated / u.Total
	}
	return fit("["+strings.Repeat("#", full)+strings.Repeat("·", width-full)+"]"+text, m.width)
}

// data is the state of redundancy, which decides whether the next node may begin.
func (m *Upgrade) data() string {
	u := m.at
	switch {
	case u.DataError != "":
		return warn.Render(fit("Data     not known: "+u.DataError, m.width))
	case u.Unavailable > 0:
		return warn.Render(fit(fmt.Sprintf("Data     %d of %s cannot be served", u.Unavailable, output.Count(u.Volumes, "volume")), m.width))
	case u.Degraded > 0 || u.BytesLeft > 0:
		text := fmt.Sprintf("Data     %d of %s lack a replica, %s to copy", u.Degraded, output.Count(u.Volumes, "volume"), output.Bytes(u.BytesLeft))
		if u.BytesPerSecond > 0 {
			text += fmt.Sprintf(" at %s/s, %s", output.Bytes(u.BytesPerSecond), output.Age(time.Duration(u.BytesLeft/u.BytesPerSecond+1)*time.Second))
		}
		return warn.Render(fit(text, m.width))
	case u.Volumes == 0:
		return good.Render(fit("Data     no volumes", m.width))
	}
	return good.Render(fit(fmt.Sprintf("Data     all %s have all their replicas", output.Count(u.Volumes, "volume")), m.width))
}

// task is what the operator does, in at most two lines.
func (m *Upgrade) task() []string {
	const margin = "Doing    "
	text := m.at.Task
	if text == "" {
		text = "nothing"
	}
	room := m.width - len(margin)
	if len([]rune(text)) <= room {
		return []string{margin + text, ""}
	}
	head := string([]rune(text)[:room])
	if i := strings.LastIndexByte(head, ' '); i > 0 {
		head = head[:i]
	}
	return []string{margin + head, fit(strings.Repeat(" ", len(margin))+strings.TrimSpace(text[len(head):]), m.width)}
}

func (m *Upgrade) row(node, step, chunk, meta, pods, volumes string) string {
	line := fmt.Sprintf(" %-20s %-11s %-12s %-12s %-12s %7s", fit(node, 20), step, fit(chunk, 12), fit(meta, 12), fit(pods, 12), volumes)
	return strings.TrimRight(fit(line, m.width), " ")
}

// detail is why the node under the cursor is where it is, or else the first that has something to say.
func (m *Upgrade) detail() string {
	nodes := m.at.Nodes
	if m.cursor < len(nodes) && nodes[m.cursor].Why != "" {
		return fit(nodes[m.cursor].Name+": "+nodes[m.cursor].Why, m.width)
	}
	for _, n := range nodes {
		if n.Why != "" {
			return fit(n.Name+": "+n.Why, m.width)
		}
	}
	return ""
}

func (m *Upgrade) header() string {
	return faint.Render(m.row("NODE", "STEP", "CHUNK", "METADATA", "NODE PODS", "VOLUMES"))
}

var stepStyle = map[report.UpgradeStep]lipgloss.Style{
	report.StepDone: good, report.StepMoving: warn, report.StepRestarting: warn, report.StepReturning: warn, report.StepStuck: warn.Bold(true),
}

func (m *Upgrade) list() []string {
	n := m.height - upgradeFrame
	nodes := m.at.Nodes
	out := make([]string, 0, n)
	top := max(0, min(m.cursor-n/2, len(nodes)-n))
	for i := top; i < len(nodes) && len(out) < n; i++ {
		x := nodes[i]
		volumes := ""
		if x.Chunk != "" {
			volumes = fmt.Sprint(x.Volumes)
		}
		line := m.row(x.Name, string(x.Step), x.Chunk, x.Meta, x.Pods, volumes)
		switch s, styled := stepStyle[x.Step]; {
		case i == m.cursor:
			line = m.underCursor(line)
		case styled:
			line = s.Render(line)
		}
		out = append(out, line)
	}
	for len(out) < n {
		out = append(out, "")
	}
	return out
}

func (m *Upgrade) note() string {
	text := m.message
	switch {
	case m.asking != "":
		return bold.Render(fit(m.question(), m.width))
	case m.busy != "":
		text = m.busy + " …"
	case text == "" && m.stale != "":
		return warn.Render(fitEnds(m.stale, m.width))
	case text == "" && m.at.Paused != "":
		text = "paused: " + m.at.Paused
	}
	return warn.Render(fit(text, m.width))
}

func upgradeHelp() []string {
	return []string{
		bold.Render("Keys"), "",
		"  ↑ ↓  k j      move            g G home end",
		"  p             pause after the node under way, or resume",
		"  b  a          roll back: abort and return to the version before",
		"  r             read again now (else each " + upgradeEvery.String() + ")",
		"  q  esc        leave; the operator goes on by itself", "",
		"Steps of a node: waiting, moving (its volumes get other owners), restarting,",
		"returning, done. The next one begins when every volume has all its replicas.", "",
		"CHUNK, METADATA and NODE PODS show the version that runs.", "",
		"Any key closes this.",
	}
}
