package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/iomesh/iomesh/tests/tmux"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// asPlugin makes this test's program the plugin.
const asPlugin = "IOMESH_TEST_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		main()
		return
	}
	klog.SetLogger(logr.Discard()) // what the server's WebSockets say of their end
	os.Exit(m.Run())
}

// size of a terminal in columns and rows.
type size struct{ width, height int }

func (s size) String() string { return fmt.Sprintf("%dx%d", s.width, s.height) }

var sizes = []size{{80, 24}, {200, 60}}

// terminal is one in which the plugin runs.
type terminal struct {
	*tmux.Pane
	t    *testing.T
	size size
}

// newTerminal runs the plugin with arguments against a server. The plugin is the one that IOMESH_PLUGIN names, or this program.
func newTerminal(t *testing.T, s *apiServer, size size, args ...string) *terminal {
	t.Helper()
	plugin := os.Getenv("IOMESH_PLUGIN")
	if plugin == "" {
		var err error
		if plugin, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{asPlugin + "=1", "NO_COLOR=1", "HOME=" + t.TempDir(), "KUBECONFIG=" + s.kubeconfig(t)}
	return &terminal{Pane: tmux.Start(t, size.width, size.height, env, append([]string{plugin}, args...)...), t: t, size: size}
}

// variable is what differs from run to run: the port of the server, and how old a stale screen is.
var variable = regexp.MustCompile(`127\.0\.0\.1:[0-9]*|of [0-9]+s ago`)

// same is a screen without what differs from run to run.
func same(screen string) string {
	return variable.ReplaceAllStringFunc(screen, func(s string) string {
		if strings.HasPrefix(s, "of") {
			return "of 0s ago"
		}
		host, port, _ := strings.Cut(s, ":")
		return host + ":" + strings.Repeat("0", len(port)) // where a line is cut depends on its length
	})
}

// golden waits until the pane shows exactly the golden of that name and of the terminal's size. A text that is on it is named as well, for the
// case that it is rewritten.
func (x *terminal) golden(name, text string) {
	x.t.Helper()
	path := filepath.Join("testdata", name+"-"+x.size.String()+".golden")
	if *update {
		before := ""
		screen := x.Until(text, func(screen string) bool {
			still := screen == before
			before = screen
			return still && strings.Contains(screen, text)
		})
		if err := os.WriteFile(path, []byte(same(screen)), 0o644); err != nil {
			x.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		x.t.Fatal(err)
	}
	x.Until(path, func(screen string) bool { return same(screen) == string(want) })
	if colour := regexp.MustCompile(`\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m`).FindString(x.Do("capture-pane", "-e", "-p", "-t", "s")); colour != "" {
		x.t.Errorf("%s is drawn with the colour %q although NO_COLOR is set", path, colour)
	}
}

// resize gives the pane another size, and waits until the screen fills it: the line with the keys is the last.
func (x *terminal) resize(s size) {
	x.t.Helper()
	x.Do("resize-window", "-t", "s", "-x", fmt.Sprint(s.width), "-y", fmt.Sprint(s.height))
	x.Until("the screen at "+s.String(), func(screen string) bool {
		lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
		return len(lines) == s.height && strings.HasPrefix(lines[len(lines)-1], "? help")
	})
}

// exitCode waits for the end of the plugin.
func (x *terminal) exitCode() string {
	x.t.Helper()
	ended := regexp.MustCompile(`(?m)^exit code ([0-9]+)$`)
	return ended.FindStringSubmatch(x.Until("the end of the plugin", ended.MatchString))[1]
}
