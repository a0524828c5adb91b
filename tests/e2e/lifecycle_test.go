//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
	"github.com/iomesh/iomesh/tests/story"
)

// TestLifecycle tells story.Lifecycle: three nodes with a spare disk each, and a fourth that joins. Version B is built of the same sources with another
// name, which its programs tell.
func TestLifecycle(t *testing.T) {
	current, next := versions(t)
	onOwnCluster(t, 45*time.Minute, 3, func(ctx context.Context, l *lab.Lab, setup lab.Setup) error {
		return story.Lifecycle(ctx, l, setup, current, next)
	})
}

// versions are the one that is built and one that follows it, which is built before there is a cluster that would feel it.
func versions(t *testing.T) (current, next lab.Version) {
	t.Helper()
	l := openHere(t)
	current, err := l.Current(t.Context(), tag)
	must(t, err)
	next, err = l.BuildNext(t.Context(), current)
	must(t, err)
	return current, next
}
