package meta

import (
	"context"
	"time"

	"github.com/iomesh/iomesh/internal/beat"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// electionPoll bounds how late a change of raft's leader is noticed where its notification does not tell (losing it).
const electionPoll = time.Second

// electionLoop leads while etcd's raft leader is this process. There is no election of our own: raft's leader is alive
// and connected to a majority, and metadata is nearest to it. That two processes may believe it for a moment is
// harmless: the later term wins the key, and every mutation is guarded by it.
func (s *server) electionLoop(ctx context.Context, raft Raft, db *metadb.DB) {
	me := raft.MemberID()
	tick := beat.Every(electionPoll)
	defer tick.Stop()
	var end func() // ends the leadership and waits for it
	var term uint64
	stop := func() {
		if end != nil {
			end()
			end = nil
		}
	}
	defer stop()
	for {
		leads := raft.Leader() == me && !raft.IsLearner()
		switch now := raft.Term(); {
		case leads && (end == nil || now != term || s.lead.Load() == nil):
			stop()
			if f, err := s.takeOver(ctx, db, uint64(me), now); err == nil {
				end, term = f, now
			} else if ctx.Err() == nil {
				s.log.Warn("taking the leadership failed; trying again", "term", now, "error", err)
			}
		case !leads && end != nil:
			s.log.Info("no longer the meta leader", "term", term)
			stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-raft.LeaderChangedNotify():
		}
	}
}
