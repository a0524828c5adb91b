//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
	"github.com/iomesh/iomesh/tests/story"
)

// TestRepair makes a cluster of its own: four nodes with a spare disk each.
func TestRepair(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	l := openHere(t)
	if err := l.Cluster.Down(ctx, true); err != nil {
		t.Fatal(err)
	}
	if err := l.Up(ctx, lab.Setup{Nodes: 4, DisksPerNode: 2, DiskBytes: 3 << 30, Tag: tag}); err != nil {
		t.Fatal(err)
	}
	if err := story.Repair(ctx, l, tag); err != nil {
		dump(ctx, l)
		t.Fatal(err)
	}
	if err := l.Cluster.Down(ctx, true); err != nil {
		t.Error(err)
	}
}
