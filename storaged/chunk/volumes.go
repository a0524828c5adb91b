package chunk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

const (
	// passTimeout bounds one attempt of a write of a single record.
	passTimeout = 5 * time.Second
	// readyPatience is how long logins wait for the last extents of a volume before those that do serve are given access.
	readyPatience = 5 * time.Second
)

// volumes holds the owned volumes and who owns the others.
type volumes struct {
	s *Server

	mu      sync.RWMutex
	m       map[block.VolumeID]*volume
	owners  map[block.VolumeID]metadb.Owner
	moving  map[block.VolumeID]bool // a planned move is under way: logins wait
	changed chan struct{}           // closed and replaced when any of the above changes
	left    bool                    // the chunk ends: no volume is taken any more

	// awake are the volumes whose machines want ticks. A volume enters with its lock held, and leaves in tick.
	awakeMu sync.Mutex
	awake   map[*volume]struct{}

	pace pace
}

func newVolumes(s *Server) *volumes {
	return &volumes{s: s, m: map[block.VolumeID]*volume{}, owners: map[block.VolumeID]metadb.Owner{},
		moving: map[block.VolumeID]bool{}, changed: make(chan struct{}), awake: map[*volume]struct{}{}}
}

func (t *volumes) get(id block.VolumeID) *volume {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.m[id]
}

func (t *volumes) all() []*volume {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*volume, 0, len(t.m))
	for _, v := range t.m {
		out = append(out, v)
	}
	return out
}

// change runs f under the lock and wakes whoever waits for a change.
func (t *volumes) change(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
	close(t.changed)
	t.changed = make(chan struct{})
}

// run follows the owner records.
func (t *volumes) run(ctx context.Context) {
	for u := range t.s.db.WatchOwners(ctx) {
		if u.Reset {
			known := map[block.VolumeID]bool{}
			for _, o := range u.Owners {
				known[o.Volume] = true
			}
			t.mu.RLock()
			for id := range t.owners {
				if !known[id] {
					u.Deleted = append(u.Deleted, id)
				}
			}
			t.mu.RUnlock()
		}
		for _, o := range u.Owners {
			t.ownerIs(o)
		}
		for _, id := range u.Deleted {
			t.change(func() { delete(t.owners, id) })
			if v := t.get(id); v != nil {
				v.superseded()
			}
		}
	}
}

// ownerIs acts on an owner record: taking the volume if it names this chunk, leaving it if it does not any more.
func (t *volumes) ownerIs(o metadb.Owner) {
	var stale *volume
	take := false
	t.change(func() {
		if cur, ok := t.owners[o.Volume]; ok && cur.Epoch > o.Epoch {
			return
		}
		t.owners[o.Volume] = o
		v := t.m[o.Volume]
		if v != nil && v.owner.Epoch < o.Epoch {
			stale = v
		}
		// Records older than our registration were for an earlier process of this chunk: its promises are not ours.
		take = o.Chunk == t.s.id && o.Revision > t.s.registered && (v == nil || stale != nil)
	})
	if stale != nil {
		stale.superseded()
	}
	if take {
		t.s.wg.Go(func() { t.take(o) })
	}
}

