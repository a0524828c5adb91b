package output

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Style is what a word means; it becomes a colour where colours are wanted.
type Style int

// Styles.
const (
	Plain Style = iota
	Good
	Warn
	Bad
	Dim
)

var ansi = map[Style]string{Good: "\x1b[32m", Warn: "\x1b[33m", Bad: "\x1b[31m", Dim: "\x1b[2m"}

// Cell is one field of a table.
type Cell struct {
	Text  string
	Style Style
}

// C is a plain cell of any value.
func C(v any) Cell { return Cell{Text: fmt.Sprint(v)} }

// S is a cell with a style.
func S(text string, s Style) Cell { return Cell{text, s} }

// Page collects what is drawn.
type Page struct {
	b     strings.Builder
	color bool
}

// NewPage returns a page for tests and other renderers.
func NewPage(color bool) *Page { return &Page{color: color} }

// String is the page.
func (p *Page) String() string { return p.b.String() }

// Line adds a line of text.
func (p *Page) Line(format string, args ...any) {
	p.b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " "))
	p.b.WriteByte('\n')
}

// Styled returns text in its colour, if the page has colours.
func (p *Page) Styled(text string, s Style) string {
	if !p.color || s == Plain || text == "" {
		return text
	}
	return ansi[s] + text + "\x1b[0m"
}

// Table adds rows under a header, in columns three spaces apart. Widths are counted without colours.
func (p *Page) Table(header []string, rows [][]Cell) {
	head := make([]Cell, len(header))
	for i, h := range header {
		head[i] = S(h, Dim)
	}
	all := append([][]Cell{head}, rows...)
	width := make([]int, len(header))
	for _, row := range all {
		for i, c := range row {
			if i < len(width) {
				width[i] = max(width[i], utf8.RuneCountInString(c.Text))
			}
		}
	}
	for _, row := range all {
		var line strings.Builder
		for i, c := range row {
			if i >= len(width) {
				break
			}
			line.WriteString(p.Styled(c.Text, c.Style))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.Text)+3))
			}
		}
		p.b.WriteString(strings.TrimRight(line.String(), " "))
		p.b.WriteByte('\n')
	}
}

// Bytes is a size for people.
func Bytes(n int64) string {
	if n < 0 {
		return "?"
	}
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// Age is a duration for people: 12s, 5m, 3h, 2d.
func Age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Count is a number with its noun: "1 disk", "2 disks".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Or is text, or a dash where there is none.
func Or(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
