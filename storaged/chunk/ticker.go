package chunk

import (
	"context"
	"time"

	"github.com/iomesh/iomesh/storaged/replication"
)

// ticker drives the machines: those of volumes that are not quiet each replication.TickInterval, that of the leases when it is due. A chunk whose
// volumes are quiet sleeps from one heartbeat to the next.
type ticker struct {
	wake chan struct{} // capacity 1: something is due sooner than was thought
	beat chan struct{} // capacity 1: heartbeats went out to other chunks, with which that to the meta leader can go
}

// lookMax bounds the sleep, for what has no deadline of its own: scrubs that become due.
const lookMax = 5 * time.Second

func newTicker() *ticker {
	return &ticker{wake: make(chan struct{}, 1), beat: make(chan struct{}, 1)}
}

// poke says that the next tick may have to come sooner. It never blocks.
func (t *ticker) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// beats says that heartbeats went out. It never blocks.
func (t *ticker) beats() {
	select {
	case t.beat <- struct{}{}:
	default:
	}
}

func (t *ticker) run(ctx context.Context, s *Server) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	silent := replication.NeverDue // when a chunk will have been silent for too long
	last := s.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-timer.C:
			s.leases.tick()
			s.volumes.tick()
			silent = s.dropSilent()
			last = s.now()
		}
		next := min(last.Add(lookMax), replication.Time(s.leases.next.Load()), silent)
		if s.volumes.anyAwake() {
			next = min(next, last.Add(replication.TickInterval))
		}
		timer.Reset(max(0, next.Sub(s.now())))
	}
}
