//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
	"github.com/iomesh/iomesh/tests/story"
)

// TestLifecycle tells story.Lifecycle: three nodes with a spare disk each, and a fourth that joins.
func TestLifecycle(t *testing.T) {
	onOwnCluster(t, 45*time.Minute, 3, func(ctx context.Context, l *lab.Lab, setup lab.Setup) error {
		return story.Lifecycle(ctx, l, setup, tag+"-b")
	})
}