// take becomes the owner named by a record: reads the volume and starts its machine.
func (t *volumes) take(o metadb.Owner) {
	log := t.s.log.With("volume", o.Volume.String(), "epoch", uint32(o.Epoch))
	var c *metadb.VolumeContent
	for {
		var err error
		if c, err = t.s.db.LoadVolume(t.s.ctx, o.Volume); err == nil {
			break
		}
		if t.s.ctx.Err() != nil || errors.Is(err, metadb.ErrNotFound) {
			return
		}
		log.Warn("volume cannot be read from metadata", "err", err)
		select {
		case <-t.s.ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	if c.Owner.Revision != o.Revision {
		return // a newer record is on its way to us
	}
	v := newVolume(t.s, c)
	took := false
	t.change(func() {
		if cur := t.m[o.Volume]; t.left || cur != nil && cur.owner.Epoch >= o.Epoch || t.owners[o.Volume].Epoch > o.Epoch {
			return
		}
		t.m[o.Volume] = v
		delete(t.moving, o.Volume)
		took = true
	})
	if !took {
		v.cancel()
		return
	}
	log.Info("taking ownership", "extents", len(c.Extents))
	v.step(func(m *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return m.Start(now, out)
	})
	t.s.peers.post(peerEvent{volume: v})
	t.s.wg.Go(v.follow)
	t.s.wg.Go(func() {
		start := time.Now()
		select {
		case <-v.ready:
			t.s.metrics.takeover.Since(start)
			log.Info("volume serves", "after", time.Since(start).Round(time.Millisecond).String())
		case <-time.After(readyPatience):
			log.Warn("not all extents serve; logins go on")
			v.setReady()
		case <-v.ctx.Done():
		}
		t.change(func() {})
	})
}

func newVolume(s *Server, c *metadb.VolumeContent) *volume {
	v := &volume{s: s, id: c.Volume.ID, lineage: c.Volume.Lineage, owner: c.Owner, thin: c.Volume.Thin, factor: int(c.Volume.ReplicaFactor),
		log:  s.log.With("volume", c.Volume.ID.String(), "epoch", uint32(c.Owner.Epoch)),
		bufs: map[*byte]*pagebuf.Buf{}, snaps: map[uint64]block.SnapshotID{}, grants: c.Grants,
		ready: make(chan struct{}), gone: make(chan struct{}), stay: make(chan struct{}, 1), passed: make(chan struct{}), extent: make([]extentView, len(c.Extents))}
	v.ctx, v.cancel = context.WithCancel(s.ctx)
	v.turns.crowd = &s.crowd
	v.size.Store(c.Volume.SizeBytes)
	o := replication.OwnerOptions{
		Volume: v.id, Self: s.id, Incarnation: s.boot, Epoch: c.Owner.Epoch,
		ReplicaFactor: int(c.Volume.ReplicaFactor), MinReplicas: max(1, int(c.Volume.MinReplicas)),
		SnapSeq: c.Volume.SnapSeq, Snapshots: c.Volume.Views, SizeBlocks: (c.Volume.SizeBytes + block.Size - 1) / block.Size,
		Feature: block.FeatureLevel, Promise: s.leases.promise,
	}
	for i := range c.Extents {
		r := coreRecord(&c.Extents[i])
		o.Extents = append(o.Extents, r)
		v.extent[i].record = r
	}
	v.o = replication.NewOwner(o)
	replication.Plant{Bugs: s.o.Host.Bugs}.Owner(v.o)
	return v
}

// follow keeps grants and views up to date while the volume is owned.
func (v *volume) follow() {
	for u := range v.s.db.WatchVolume(v.ctx, v.id) {
		if u.Deleted {
			v.superseded()
			return
		}
		if u.Owner.Revision != v.owner.Revision {
			continue
		}
		v.mu.Lock()
		v.grants = u.Grants
		v.o.SetSnapshots(u.Volume.Views)
		v.mu.Unlock()
		v.s.volumes.change(func() {})
	}
}

// ended is the end of an ownership: the machine has stopped and answered every request.
func (t *volumes) ended(v *volume) {
	t.change(func() {
		if t.m[v.id] == v {
			delete(t.m, v.id)
		}
	})
	v.cancel()
	v.mu.Lock()
	reason := v.reason
	bufs := v.bufs
	v.bufs = nil
	for _, b := range bufs {
		b.Abandon()
	}
	v.mu.Unlock()
	v.log.Info("ownership ended", "reason", uint8(reason))
	t.s.leases.released(replication.VolumeEpoch{Volume: v.id, Epoch: v.owner.Epoch + 1})
	t.s.wg.Go(func() {
		defer close(v.gone)
		ctx, cancel := context.WithTimeout(context.Background(), timeouts.WriteWait)
		defer cancel()
		if err := t.s.target.CloseVolume(ctx, v.id.IQN(), target.VolumeLost); err != nil {
			v.log.Warn("sessions of a lost volume", "err", err)
		}
	})
}

// leave ends all ownerships without waiting for anything: every request in progress is answered as lost.
func (t *volumes) leave() {
	t.change(func() { t.left = true })
	for _, v := range t.all() {
		v.superseded()
	}
}

// excluded tells the owner machine that a promise does not cover its epoch any more; false if there is none below it.
func (t *volumes) excluded(x replication.VolumeEpoch) bool {
	v := t.get(x.Volume)
	if v == nil || v.owner.Epoch >= x.Epoch {
		return false
	}
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.Excluded(now, x.Epoch, out)
	})
	return true
}

// move passes an owned volume to another chunk: sessions are asked to log in again, then the machine drains.
func (t *volumes) move(ctx context.Context, id block.VolumeID, epoch block.Epoch, to block.ChunkID) error {
	v := t.get(id)
	if v == nil || v.owner.Epoch != epoch {
		return fmt.Errorf("volume %s is not owned here in epoch %d", id, epoch)
	}
	t.change(func() { t.moving[id] = true })
	if err := t.s.target.CloseVolume(ctx, id.IQN(), target.VolumeMoved); err != nil {
		t.change(func() { delete(t.moving, id) })
		return fmt.Errorf("move volume %s: %w", id, err)
	}
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.Release(now, to, out)
	})
	select {
	case <-v.passed:
		// Logins wait until the record says where to go.
		t.change(func() { delete(t.moving, id) })
		return nil
	case <-v.stay:
		t.change(func() { delete(t.moving, id) })
		return fmt.Errorf("move volume %s: its writes did not drain; it stays", id)
	case <-ctx.Done():
		t.change(func() { delete(t.moving, id) })
		return fmt.Errorf("move volume %s: draining: %w", id, context.Cause(ctx))
	}
}
