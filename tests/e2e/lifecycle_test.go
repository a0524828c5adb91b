//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
	"github.com/iomesh/iomesh/tests/story"
)

// TestLifecycle makes a cluster of its own: three nodes with a spare disk each, and a fourth that joins.
func TestLifecycle(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Minute)
	defer cancel()
	l := openHere(t)
	if err := l.Cluster.Down(ctx, true); err != nil {
		t.Fatal(err)
	}
	setup := lab.Setup{Nodes: 3, DisksPerNode: 2, DiskBytes: 3 << 30, Tag: tag}
	if err := l.Up(ctx, setup); err != nil {
		t.Fatal(err)
	}
	if err := story.Lifecycle(ctx, l, setup, tag+"-b"); err != nil {
		dump(ctx, l)
		t.Fatal(err)
	}
	if err := l.Cluster.Down(ctx, true); err != nil {
		t.Error(err)
	}
}
