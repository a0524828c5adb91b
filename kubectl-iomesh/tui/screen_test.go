package tui

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
)

// updating reports whether the goldens, and the screens in the manual, are to be rewritten: flag -update, which teatest defines.
func updating() bool { return flag.Lookup("update").Value.String() == "true" }

// golden compares a drawn screen, without its colours, with the golden of that name, and with the size of the terminal.
func golden(t *testing.T, name, drawn string, width, height int) {
	t.Helper()
	lines := strings.Split(ansi.Strip(drawn), "\n")
	for i, l := range lines {
		if n := len([]rune(l)); n > width {
			t.Errorf("line %d has %d columns", i, n)
		}
		lines[i] = strings.TrimRight(l, " ")
	}
	if len(lines) > height {
		t.Errorf("%d lines", len(lines))
	}
	got := strings.Join(lines, "\n") + "\n"
	path := filepath.Join("testdata", name+".golden")
	if updating() {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("screen differs from %s:\n%s", path, got)
	}
}
