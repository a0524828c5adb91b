package tui

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

var (
	bold  = lipgloss.NewStyle().Bold(true)
	faint = lipgloss.NewStyle().Faint(true)
	warn  = lipgloss.NewStyle().Foreground(lipgloss.Yellow)
	good  = lipgloss.NewStyle().Foreground(lipgloss.Green)
	here  = lipgloss.NewStyle().Reverse(true)
)

// Smallest size that is drawn.
const (
	widthMin  = 60
	heightMin = 12
)

// screen is the size of the terminal, which both models embed, and what they draw alike.
type screen struct{ width, height int }

// fits reports whether there is room to draw.
func (s screen) fits() bool { return s.width >= widthMin && s.height >= heightMin }

func (s screen) tooSmall() string {
	return fit(fmt.Sprintf("The terminal is %d×%d; at least %d×%d is needed. q leaves.", s.width, s.height, widthMin, heightMin), max(1, s.width))
}

// fill makes lines exactly as many as the screen has.
func (s screen) fill(lines []string) string {
	for len(lines) < s.height {
		lines = append(lines, "")
	}
	return strings.Join(lines[:s.height], "\n")
}

// underCursor draws a row in reverse video, to the edge.
func (s screen) underCursor(line string) string {
	return here.Render(line + strings.Repeat(" ", max(0, s.width-len([]rune(line)))))
}

// fullScreen is what a model shows: all of the terminal, which is as it was afterwards.
func fullScreen(text string) tea.View {
	v := tea.NewView(text)
	v.AltScreen = true
	return v
}

// fit cuts text to a width and marks the cut.
func fit(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	if width < 2 {
		return string(r[:width])
	}
	return string(r[:width-1]) + "…"
}

// fitEnds is fit for errors: what was attempted stands at the beginning, the cause at the end, and an address in between.
func fitEnds(s string, width int) string {
	r := []rune(s)
	if len(r) <= width || width < 4 {
		return fit(s, width)
	}
	head := width / 3
	return string(r[:head]) + "…" + string(r[len(r)-(width-head-1):])
}

// oneLine is an error for the one line that there is for it.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
