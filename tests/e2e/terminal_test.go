//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

// TestDisksAreMappedOnATerminal installs IOMesh and gives it its disks by the keys of `kubectl iomesh disk map`, in a terminal of 80×24.
func TestDisksAreMappedOnATerminal(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	l := openHere(t)
	must(t, l.Cluster.Down(ctx, true))
	must(t, l.Up(ctx, lab.Setup{Nodes: 3, DisksPerNode: 1, DiskBytes: 6 << 30, Tag: tag}))
	must(t, install(ctx, l))
	must(t, disksPublished(ctx, l))
	dir, err := os.MkdirTemp("", "tmux")
	must(t, err)
	defer os.RemoveAll(dir)
	tmux := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "tmux", append([]string{"-u", "-f", filepath.Join(dir, "conf"), "-S", filepath.Join(dir, "s")}, args...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	// The pane stays when the plugin has ended.
	pane := append(append([]string{}, l.Cluster.Enter()...), "sh", "-c", `env "$@"; echo "exit code $?"; exec cat`, "sh", "NO_COLOR=1", "KUBECONFIG="+l.Cluster.Kubeconfig(),
		filepath.Join(l.Root, "bin", "kubectl-iomesh"), "disk", "map")
	must(t, os.WriteFile(filepath.Join(dir, "conf"), []byte("set -g status off\n"), 0o600))
	tmux(append([]string{"new-session", "-d", "-x", "80", "-y", "24", "-s", "s", "--"}, pane...)...)
	defer func() { _ = exec.Command("tmux", "-S", filepath.Join(dir, "s"), "kill-server").Run() }()
	shows := func(text string) {
		t.Helper()
		screen := ""
		if err := l.Until(ctx, time.Minute, "the terminal shows "+text, func(context.Context) string {
			screen = tmux("capture-pane", "-p", "-t", "s")
			return unless(strings.Contains(screen, text), "not yet")
		}); err != nil {
			t.Fatalf("%v; it shows\n%s", err, screen)
		}
		l.Say("%s", screen)
	}
	keys := func(names ...string) { t.Helper(); tmux(append([]string{"send-keys", "-t", "s", "--"}, names...)...) }
	shows("[ ]")
	keys("a")
	shows("3 disks on 3 nodes")
	keys("Enter")
	shows(`Type "iomesh" to go on`)
	keys("iomesh", "Enter")
	shows("Device map of cluster iomesh applied.")
	must(t, l.Until(ctx, 3*time.Minute, "all disks are in use", func(ctx context.Context) string {
		st, err := l.Status(ctx)
		if err != nil {
			return err.Error()
		}
		return unless(st.Disks.Active == 3, "not all are active")
	}))
	must(t, l.Cluster.Down(ctx, true))
}
