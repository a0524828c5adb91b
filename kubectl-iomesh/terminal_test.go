package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
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

// terminal is a tmux of its own with one pane, in which the plugin runs.
type terminal struct {
	t      *testing.T
	socket string
	size   size
}

// shownWithin bounds the wait for a screen; it is long because the machine may be busy.
const shownWithin = 60 * time.Second

// newTerminal runs the plugin with arguments against a server. The plugin is the one that IOMESH_PLUGIN names, or this program.
func newTerminal(t *testing.T, s *apiServer, size size, args ...string) *terminal {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatal("tmux is missing: install the Debian packages of hack/deps.sh")
	}
	plugin := os.Getenv("IOMESH_PLUGIN")
	if plugin == "" {
		var err error
		if plugin, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	// The path of a socket is short.
	dir, err := os.MkdirTemp("", "tmux")
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, socket: filepath.Join(dir, "s"), size: size}
	config := filepath.Join(dir, "conf")
	// The pane has the whole window.
	if err := os.WriteFile(config, []byte("set -g status off\nset -g default-terminal screen-256color\nset -g escape-time 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("tmux", "-S", x.socket, "kill-server").Run()
		_ = os.RemoveAll(dir)
	})
	// The pane stays when the plugin has ended.
	env := []string{"sh", "-c", `env "$@"; echo "exit code $?"; exec cat`, "sh", asPlugin + "=1", "NO_COLOR=1", "HOME=" + t.TempDir(), "KUBECONFIG=" + s.kubeconfig(t), plugin}
	x.tmux(append([]string{"-f", config, "new-session", "-d", "-x", fmt.Sprint(size.width), "-y", fmt.Sprint(size.height), "-s", "s", "--"}, append(env, args...)...)...)
	return x
}

func (x *terminal) tmux(args ...string) string {
	x.t.Helper()
	cmd := exec.CommandContext(x.t.Context(), "tmux", append([]string{"-u", "-S", x.socket}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		x.t.Fatalf("tmux %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// keys presses keys by tmux's names: Down, Enter, Space, or characters.
func (x *terminal) keys(names ...string) {
	x.t.Helper()
	x.tmux(append([]string{"send-keys", "-t", "s", "--"}, names...)...)
}

// variable is what differs from run to run: the port of the server, and how old a stale screen is.
var variable = regexp.MustCompile(`127\.0\.0\.1:[0-9]*|of [0-9]+s ago`)

// look is what the pane shows now.
func (x *terminal) look() string {
	x.t.Helper()
	lines := strings.Split(strings.TrimSuffix(x.tmux("capture-pane", "-p", "-t", "s"), "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	text := strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
	return variable.ReplaceAllStringFunc(text, func(s string) string {
		if strings.HasPrefix(s, "of") {
			return "of 0s ago"
		}
		host, port, _ := strings.Cut(s, ":")
		return host + ":" + strings.Repeat("0", len(port)) // where a line is cut depends on its length
	})
}

// until looks again and again until the pane is as wanted.
func (x *terminal) until(what string, ok func(screen string) bool) string {
	x.t.Helper()
	deadline := time.Now().Add(shownWithin)
	for {
		screen := x.look()
		if ok(screen) {
			return screen
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("never shown within %s: %s; now it is\n%s", shownWithin, what, screen)
		}
		select {
		case <-x.t.Context().Done():
			x.t.Fatal(x.t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// shows waits for a text.
func (x *terminal) shows(text string) {
	x.t.Helper()
	x.until(text, func(screen string) bool { return strings.Contains(screen, text) })
}

// golden waits until the pane shows exactly the golden of that name and of the terminal's size. A text that is on it is named as well, for the
// case that it is rewritten.
func (x *terminal) golden(name, text string) {
	x.t.Helper()
	path := filepath.Join("testdata", name+"-"+x.size.String()+".golden")
	if *update {
		before := ""
		screen := x.until(text, func(screen string) bool {
			same := screen == before
			before = screen
			return same && strings.Contains(screen, text)
		})
		if err := os.WriteFile(path, []byte(screen), 0o644); err != nil {
			x.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		x.t.Fatal(err)
	}
	x.until(path, func(screen string) bool { return screen == string(want) })
	if colour := regexp.MustCompile(`\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m`).FindString(x.tmux("capture-pane", "-e", "-p", "-t", "s")); colour != "" {
		x.t.Errorf("%s is drawn with the colour %q although NO_COLOR is set", path, colour)
	}
}

// resize gives the pane another size, and waits until the screen fills it: the line with the keys is the last.
func (x *terminal) resize(s size) {
	x.t.Helper()
	x.tmux("resize-window", "-t", "s", "-x", fmt.Sprint(s.width), "-y", fmt.Sprint(s.height))
	x.until("the screen at "+s.String(), func(screen string) bool {
		lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
		return len(lines) == s.height && strings.HasPrefix(lines[len(lines)-1], "? help")
	})
}

// exitCode waits for the end of the plugin.
func (x *terminal) exitCode() string {
	x.t.Helper()
	ended := regexp.MustCompile(`(?m)^exit code ([0-9]+)$`)
	return ended.FindStringSubmatch(x.until("the end of the plugin", ended.MatchString))[1]
}
