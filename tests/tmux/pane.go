// Package tmux runs a program in a terminal of its own, for tests that press its keys and read its screen. Each pane has a server of its own, which ends
// with the test.
package tmux

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shownWithin bounds the wait for a screen; it is long because the machine may be busy.
const shownWithin = 60 * time.Second

// Pane is a terminal with one program in it.
type Pane struct {
	t      testing.TB
	socket string
}

// Start runs a program, with variables added to its environment, in a terminal of a size in columns and rows. When the program has ended, a line "exit
// code N" follows what it drew last.
func Start(t testing.TB, width, height int, env []string, argv ...string) *Pane {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatal("tmux is missing: install the Debian packages of hack/deps.sh")
	}
	dir, err := os.MkdirTemp("", "tmux") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	p := &Pane{t: t, socket: filepath.Join(dir, "s")}
	t.Cleanup(func() {
		_ = exec.Command("tmux", "-S", p.socket, "kill-server").Run()
		_ = os.RemoveAll(dir)
	})
	config := filepath.Join(dir, "conf")
	// The pane has the whole window.
	if err := os.WriteFile(config, []byte("set -g status off\nset -g default-terminal screen-256color\nset -g escape-time 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The pane stays when the program has ended.
	inner := append(append([]string{"sh", "-c", `env "$@"; echo "exit code $?"; exec cat`, "sh"}, env...), argv...)
	p.Do(append([]string{"-f", config, "new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height), "-s", "s", "--"}, inner...)...)
	return p
}

// Do gives tmux a command, whose target is "s".
func (p *Pane) Do(args ...string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "tmux", append([]string{"-u", "-S", p.socket}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Keys presses keys by tmux's names: Down, Enter, Space, or characters.
func (p *Pane) Keys(names ...string) {
	p.t.Helper()
	p.Do(append([]string{"send-keys", "-t", "s", "--"}, names...)...)
}

// Screen is what the pane shows now, without blanks at the ends of its lines and empty lines at its end.
func (p *Pane) Screen() string {
	p.t.Helper()
	lines := strings.Split(p.Do("capture-pane", "-p", "-t", "s"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
}

// Until looks again and again until the pane is as wanted, and returns what it shows then. The test fails when that takes too long.
func (p *Pane) Until(what string, ok func(screen string) bool) string {
	p.t.Helper()
	deadline := time.Now().Add(shownWithin)
	for {
		screen := p.Screen()
		if ok(screen) {
			return screen
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("never shown within %s: %s; now it is\n%s", shownWithin, what, screen)
		}
		select {
		case <-p.t.Context().Done():
			p.t.Fatal(p.t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Shows waits for a text and returns the screen.
func (p *Pane) Shows(text string) string {
	p.t.Helper()
	return p.Until(text, func(screen string) bool { return strings.Contains(screen, text) })
}
