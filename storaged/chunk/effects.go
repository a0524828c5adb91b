package chunk

import (
	"sync"

	"github.com/iomesh/iomesh/storaged/replication"
)

// effects is a reusable list of what a machine wants done.
type effects struct{ list []replication.Effect }

var effectPool = sync.Pool{New: func() any { return &effects{list: make([]replication.Effect, 0, 16)} }}

func getEffects() *effects { return effectPool.Get().(*effects) }

// put returns the list; whatever the effects referred to is let go.
func (e *effects) put() {
	clear(e.list)
	if cap(e.list) > 1024 {
		e.list = make([]replication.Effect, 0, 16)
	}
	e.list = e.list[:0]
	effectPool.Put(e)
}
