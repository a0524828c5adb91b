package tui

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// lines around the list: title, header, blank, why, pool, pool, command, message, keys.
const frameLines = 9

func (m *DiskMap) listHeight() int { return m.height - frameLines }

// View implements tea.Model.
func (m *DiskMap) View() tea.View { return fullScreen(m.Render()) }

// Render draws the screen: exactly the height, no line wider than the width.
func (m *DiskMap) Render() string {
	if !m.fits() {
		return m.tooSmall()
	}
	var lines []string
	if m.help {
		lines = helpLines()
	} else {
		lines = append(lines, m.title(), m.header())
		lines = append(lines, m.list()...)
		lines = append(lines, "", m.why())
		lines = append(lines, m.pool()...)
		lines = append(lines, m.commandLine(), m.note(), faint.Render(fit("? help  q leave  space choose  enter plan  a all  n none  m type  e eligible", m.width)))
	}
	return m.fill(lines)
}

func (m *DiskMap) title() string {
	left := fmt.Sprintf("Disks of cluster %s, to be used as %s", m.cluster.Name, mountTypes[m.mount])
	if m.stale == "" {
		return bold.Render(fit(left, m.width))
	}
	age := "never read"
	if !m.readAt.IsZero() {
		age = "of " + output.Age(m.now().Sub(m.readAt)) + " ago"
	}
	mark := " STALE (" + age + ") "
	return bold.Render(fit(left, m.width-len([]rune(mark)))) + warn.Reverse(true).Render(mark)
}

// columns of the list, as wide as fits.
func (m *DiskMap) row(mark, node, path, size, kind, state, rest string) string {
	line := fmt.Sprintf(" %-3s %-12s %-14s %10s %-5s %-9s %s", mark, fit(node, 12), fit(path, 14), size, fit(kind, 5), fit(state, 9), rest)
	return strings.TrimRight(fit(line, m.width), " ")
}

func (m *DiskMap) header() string {
	return faint.Render(m.row("", "NODE", "PATH", "SIZE", "TYPE", "STATE", "CONTENT, MODEL, SERIAL"))
}

func (m *DiskMap) list() []string {
	n := m.listHeight()
	visible := m.visible()
	out := make([]string, 0, n)
	if len(visible) == 0 {
		text := "No disks yet: the agents publish them when they run."
		switch {
		case m.readAt.IsZero() && m.stale == "":
			text = "Reading…"
		case m.onlyGood && len(m.devices) > 0:
			text = "No disk is eligible; e shows all, with the reasons."
		}
		out = append(out, fit("   "+text, m.width))
	}
	top := max(0, min(m.cursor-n/2, len(visible)-n))
	for i := top; i < len(visible) && len(out) < n; i++ {
		d := visible[i]
		line := m.deviceRow(d)
		switch {
		case i == m.cursor:
			line = m.underCursor(line)
		case m.chosen[d.Name]:
			line = good.Render(line)
		case !free(d):
			line = faint.Render(line)
		}
		out = append(out, line)
	}
	for len(out) < n {
		out = append(out, "")
	}
	return out
}

func (m *DiskMap) deviceRow(d *v1alpha1.BlockDevice) string {
	id := &d.Spec.Identity
	mark, state := "[ ]", "free"
	switch {
	case m.chosen[d.Name]:
		mark = "[x]"
	case d.Spec.Claim != nil && d.Spec.Claim.ClusterRef.UID == string(m.cluster.UID):
		mark, state = "[=]", "in use"
		if d.Status.State != v1alpha1.DeviceActive {
			state = "lost"
		}
	case d.Status.State != v1alpha1.DeviceActive:
		mark, state = " - ", "gone"
	case !free(d):
		mark, state = " - ", "unfit"
	}
	var rest []string
	for _, s := range []string{id.PartitionTable, id.Filesystem, strings.TrimSpace(id.Vendor + " " + id.Model), id.Serial, id.BackingFile} {
		if s != "" {
			rest = append(rest, s)
		}
	}
	if h := d.Status.Health; h != "" && h != v1alpha1.DeviceHealthUnknown && h != v1alpha1.DeviceHealthy {
		rest = append([]string{string(h)}, rest...)
	}
	return m.row(mark, d.Spec.Node, d.Spec.Path, output.Bytes(id.SizeBytes), string(id.DriveType), state, strings.Join(rest, ", "))
}

func (m *DiskMap) why() string {
	d := m.current()
	switch {
	case d == nil:
		return ""
	case free(d):
		return fit(d.Name, m.width)
	}
	return fit(d.Spec.Path+": "+whyNot(d), m.width)
}

func (m *DiskMap) pool() []string {
	if len(m.chosen) == 0 {
		return []string{faint.Render("Nothing chosen."), ""}
	}
	p, err := m.plan()
	if err != nil {
		return []string{warn.Render(fit(err.Error(), m.width)), ""}
	}
	a := p.After
	return []string{
		fit(fmt.Sprintf("Pool  %d disks on %d nodes, %s raw (now %s)", a.Disks, len(a.ByNodeBytes), output.Bytes(a.RawBytes), output.Bytes(p.Before.RawBytes)), m.width),
		fit(fmt.Sprintf("      usable %s at 2 replicas (%s after a node's loss), %s at 3", output.Bytes(a.Usable2Bytes), output.Bytes(a.HeadroomBytes), output.Bytes(a.Usable3Bytes)), m.width),
	}
}

func (m *DiskMap) commandLine() string {
	if line := m.CommandLine(); line != "" {
		return faint.Render(fit("$ "+line, m.width))
	}
	return ""
}

func (m *DiskMap) note() string {
	text := m.message
	if text == "" && m.stale != "" {
		return warn.Render(fitEnds(m.stale, m.width))
	}
	return warn.Render(fit(text, m.width))
}

func helpLines() []string {
	return []string{
		bold.Render("Keys"), "",
		"  ↑ ↓  k j      move            pgup pgdown home end",
		"  space  x      choose or unchoose the disk under the cursor",
		"  a  n          choose all eligible disks, or none",
		"  m             next mount type",
		"  e             show eligible disks only, or all",
		"  r             read again now (else each " + refreshEvery.Round(time.Second).String() + ")",
		"  enter         show the plan and ask for confirmation",
		"  q  esc        leave; nothing is changed", "",
		"[x] chosen   [ ] free   [=] in use by this cluster    -  cannot be chosen", "",
		"Any key closes this.",
	}
}
