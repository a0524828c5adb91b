package chunk

import (
	"sync"

	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// effects is a reusable list of what a machine wants done.
type effects struct {
	list []replication.Effect
	// with holds, for the effect at the same place of list, what was looked up while the machine was locked (volume.settle).
	with []attached
	// later, if not nil, has those woken who get work from the effects.
	later *wakes.List
	// own says that the message which the effects come from is of this chunk's owner.
	own bool
}

// attached is what an effect refers to outside the machine: of EffComplete and EffLocked the part that ends, of EffSend what the data lies
// in, with a reference.
type attached struct {
	part *part
	buf  *pagebuf.Buf
}

var effectPool = sync.Pool{New: func() any { return &effects{list: make([]replication.Effect, 0, 16)} }}

func getEffects() *effects { return effectPool.Get().(*effects) }

// put returns the list; whatever the effects referred to is let go.
func (e *effects) put() {
	clear(e.list)
	clear(e.with)
	e.with, e.later, e.own = e.with[:0], nil, false
	if cap(e.list) > 1024 {
		e.list, e.with = make([]replication.Effect, 0, 16), nil
	}
	e.list = e.list[:0]
	effectPool.Put(e)
}
