package meta

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// failoverMax bounds the time between two looks, failoverMin that before the next.
const (
	failoverMax = time.Second
	failoverMin = 5 * time.Millisecond
	// failoverRetry is the pause after a failure.
	failoverRetry = 50 * time.Millisecond
)

// failoverLoop gives the volumes of dead and restarted chunks to others.
func (l *leader) failoverLoop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := ""
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-timer.C:
		case <-l.reg.event:
		}
		next := failoverMax
		// Deciding looks at every volume; it is done only when something it depends on has changed.
		if now := l.signature(); now != last {
			if err := l.failover(); err != nil {
				l.log.Warn("giving volumes to other chunks failed; trying again", "error", err)
				next = failoverRetry
			} else {
				last = l.signature()
			}
		}
		timer.Reset(max(failoverMin, min(next, l.reg.untilDead())))
	}
}

// signature changes whenever a failover decision could.
func (l *leader) signature() string {
	var b strings.Builder
	l.view(func(s *state) {
		ids := make([]block.ChunkID, 0, len(s.chunks))
		for id := range s.chunks {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		fmt.Fprint(&b, s.revision)
		for _, id := range ids {
			live := l.reg.live(id)
			fmt.Fprint(&b, " ", id, live.Dead, live.Present, live.Boot, live.Unreachable)
		}
	})
	return b.String()
}

func (l *leader) failover() error {
	var changes []metadb.Owner
	l.view(func(s *state) {
		dead := map[block.ChunkID]bool{}
		for id := range s.chunks {
			dead[id] = l.reg.live(id).Dead
		}
		changes = planFailover(s, l.chunkFacts(s), dead)
	})
	if len(changes) == 0 {
		return nil
	}
	start := time.Now()
	results, err := l.db.SetOwners(l.ctx, l.guard, changes)
	if err != nil {
		return l.check(err)
	}
	moved := map[block.ChunkID]int{}
	var rev int64
	for i, r := range results {
		if r.Outcome == metadb.Committed {
			moved[changes[i].Chunk]++
			l.s.counters.failovers.Add(1)
			rev = max(rev, r.Current.Revision)
			l.log.Debug("volume has a new owner", "volume", changes[i].Volume, "chunk", changes[i].Chunk, "epoch", changes[i].Epoch)
		}
	}
	l.log.Info("volumes have new owners", "volumesByChunk", moved, "took", time.Since(start))
	return l.s.mirror.wait(l.ctx, rev)
}

// planFailover returns the owner changes that are due: volumes whose owner is dead, is not known, or was given the volume
// before its process started (it has forgotten its epoch). A volume that no present chunk can serve stays where it is.
func planFailover(s *state, chunks map[block.ChunkID]chunkFact, dead map[block.ChunkID]bool) []metadb.Owner {
	var out []metadb.Owner
	for id, o := range s.owners {
		v, ok := s.volumes[id]
		if !ok || v.State == metadb.StateDeleting || v.Unconfirmed != 0 {
			continue
		}
		c, known := s.chunks[o.Chunk]
		restarted := known && o.Revision < c.Revision
		if known && !dead[o.Chunk] && !restarted {
			continue
		}
		if o.Epoch >= block.EpochMax {
			continue
		}
		extents := s.extents[id]
		to := chooseOwner(extents, s.grantsOf(id), chunks, o.Chunk)
		if to == 0 {
			continue
		}
		f := chunks[to]
		f.Owned++ // spreads a batch
		chunks[to] = f
		out = append(out, metadb.Owner{Volume: id, Chunk: to, Epoch: o.Epoch + 1, Revision: o.Revision})
	}
	return out
}
