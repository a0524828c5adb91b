package chunk

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/replication"
)

// setQueue commits the set changes of one volume (I2), batched: while one transaction is under way the next gather.
type setQueue struct {
	mu      sync.Mutex
	waiting []*replication.SetChange
	running bool
}

func (q *setQueue) add(v *volume, c *replication.SetChange) {
	q.mu.Lock()
	q.waiting = append(q.waiting, c)
	start := !q.running
	q.running = true
	q.mu.Unlock()
	if start {
		v.s.wg.Go(func() { q.run(v) })
	}
}

func (q *setQueue) run(v *volume) {
	for {
		q.mu.Lock()
		batch := q.waiting
		q.waiting = nil
		if len(batch) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		v.commitSets(batch)
	}
}

// commitSets writes a batch and reports each outcome to the machine once it is certain. An unknown outcome is repeated: the
// same change finds itself recorded, or conflicts. It ends without an answer only when the ownership has ended.
func (v *volume) commitSets(batch []*replication.SetChange) {
	for len(batch) > 0 {
		changes := make([]metadb.Extent, len(batch))
		for i, c := range batch {
			changes[i] = extentRecord(v.id, c)
		}
		results, err := v.s.db.UpdateExtents(v.ctx, v.owner.Guard(), changes)
		if errors.Is(err, metadb.ErrNotOwner) {
			v.log.Warn("set change refused: the volume has another owner", "err", err)
			v.superseded()
			return
		}
		if len(results) != len(batch) {
			v.log.Error("set change failed", "err", err)
			results = make([]metadb.ExtentResult, len(batch))
		}
		var again []*replication.SetChange
		for i, r := range results {
			switch r.Outcome {
			case metadb.Committed:
				v.setChanged(replication.SetResult{Extent: batch[i].Extent, Committed: true, Revision: r.Revision})
			case metadb.Conflict:
				v.log.Error("extent record changed by another", "extent", uint32(batch[i].Extent))
				v.setChanged(replication.SetResult{Extent: batch[i].Extent})
			default:
				again = append(again, batch[i])
			}
		}
		batch = again
		if len(batch) > 0 {
			select {
			case <-v.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

func (v *volume) setChanged(r replication.SetResult) {
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.SetChanged(now, r, out)
	})
}

// superseded ends the ownership: a higher epoch is recorded.
func (v *volume) superseded() {
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.Excluded(now, v.owner.Epoch+1, out)
	})
}

func extentRecord(id block.VolumeID, c *replication.SetChange) metadb.Extent {
	e := metadb.Extent{ID: block.ExtentID{Volume: id, Index: c.Extent}, Generation: c.Generation, Revision: c.Expect}
	for _, m := range c.Members {
		e.Members = append(e.Members, metadb.Member{Disk: m.Disk, Chunk: m.Chunk, Kind: metadb.MemberKind(m.Kind), Since: m.Since})
	}
	for _, a := range c.Absent {
		e.Absent = append(e.Absent, metadb.Absent{Disk: a.Disk, Chunk: a.Chunk, Watermark: a.Watermark})
	}
	return e
}

func coreRecord(e *metadb.Extent) replication.Record {
	r := replication.Record{Generation: e.Generation, Revision: e.Revision}
	for _, m := range e.Members {
		r.Members = append(r.Members, replication.Member{Disk: m.Disk, Chunk: m.Chunk, Kind: replication.MemberKind(m.Kind), Since: m.Since})
	}
	for _, a := range e.Absent {
		r.Absent = append(r.Absent, replication.Absent{Disk: a.Disk, Chunk: a.Chunk, Watermark: a.Watermark})
	}
	return r
}

// commitSnapshotRecord records a snapshot at its barrier, repeated until the outcome is certain; it reports whether the snapshot exists.
func (v *volume) commitSnapshotRecord(id block.SnapshotID) bool {
	for {
		ctx, cancel := context.WithTimeout(v.ctx, passTimeout)
		_, err := v.s.db.CommitSnapshot(ctx, v.owner.Guard(), id)
		cancel()
		switch {
		case err == nil:
			return true
		case errors.Is(err, metadb.ErrNotOwner):
			v.superseded()
			return false
		case errors.Is(err, metadb.ErrNotFound):
			v.log.Warn("snapshot not committed", "snapshot", id.String(), "err", err)
			return false
		}
		v.log.Warn("snapshot commit is repeated", "snapshot", id.String(), "err", err)
		select {
		case <-v.ctx.Done():
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
}
