package tui

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestTheManualShowsTheScreens compares each block of the manual below a line <!-- screen NAME --> with the golden of that name.
func TestTheManualShowsTheScreens(t *testing.T) {
	const path = "../../docs/plugin.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	got := regexp.MustCompile("(?s)<!-- screen ([a-z0-9-]+) -->\n```\n.*?```\n").ReplaceAllStringFunc(string(b), func(block string) string {
		n++
		name, _, _ := strings.Cut(strings.TrimPrefix(block, "<!-- screen "), " ")
		screen, err := os.ReadFile("testdata/" + name + ".golden")
		if err != nil {
			t.Fatal(err)
		}
		want := "<!-- screen " + name + " -->\n```\n" + strings.TrimRight(string(screen), "\n") + "\n```\n"
		if block != want && !updating() {
			t.Errorf("%s shows another screen than testdata/%s.golden (go test -update rewrites it):\n%s", path, name, block)
		}
		return want
	})
	if n < 4 {
		t.Errorf("%s shows %d screens: those of disk map and upgrade, healthy and sick, are wanted", path, n)
	}
	if updating() {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
