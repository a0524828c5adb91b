package meta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/beat"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

const (
	sweepTick = time.Second
	// snapshotStale is how long a snapshot may stay unfinished without a repeated call before it is dropped.
	snapshotStale = 10 * time.Minute
	sweepCall     = 10 * time.Second
	// inventoryDefault is how often a chunk's replicas are compared with the sets.
	inventoryDefault = 5 * time.Minute
	// drainGap is the time between the two inventories after which a left-over replica on a disk being drained is deleted. Nothing new is placed
	// there, so that all that could still make it a member is an addition that was asked for before the drain.
	drainGap = repairCall + time.Second
)

// sweepBook remembers what was told to the chunks. It is empty after a change of leader, and all is told again.
type sweepBook struct {
	mu        sync.Mutex
	views     map[viewsKey]string // last list of views that a chunk's process acknowledged
	inventory map[block.ChunkID]time.Time
	emptied   map[block.ChunkID]time.Time // last inventory of the chunk's disks that are being drained
	orphans   map[orphanKey]time.Time     // replicas that no set named at the last inventory, and since when
}

func newSweepBook() *sweepBook {
	return &sweepBook{
		views: map[viewsKey]string{}, inventory: map[block.ChunkID]time.Time{}, emptied: map[block.ChunkID]time.Time{}, orphans: map[orphanKey]time.Time{},
	}
}

type viewsKey struct {
	chunk  block.ChunkID
	boot   uint64
	volume block.VolumeID
}

type orphanKey struct {
	chunk  block.ChunkID
	extent block.ExtentID
	disk   block.DiskID
}

// sweepLoop finishes what calls have left, and collects garbage. Everything is driven by records, so that it goes on
// after any interruption, also by another leader.
func (l *leader) sweepLoop() {
	tick := beat.Every(sweepTick)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		for _, part := range []struct {
			what string
			run  func(context.Context) error
		}{
			{"unfinished volumes", l.sweepVolumes}, {"snapshots", l.sweepSnapshots}, {"views", l.sweepViews},
			{"tombstones", l.sweepTombstones}, {"removed disks", l.sweepDisks}, {"orphaned replicas", l.sweepOrphans},
			{"drained disks", l.sweepDrained}, {"feature level", l.sweepFeature},
		} {
			if err := part.run(l.ctx); err != nil && l.ctx.Err() == nil {
				l.log.Warn("sweeping failed; trying again", "what", part.what, "error", err)
			}
		}
	}
}

// sweepVolumes rolls back volumes that never became ready, and goes on with deletions.
func (l *leader) sweepVolumes(ctx context.Context) error {
	var creating, deleting []metadb.Volume
	l.view(func(s *state) {
		for _, v := range s.volumes {
			switch {
			case v.State == metadb.StateCreating:
				creating = append(creating, v)
			case v.State == metadb.StateDeleting:
				deleting = append(deleting, v)
			}
		}
	})
	var errs []error
	for _, v := range creating {
		// A creation under way holds the name.
		if unlock, ok := l.locks.tryLock("volume name " + v.Name); ok {
			if err := l.rollBack(ctx, v); err != nil && !errors.Is(err, metadb.ErrConflict) {
				errs = append(errs, err)
			}
			unlock()
		}
	}
	for _, v := range deleting {
		if unlock, ok := l.locks.tryLock("volume " + v.ID.String()); ok {
			errs = append(errs, l.finishDelete(ctx, v.ID))
			unlock()
		}
	}
	return errors.Join(errs...)
}

// sweepSnapshots drops internal snapshots that no clone needs, and snapshots that were never finished.
func (l *leader) sweepSnapshots(ctx context.Context) error {
	var drop []metadb.Snapshot
	l.view(func(s *state) {
		for _, sn := range s.snapshots {
			stale := sn.State == metadb.StateCreating && (sn.Internal || l.now().Sub(sn.Created) > snapshotStale)
			if stale || sn.Internal && sn.State == metadb.StateReady && !needed(s, sn) {
				drop = append(drop, sn)
			}
		}
	})
	var errs []error
	for _, sn := range drop {
		// A clone or snapshot under way holds the volume.
		unlock, ok := l.locks.tryLock("volume " + sn.Volume.String())
		if !ok {
			continue
		}
		still := false
		l.view(func(s *state) { still = s.snapshots[sn.ID].Revision == sn.Revision && !(sn.Internal && needed(s, sn)) })
		if still {
			errs = append(errs, l.dropSnapshot(ctx, sn.ID))
		}
		unlock()
	}
	return errors.Join(errs...)
}

