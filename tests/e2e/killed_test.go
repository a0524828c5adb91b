//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
	"github.com/iomesh/iomesh/tests/story"
)

// TestKilledAtEachStep tells story.Killed: four nodes with a spare disk each.
func TestKilledAtEachStep(t *testing.T) {
	current, next := versions(t)
	onOwnCluster(t, 25*time.Minute, 4, func(ctx context.Context, l *lab.Lab, _ lab.Setup) error {
		return story.Killed(ctx, l, current, next)
	})
}
