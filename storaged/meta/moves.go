package meta

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/beat"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

const (
	moveTick     = time.Second
	moveParallel = 8
	// moveWait is how long the owner may take to drain a volume and pass it on.
	moveWait = 15 * time.Second
	// moveAgain is how long a volume is left alone after a move of it failed.
	moveAgain = 30 * time.Second
	// pinFor is how long a volume stays where it was moved by request, before it may follow its initiator again.
	pinFor = 2 * time.Minute
)

// moveBook remembers the planned moves under way, and the failed ones.
type moveBook struct {
	mu     sync.Mutex
	active map[block.VolumeID]move
	failed map[block.VolumeID]time.Time
	pinned map[block.VolumeID]time.Time // until when a volume stays where the administrator moved it
}

func newMoveBook() *moveBook {
	return &moveBook{active: map[block.VolumeID]move{}, failed: map[block.VolumeID]time.Time{}, pinned: map[block.VolumeID]time.Time{}}
}

type move struct {
	from, to block.ChunkID
	since    time.Time
}

// begin registers a move unless the volume is being moved, too many moves are under way, or it failed recently.
func (b *moveBook) begin(id block.VolumeID, m move) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, busy := b.active[id]; busy || len(b.active) >= moveParallel {
		return false
	}
	if at, ok := b.failed[id]; ok && m.since.Sub(at) < moveAgain {
		return false
	}
	if until, ok := b.pinned[id]; ok {
		if m.since.Before(until) {
			return false
		}
		delete(b.pinned, id)
	}
	delete(b.failed, id)
	b.active[id] = m
	return true
}

// pin keeps a volume where it is, for a while.
func (b *moveBook) pin(id block.VolumeID, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pinned[id] = until
}

func (b *moveBook) end(id block.VolumeID, failed bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.active, id)
	if failed {
		b.failed[id] = now
	}
}

// moveLoop moves volumes next to the initiator of their exclusive grant, and off nodes in maintenance.
func (l *leader) moveLoop() {
	tick := beat.Every(moveTick)
	defer tick.Stop()
	var moves sync.WaitGroup
	defer moves.Wait()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		type job struct {
			v  metadb.Volume
			o  metadb.Owner
			to block.ChunkID
		}
		var jobs []job
		l.view(func(s *state) {
			chunks := l.chunkFacts(s)
			for id, o := range s.owners {
				v := s.volumes[id]
				if v.State != metadb.StateReady || !chunks[o.Chunk].Present {
					continue
				}
				if to := moveTarget(o.Chunk, s.extents[id], s.grantsOf(id), chunks); to != 0 {
					jobs = append(jobs, job{v, o, to})
				}
			}
		})
		for _, j := range jobs {
			if !l.moves.begin(j.v.ID, move{from: j.o.Chunk, to: j.to, since: l.now()}) {
				continue
			}
			moves.Go(func() {
				err := l.move(l.ctx, j.v, j.o, j.to)
				l.moves.end(j.v.ID, err != nil, l.now())
				if err != nil && l.ctx.Err() == nil {
					l.log.Warn("moving a volume failed; left alone for a while", "volume", j.v.ID, "from", j.o.Chunk, "to", j.to, "error", err)
				}
			})
		}
	}
}

// move has the owner drain a volume and pass it to another chunk, and returns when that is recorded.
func (l *leader) move(ctx context.Context, v metadb.Volume, o metadb.Owner, to block.ChunkID) error {
	cc, err := l.control(o.Chunk)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, moveWait)
	defer cancel()
	start := time.Now()
	if _, err := cc.ReleaseOwner(ctx, &storagedv1.ReleaseOwnerRequest{VolumeId: v.ID.String(), Epoch: uint64(o.Epoch), ToChunk: uint32(to)}); err != nil {
		return err
	}
	cur, err := l.db.GetOwner(ctx, v.ID)
	if err != nil {
		return err
	}
	l.log.Info("volume moved", "volume", v.ID, "from", o.Chunk, "to", cur.Chunk, "epoch", uint32(cur.Epoch), "took", time.Since(start))
	return l.s.mirror.wait(ctx, cur.Revision)
}

// MoveOwner implements the RPC of the same name.
func (vs *volumesService) MoveOwner(ctx context.Context, req *storagedv1.MoveOwnerRequest) (*storagedv1.Volume, error) {
	l := leaderOf(ctx)
	v, unlock, err := l.lockVolume(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	to := block.ChunkID(req.GetChunk())
	var o metadb.Owner
	var held map[block.ChunkID]int
	var chunks map[block.ChunkID]chunkFact
	var node string
	l.view(func(s *state) {
		if req.GetNode() != "" {
			c, _ := s.chunkOfNode(req.GetNode())
			to = c.ID
		}
		node = s.nodeOf(to)
		o, held, chunks = s.owners[v.ID], heldBy(s.extents[v.ID]), l.chunkFacts(s)
	})
	switch {
	case node == "":
		return nil, failf(codes.NotFound, "there is no chunk %d (node %q): see the list of nodes", req.GetChunk(), req.GetNode())
	case o.Chunk == to:
		return l.describe(v.ID)
	case !chunks[to].Present:
		return nil, failf(codes.FailedPrecondition, "node %s is offline: choose one that is online", node)
	case held[to] == 0:
		return nil, failf(codes.FailedPrecondition, "node %s has no replica of volume %s: choose a node that has", node, v.Name)
	case !chunks[o.Chunk].Present:
		return nil, failf(codes.Unavailable, "the owner of volume %s is offline; it gets another by itself: try again", v.Name)
	}
	l.moves.pin(v.ID, l.now().Add(pinFor))
	if err := l.move(ctx, v, o, to); err != nil {
		return nil, failf(codes.Unavailable, "volume %s was not moved to node %s, try again: %v", v.Name, node, status.Convert(err).Message())
	}
	return l.describe(v.ID)
}
