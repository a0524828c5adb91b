package meta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// leader is one leadership: from the take-over in a raft term to its end. All mutations go through commit, guarded by the
// leader key, so that after its end nothing of it can happen.
type leader struct {
	s     *server
	log   *slog.Logger
	db    *metadb.DB
	guard metadb.LeaderGuard
	term  uint64
	reg   *registry
	locks *locks
	now   func() time.Time

	ctx  context.Context // ends with the leadership
	stop context.CancelFunc

	// space is held from a placement until what was placed is in the mirror, so that two placements do not use the same room.
	space sync.Mutex

	moves    *moveBook
	repair   *repairBook
	sweep    *sweepBook
	confirms confirmBook
	health   memberHealth
}

// takeOver begins a leadership: writes the leader key, waits until the mirror shows everything written before it, and
// starts the duties. The returned function ends it and waits.
func (s *server) takeOver(ctx context.Context, db *metadb.DB, member, term uint64) (end func(), err error) {
	actx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	guard, err := db.TakeLeadership(actx, metadb.Leader{Member: member, Name: s.opts.Name, Term: term, Address: s.opts.me().GRPC})
	if err != nil {
		return nil, err
	}
	// Everything an earlier leader committed has a lower revision than our guard, so the mirror has it after this.
	if err := s.mirror.wait(actx, guard.Revision); err != nil {
		return nil, err
	}
	l := &leader{
		s: s, log: s.log.With("term", term), db: db, guard: guard, term: term, reg: newRegistry(time.Now), locks: newLocks(), now: time.Now,
		moves: newMoveBook(), repair: newRepairBook(), sweep: newSweepBook(),
	}
	l.ctx, l.stop = context.WithCancel(ctx)
	if err := l.found(actx); err != nil {
		l.stop()
		return nil, err
	}
	var duties sync.WaitGroup
	for _, run := range []func(){l.failoverLoop, l.diskLoop, l.moveLoop, l.repairLoop, l.sweepLoop, l.healthLoop, l.confirmLoop} {
		duties.Go(run)
	}
	s.lead.Store(l)
	s.counters.leaderships.Add(1)
	l.log.Info("leading the metadata")
	return func() {
		s.lead.CompareAndSwap(l, nil)
		l.stop()
		duties.Wait()
	}, nil
}

// found writes the record of the whole at the very first take-over, and checks that it is the cluster we were told.
func (l *leader) found(ctx context.Context) error {
	var c metadb.Cluster
	l.view(func(s *state) { c = s.cluster })
	want := l.s.opts.ClusterID
	if c.Revision != 0 {
		if !want.IsZero() && c.ID != want {
			return fmt.Errorf("the metadata is of cluster %s, but this member was started for cluster %s: check its data directory", c.ID, want)
		}
		return nil
	}
	if want.IsZero() {
		want = block.NewClusterID()
	}
	l.log.Info("recording the new cluster", "cluster", want)
	_, err := l.commit(ctx, metadb.PutCluster(metadb.Cluster{ID: want, Incarnation: 1, Feature: block.FeatureLevel, Created: l.now()}))
	return err
}

func (l *leader) view(f func(s *state)) { l.s.mirror.view(f) }

// commit performs writes in one transaction and returns when the mirror shows them.
func (l *leader) commit(ctx context.Context, ops ...metadb.Op) (int64, error) {
	rev, err := l.db.Commit(ctx, l.guard, ops...)
	if err != nil {
		return 0, l.check(err)
	}
	return rev, l.s.mirror.wait(ctx, rev)
}

// check ends the leadership if err says that another has it.
func (l *leader) check(err error) error {
	if errors.Is(err, metadb.ErrDeposed) {
		l.s.lead.CompareAndSwap(l, nil)
		l.stop()
	}
	return err
}

// gather waits, shortly after a take-over, until all known chunks have reported or had the time to: before, placement would
// take the chunks it has not heard of yet for absent.
func (l *leader) gather(ctx context.Context) {
	for l.now().Sub(l.reg.started) < 2*timeouts.OwnerDead {
		all := true
		l.view(func(s *state) {
			for id := range s.chunks {
				all = all && l.reg.live(id).Present
			}
		})
		if all {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-l.ctx.Done():
			return
		case <-time.After(timeouts.Heartbeat / 4):
		}
	}
}

// control returns the client of a chunk's control interface.
func (l *leader) control(id block.ChunkID) (storagedv1.ChunkControlClient, error) {
	var address string
	l.view(func(s *state) { address = s.chunks[id].ControlAddress })
	if address == "" {
		return nil, fmt.Errorf("chunk %d is not known", id)
	}
	cc, err := l.s.conns.to(address, mtls.RoleChunk)
	if err != nil {
		return nil, err
	}
	return storagedv1.NewChunkControlClient(cc), nil
}

// chunkFacts joins records and liveness of all chunks.
func (l *leader) chunkFacts(s *state) map[block.ChunkID]chunkFact {
	out := make(map[block.ChunkID]chunkFact, len(s.chunks))
	owned := map[block.ChunkID]int{}
	for _, o := range s.owners {
		owned[o.Chunk]++
	}
	for id, c := range s.chunks {
		live := l.reg.live(id)
		out[id] = chunkFact{
			// A stream of the process before the registered one proves nothing.
			Node: c.Node, Present: live.Present && live.Boot == c.BootID, Expected: live.LastSeen.IsZero() && !live.Dead, Settled: live.Settled, Maintenance: s.maintenance(id),
			Owned: owned[id], Unreachable: live.Unreachable,
		}
	}
	return out
}

// locks are mutexes by name that honour contexts.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

func newLocks() *locks { return &locks{held: map[string]chan struct{}{}} }

// lock waits until nobody holds name.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy, ok := l.held[name]
		if !ok {
			free := make(chan struct{})
			l.held[name] = free
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, name)
				l.mu.Unlock()
				close(free)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("another change of %s is under way: %w", name, context.Cause(ctx))
		}
	}
}

// tryLock takes name if nobody holds it.
func (l *locks) tryLock(name string) (unlock func(), ok bool) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	unlock, err := l.lock(ctx, name)
	return unlock, err == nil
}
