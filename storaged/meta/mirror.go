package meta

import (
	"context"
	"fmt"
	"sync"

	"github.com/iomesh/iomesh/storaged/metadb"
)

// mirror keeps a state up to date from a watch of everything. Every member runs one; what it says may lag behind etcd,
// which the revision guards of every write make harmless.
type mirror struct {
	mu      sync.RWMutex
	s       *state
	changed chan struct{} // closed and replaced at each update
}

func newMirror() *mirror { return &mirror{s: newState(), changed: make(chan struct{})} }

// run follows db until ctx ends.
func (m *mirror) run(ctx context.Context, db *metadb.DB) {
	for u := range db.WatchAll(ctx) {
		m.apply(u)
	}
}

func (m *mirror) apply(u metadb.Update) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.s.apply(u)
	close(m.changed)
	m.changed = make(chan struct{})
}

// view runs f with the state under a read lock. f must not keep the state, block, or call view.
func (m *mirror) view(f func(s *state)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	f(m.s)
}

// wait returns when the state is at least that of revision, so that a write is seen by what follows it.
func (m *mirror) wait(ctx context.Context, revision int64) error {
	for {
		m.mu.RLock()
		at, changed := m.s.revision, m.changed
		m.mu.RUnlock()
		if at >= revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for metadata revision %d, at %d: %w", revision, at, context.Cause(ctx))
		case <-changed:
		}
	}
}
