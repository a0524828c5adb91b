//go:build e2e

package e2e

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
	"github.com/iomesh/iomesh/tests/tmux"
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
	plugin := append(append([]string{}, l.Cluster.Enter()...), filepath.Join(l.Root, "bin", "kubectl-iomesh"), "disk", "map")
	x := tmux.Start(t, 80, 24, []string{"NO_COLOR=1", "KUBECONFIG=" + l.Cluster.Kubeconfig()}, plugin...)
	shows := func(text string) {
		t.Helper()
		l.Say("the terminal shows %s\n%s", text, x.Shows(text))
	}
	shows("[ ]")
	x.Keys("a")
	shows("3 disks on 3 nodes")
	x.Keys("Enter")
	shows(`Type "iomesh" to go on`)
	x.Keys("iomesh", "Enter")
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