// sweepFeature records a higher feature level once every chunk that ever registered knows it, and so does this build: from then on
// there is no way back to builds that do not. Chunks take it up when they register.
func (l *leader) sweepFeature(ctx context.Context) error {
	var c metadb.Cluster
	level := block.FeatureLevel
	l.view(func(s *state) {
		c = s.cluster
		for _, chunk := range s.chunks {
			level = min(level, chunk.Feature)
		}
		if len(s.chunks) == 0 {
			level = c.Feature
		}
	})
	if level <= c.Feature {
		return nil
	}
	unlock, ok := l.locks.tryLock("registration")
	if !ok {
		return nil
	}
	defer unlock()
	c.Feature = level
	if _, err := l.commit(ctx, metadb.PutCluster(c)); err != nil {
		return err
	}
	l.log.Info("feature level raised", "level", uint16(level))
	return nil
}

// sweepViews tells every present chunk which views of which volumes are still needed, once per change and process.
func (l *leader) sweepViews(ctx context.Context) error {
	type call struct {
		key viewsKey
		req *storagedv1.SetSnapshotsRequest
	}
	var calls []call
	l.view(func(s *state) {
		for id, v := range s.volumes {
			if v.SnapSeq == 0 || v.State != metadb.StateReady {
				continue
			}
			req := &storagedv1.SetSnapshotsRequest{VolumeId: id.String(), SnapSeqs: viewsToKeep(s, v), SnapSeq: uint32(v.SnapSeq)}
			for chunk := range s.chunks {
				if live := l.reg.live(chunk); live.Present {
					calls = append(calls, call{viewsKey{chunk, live.Boot, id}, req})
				}
			}
		}
	})
	var errs []error
	for _, c := range calls {
		text := fmt.Sprint(c.req.GetSnapSeq(), c.req.GetSnapSeqs())
		l.sweep.mu.Lock()
		known := l.sweep.views[c.key] == text
		l.sweep.mu.Unlock()
		if known {
			continue
		}
		err := l.call(ctx, c.key.chunk, func(ctx context.Context, cc storagedv1.ChunkControlClient) error {
			_, err := cc.SetSnapshots(ctx, c.req)
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("tell chunk %d the views of volume %s: %w", c.key.chunk, c.req.GetVolumeId(), err))
			continue
		}
		l.sweep.mu.Lock()
		l.sweep.views[c.key] = text
		l.sweep.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (l *leader) call(ctx context.Context, id block.ChunkID, f func(context.Context, storagedv1.ChunkControlClient) error) error {
	cc, err := l.control(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sweepCall)
	defer cancel()
	return f(ctx, cc)
}

// sweepTombstones has present chunks remove the replicas of deleted volumes. A chunk leaves the tombstone when it confirmed; the
// tombstone goes with the last. Chunks that are no longer in the cluster are not waited for.
func (l *leader) sweepTombstones(ctx context.Context) error {
	var all []metadb.Tombstone
	present := map[block.ChunkID]bool{}
	known := map[block.ChunkID]bool{}
	l.view(func(s *state) {
		for _, t := range s.tombstones {
			if _, exists := s.volumes[t.Volume]; !exists { // its records are gone, so no owner can bring replicas back
				all = append(all, t)
			}
		}
		for id := range s.chunks {
			known[id], present[id] = true, l.reg.live(id).Present
		}
	})
	var errs []error
	confirmed := map[block.VolumeID]map[block.ChunkID]bool{}
	ids := map[block.ChunkID][]string{}
	for _, t := range all {
		confirmed[t.Volume] = map[block.ChunkID]bool{}
		for _, c := range t.Chunks {
			if present[c] && len(ids[c]) < 100 {
				ids[c] = append(ids[c], t.Volume.String())
			}
		}
	}
	for c, volumes := range ids {
		err := l.call(ctx, c, func(ctx context.Context, cc storagedv1.ChunkControlClient) error {
			_, err := cc.DeleteReplicas(ctx, &storagedv1.DeleteReplicasRequest{VolumeIds: volumes})
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("delete replicas of %s on chunk %d: %w", count(len(volumes), "volume"), c, err))
			continue
		}
		for _, v := range volumes {
			if id, err := block.ParseVolumeID(v); err == nil {
				confirmed[id][c] = true
			}
		}
	}
	for _, t := range all {
		left := slices.DeleteFunc(slices.Clone(t.Chunks), func(c block.ChunkID) bool { return confirmed[t.Volume][c] || !known[c] })
		op := metadb.DeleteTombstone(t)
		if len(left) == len(t.Chunks) && len(left) > 0 {
			continue
		}
		if len(left) > 0 {
			t.Chunks = left
			op = metadb.PutTombstone(t)
		}
		_, err := l.commit(ctx, op)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweepDisks forgets removed disks that are detached and named by no set.
func (l *leader) sweepDisks(ctx context.Context) error {
	var gone []metadb.Disk
	l.view(func(s *state) {
		for id, d := range s.disks {
			u := s.usage[id]
			reports, full := l.reg.disksOf(d.Chunk)
			if _, attached := reports[id]; d.State == metadb.DiskRemoved && u.members+u.absent == 0 && !attached && (full || s.chunks[d.Chunk].ID == 0) {
				gone = append(gone, d)
			}
		}
	})
	var errs []error
	for _, d := range gone {
		_, err := l.commit(ctx, metadb.DeleteDisk(d))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweepOrphans removes replicas on existing volumes' extents that the recorded set does not name: left over when a member was replaced
// or forgotten. A replica of an unknown volume is never touched: only a tombstone tells that a volume was deleted. One
// that a copy runs to is not in the set yet, so only what two inventories in a row found goes (bury).
func (l *leader) sweepOrphans(ctx context.Context) error {
	var due []block.ChunkID
	now := l.now()
	l.view(func(s *state) {
		l.sweep.mu.Lock()
		defer l.sweep.mu.Unlock()
		for id := range s.chunks {
			at, ok := l.sweep.inventory[id]
			if !ok {
				l.sweep.inventory[id] = now // the first one after a while: a new leader knows of no copies yet
			} else if l.reg.live(id).Present && now.Sub(at) >= l.s.opts.InventoryEvery {
				l.sweep.inventory[id] = now
				due = append(due, id)
			}
		}
	})
	var errs []error
	for _, id := range due {
		errs = append(errs, l.inventory(ctx, id, nil, l.s.opts.InventoryEvery))
	}
	return errors.Join(errs...)
}

// sweepDrained removes what sets have left behind on disks that are being drained and hold no member any more: a disk is given back when it is
// empty, and the inventory of all disks comes only each few minutes.
func (l *leader) sweepDrained(ctx context.Context) error {
	due := map[block.ChunkID]map[block.DiskID]bool{}
	now := l.now()
	l.view(func(s *state) {
		l.sweep.mu.Lock()
		defer l.sweep.mu.Unlock()
		for id, d := range s.disks {
			reports, _ := l.reg.disksOf(d.Chunk)
			u := s.usage[id]
			if d.State != metadb.DiskDraining || u.members+u.absent > 0 || reports[id].GetDisk().GetReplicas() == 0 || !l.reg.live(d.Chunk).Present ||
				now.Sub(l.sweep.emptied[d.Chunk]) < drainGap {
				continue
			}
			if due[d.Chunk] == nil {
				due[d.Chunk] = map[block.DiskID]bool{}
			}
			due[d.Chunk][id] = true
		}
		for id := range due {
			l.sweep.emptied[id] = now
		}
	})
	var errs []error
	for id, disks := range due {
		errs = append(errs, l.inventory(ctx, id, disks, drainGap))
	}
	return errors.Join(errs...)
}

// inventory compares the replicas of a chunk, on the given disks or (nil) all, with the sets. What none names now and at an inventory at least gap
// ago is deleted.
func (l *leader) inventory(ctx context.Context, id block.ChunkID, disks map[block.DiskID]bool, gap time.Duration) error {
	now := l.now()
	found := map[orphanKey]*storagedv1.ReplicaRef{}
	err := l.call(ctx, id, func(ctx context.Context, cc storagedv1.ChunkControlClient) error {
		return listReplicas(ctx, cc, func(r *storagedv1.ReplicaInfo, vol block.VolumeID, disk block.DiskID) {
			if disks != nil && !disks[disk] {
				return
			}
			key := orphanKey{id, block.ExtentID{Volume: vol, Index: block.ExtentIndex(r.GetExtent())}, disk}
			orphan := false
			l.view(func(s *state) { orphan = l.orphaned(s, key) })
			if orphan {
				found[key] = &storagedv1.ReplicaRef{VolumeId: r.GetVolumeId(), Extent: r.GetExtent(), DiskId: r.GetDiskId()}
			}
		})
	})
	if err != nil {
		return fmt.Errorf("list replicas of chunk %d: %w", id, err)
	}
	deleted := 0
	next := map[orphanKey]time.Time{}
	for key, ref := range found {
		l.sweep.mu.Lock()
		since, known := l.sweep.orphans[key]
		l.sweep.mu.Unlock()
		done, err := l.bury(ctx, key, ref, known && now.Sub(since) >= gap)
		if err != nil {
			l.log.Debug("orphaned replica not removed, it is tried again", "extent", key.extent, "disk", key.disk, "error", err)
			continue
		}
		switch {
		case done:
			deleted++
		case known:
			next[key] = since
		default:
			next[key] = now
		}
	}
	l.sweep.mu.Lock()
	for key := range l.sweep.orphans {
		if key.chunk == id && (disks == nil || disks[key.disk]) {
			delete(l.sweep.orphans, key)
		}
	}
	maps.Copy(l.sweep.orphans, next)
	l.sweep.mu.Unlock()
	if deleted > 0 {
		l.log.Info("orphaned replicas deleted", "chunk", id, "replicas", deleted)
	}
	return nil
}

// bury takes one step towards the deletion of an orphaned replica, with no addition to its extent under way from here: at
// the first inventory that finds it, the owner is told to drop the disk, which ends a copy an earlier leader may have asked
// for; at the second, long after such an addition would have ended, nothing can make it a member any more, and it is deleted.
func (l *leader) bury(ctx context.Context, key orphanKey, ref *storagedv1.ReplicaRef, again bool) (deleted bool, err error) {
	unlock, ok := l.locks.tryLock("extent " + key.extent.String())
	if !ok {
		return false, errors.New("its extent is being repaired")
	}
	defer unlock()
	orphan := false
	var owner block.ChunkID
	l.view(func(s *state) { orphan, owner = l.orphaned(s, key), s.owners[key.extent.Volume].Chunk })
	if !orphan {
		return false, errors.New("it is in use")
	}
	if !again {
		return false, l.call(ctx, owner, func(ctx context.Context, cc storagedv1.ChunkControlClient) error {
			_, err := cc.RemoveMember(ctx, &storagedv1.RemoveMemberRequest{VolumeId: ref.GetVolumeId(), Extent: ref.GetExtent(), DiskId: ref.GetDiskId()})
			return err
		})
	}
	return true, l.call(ctx, key.chunk, func(ctx context.Context, cc storagedv1.ChunkControlClient) error {
		_, err := cc.DeleteReplicas(ctx, &storagedv1.DeleteReplicasRequest{Replicas: []*storagedv1.ReplicaRef{ref}})
		return err
	})
}

// orphaned reports whether a replica belongs to a recorded extent of a healthy owner that neither names nor copies to its disk.
func (l *leader) orphaned(s *state, k orphanKey) bool {
	e := extentOf(s, k.extent)
	if e == nil || hasMember(e, k.disk) {
		return false
	}
	for _, a := range e.Absent {
		if a.Disk == k.disk {
			return false
		}
	}
	l.repair.mu.Lock()
	_, copying := l.repair.copies[copyKey{k.extent, k.disk}]
	l.repair.mu.Unlock()
	o := s.owners[k.extent.Volume]
	f, ok := l.reg.volume(o.Chunk, k.extent.Volume)
	if copying || !ok || f.report.GetEpoch() != uint64(o.Epoch) || l.now().Sub(f.at) > reportFresh {
		return false
	}
	for _, es := range f.report.GetStatus().GetExtentStatus() {
		if es.GetIndex() != uint32(k.extent.Index) {
			continue
		}
		for _, m := range slices.Concat(es.GetMembers(), es.GetAbsent()) {
			if m.GetDiskId() == k.disk.String() {
				return false
			}
		}
	}
	return true
}
