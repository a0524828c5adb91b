//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
	"github.com/iomesh/iomesh/tests/story"
)

// TestRepair tells story.Repair: four nodes with a spare disk each.
func TestRepair(t *testing.T) {
	onOwnCluster(t, 25*time.Minute, 4, func(ctx context.Context, l *lab.Lab, setup lab.Setup) error {
		return story.Repair(ctx, l, setup.Tag)
	})
}
