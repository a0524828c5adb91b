package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
)

// Every change here is a control: it is applied by the committer between writes, and its caller is told when the batch with
// its entries is durable. A context that ends does not undo a change that is on its way, hence it is only asked before.

func (s *Store) ensureReplica(ctx context.Context, spec ReplicaSpec) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if spec.Extent.Volume.IsZero() || spec.Lineage.IsZero() {
		return fmt.Errorf("%w: replica of %s without volume or lineage", ErrInvalid, spec.Extent)
	}
	err := s.do(&control{headNeed: entryBytes + 16, apply: func(b *batch) error {
		if r := s.replicas[spec.Extent]; r != nil {
			if r.lineage != spec.Lineage {
				return fmt.Errorf("%w: with lineage %s, not %s", ErrExists, r.lineage, spec.Lineage)
			}
			return nil
		}
		s.create(b, spec.Extent, spec.Lineage, spec.Generation, spec.Epoch, 0)
		return nil
	}})
	return wrap("create replica", spec.Extent, err)
}

func wrap(what string, e block.ExtentID, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, e, err)
}

func (s *Store) create(b *batch, id block.ExtentID, lineage block.VolumeID, g block.Generation, ep block.Epoch, watermark uint64) *replica {
	r := s.addReplica(id, s.nextHandle, lineage)
	r.generation, r.epoch, r.watermark = g, ep, watermark
	b.add(&entry{typ: eReplica, handle: r.handle, extent: id, generation: g, epoch: ep, watermark: watermark, extra: lineage[:]})
	return r
}

func (s *Store) deleteReplica(ctx context.Context, e block.ExtentID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.do(&control{headNeed: entryBytes, apply: func(b *batch) error {
		r := s.replicas[e]
		if r == nil {
			return nil
		}
		s.removeReplica(r)
		b.add(&entry{typ: eDelete, extent: e, handle: r.handle})
		return nil
	}})
	s.poke()
	return wrap("delete replica", e, err)
}

func (s *Store) fence(ctx context.Context, fences []VolumeFence) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var stale error
	// A bounded number per control, so that each fits a batch.
	for part := range slices.Chunk(fences, 512) {
		err := s.do(&control{headNeed: entryBytes * len(part), apply: func(b *batch) error {
			for _, f := range part {
				old := s.volumes[f.Volume]
				if f.Epoch < old.Epoch {
					stale = fmt.Errorf("%w: fence of volume %s at epoch %d, it is at %d", ErrStaleEpoch, f.Volume, f.Epoch, old.Epoch)
					continue
				}
				if f == old {
					continue
				}
				s.volumes[f.Volume] = f
				if s.opts.planted == bugForgetFence {
					continue
				}
				b.add(&entry{typ: eFence, extent: block.ExtentID{Volume: f.Volume}, epoch: f.Epoch, count: uint32(f.Owner)})
			}
			return nil
		}})
		if err != nil {
			return fmt.Errorf("fence volumes: %w", err)
		}
	}
	return stale
}

func (s *Store) fenceOf(v block.VolumeID) VolumeFence {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.volumes[v]
}

func (s *Store) fences() []VolumeFence {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fencesLocked()
}

func (s *Store) fencesLocked() []VolumeFence {
	out := make([]VolumeFence, 0, len(s.volumes))
	for _, f := range s.volumes {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b VolumeFence) int { return slices.Compare(a.Volume[:], b.Volume[:]) })
	return out
}

func (s *Store) forgetFence(ctx context.Context, v block.VolumeID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.do(&control{headNeed: entryBytes, apply: func(b *batch) error {
		for id := range s.replicas {
			if id.Volume == v {
				return fmt.Errorf("%w: extent %s still has a replica here", ErrInvalid, id)
			}
		}
		if _, ok := s.volumes[v]; ok {
			delete(s.volumes, v)
			b.add(&entry{typ: eForget, extent: block.ExtentID{Volume: v}})
		}
		return nil
	}})
	if err != nil {
		return fmt.Errorf("forget fence of volume %s: %w", v, err)
	}
	return nil
}

func (s *Store) setGeneration(ctx context.Context, e block.ExtentID, g block.Generation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.do(&control{headNeed: entryBytes, apply: func(b *batch) error {
		r := s.replicas[e]
		switch {
		case r == nil:
			return ErrNoReplica
		case g < r.generation:
			return fmt.Errorf("%w: generation %d, the replica is at %d", ErrStaleEpoch, g, r.generation)
		}
		r.generation = g
		b.add(&entry{typ: eState, extent: e, handle: r.handle, generation: g, watermark: r.watermark})
		return nil
	}})
	return wrap("set generation of", e, err)
}

func (s *Store) setWatermark(e block.ExtentID, w block.Stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.replicas[e]; r != nil && r.watermark < uint64(w) && !r.suspect {
		r.watermark = uint64(w)
		if !r.dirty {
			r.dirty = true
			s.dirty = append(s.dirty, r)
		}
	}
}

// flushState adds the watermarks that were set since the last batch, as many as there is room for. Store.mu is held.
func (s *Store) flushState(b *batch, room int) {
	for n := len(s.dirty); n > 0; n = len(s.dirty) {
		if len(b.head)+entryBytes > room {
			return
		}
		r := s.dirty[n-1]
		r.dirty, s.dirty[n-1] = false, nil
		s.dirty = s.dirty[:n-1]
		if !r.removed {
			b.add(&entry{typ: eState, extent: r.id, handle: r.handle, generation: r.generation, watermark: r.watermark})
		}
	}
}

func (s *Store) setJoin(ctx context.Context, e block.ExtentID, s0 block.Stamp) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.do(&control{headNeed: entryBytes, apply: func(b *batch) error {
		r := s.replicas[e]
		if r == nil {
			return ErrNoReplica
		}
		x := entry{typ: eState, flags: fJoin, extent: e, handle: r.handle, generation: r.generation, watermark: r.watermark, stamp: uint64(s0)}
		if s0 != 0 {
			x.flags |= fJoining
		}
		s.join(r, s0 != 0, uint64(s0))
		b.add(&x)
		return nil
	}})
	return wrap("set join state of", e, err)
}

// join sets or ends the joining state. A replica that has been compared with another from stamp 0 on is no longer suspect.
func (s *Store) join(r *replica, joining bool, s0 uint64) {
	if r.joining && !joining {
		r.suspect = false
	}
	r.joining, r.joinStart = joining, s0
}

func (s *Store) setSnapshots(ctx context.Context, v block.VolumeID, known block.SnapSeq, keep []block.SnapSeq) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Only what lies below known is decided by the list; a shorter list says the same.
	keep = slices.DeleteFunc(slices.Clone(keep), func(k block.SnapSeq) bool { return k >= known })
	slices.Sort(keep)
	keep = slices.Compact(keep)
	// A batch header holds so many views; a volume with more is a mistake.
	if 4*len(keep)+entryBytes > batchHeadMax/2 {
		return fmt.Errorf("%w: %d snapshots of volume %s", ErrInvalid, len(keep), v)
	}
	if err := s.barrier(); err != nil {
		return err
	}
	err := s.do(&control{headNeed: entryBytes + 4*len(keep), apply: func(b *batch) error {
		if s.keepViews(v, known, keep) {
			x := entry{typ: eSnapshots, extent: block.ExtentID{Volume: v}, snapSeq: known, count: uint32(len(keep))}
			for _, k := range keep {
				x.extra = binary.LittleEndian.AppendUint32(x.extra, uint32(k))
			}
			b.add(&x)
		}
		return nil
	}})
	s.poke()
	if err != nil {
		return fmt.Errorf("set snapshots of volume %s: %w", v, err)
	}
	return nil
}

// keepViews buries the layers of the volume that only views below known could need and none of keep (sorted) does. It
// reports whether there were any.
func (s *Store) keepViews(v block.VolumeID, known block.SnapSeq, keep []block.SnapSeq) bool {
	any := false
	for id, r := range s.replicas {
		if id.Volume != v {
			continue
		}
		for i := 0; i+1 < len(r.layers); {
			l, next := r.layers[i], r.layers[i+1]
			// l is the content of views [l.seq, next.seq).
			k, _ := slices.BinarySearch(keep, l.seq)
			if next.seq <= known && (k == len(keep) || keep[k] >= next.seq) {
				s.bury(l)
				any = true
				continue
			}
			i++
		}
	}
	return any
}

func (s *Store) clone(ctx context.Context, c CloneSpec) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.Origin.Index != c.Target.Index || c.Target.Volume.IsZero() {
		return fmt.Errorf("%w: clone %s of %s", ErrInvalid, c.Target, c.Origin)
	}
	// Writes of the view that are on their way belong to the clone.
	if err := s.barrier(); err != nil {
		return err
	}
	err := s.do(&control{headNeed: 3*entryBytes + 16, apply: func(b *batch) error {
		o := s.replicas[c.Origin]
		switch {
		case o == nil:
			return fmt.Errorf("%w: %s", ErrNoReplica, c.Origin)
		case s.replicas[c.Target] != nil:
			return ErrExists
		case s.layersOfKin(o)+2 > layersMax:
			return ErrTooManyLayers
		}
		l := o.view(c.View)
		if l != nil && l == o.live() {
			// Freeze it: later writes of the origin are of a higher sequence anyway.
			if c.View == block.LiveView {
				return fmt.Errorf("%w: the live view cannot be cloned", ErrInvalid)
			}
			s.grow(b, o, c.View+1, l)
		}
		wm := uint64(0)
		if l != nil {
			wm = l.max
		}
		r := s.create(b, c.Target, o.lineage, c.Generation, c.Epoch, wm)
		if l != nil {
			r.suspect = o.suspect
			s.grow(b, r, 0, l)
			r.highest = l.max
		}
		return nil
	}})
	return wrap("clone to", c.Target, err)
}

// grow adds a layer that begins as from, and its entry.
func (s *Store) grow(b *batch, r *replica, seq block.SnapSeq, from *layer) {
	e := entry{typ: eLayer, handle: s.nextHandle, extent: r.id, snapSeq: seq, generation: r.generation, start: from.handle}
	s.addLayer(r, e.handle, seq, from)
	b.add(&e)
}

func (s *Store) listReplicas() []ReplicaInfo {
	s.mu.RLock()
	out := make([]ReplicaInfo, 0, len(s.replicas))
	for _, r := range s.replicas {
		out = append(out, r.info())
	}
	s.mu.RUnlock()
	slices.SortFunc(out, func(a, b ReplicaInfo) int {
		if c := slices.Compare(a.Extent.Volume[:], b.Extent.Volume[:]); c != 0 {
			return c
		}
		return int(a.Extent.Index) - int(b.Extent.Index)
	})
	return out
}

func (s *Store) replicaInfo(e block.ExtentID) (ReplicaInfo, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.replicas[e]
	if r == nil {
		return ReplicaInfo{}, fmt.Errorf("%w: %s", ErrNoReplica, e)
	}
	return r.info(), nil
}

func (r *replica) info() ReplicaInfo {
	i := ReplicaInfo{
		Extent: r.id, Lineage: r.lineage, Generation: r.generation, Watermark: block.Stamp(r.watermark), Highest: block.Stamp(r.highest),
		JoinStart: block.Stamp(r.joinStart), Joining: r.joining, Suspect: r.suspect,
	}
	for n, l := range r.layers {
		i.Layers = append(i.Layers, l.seq)
		if n == len(r.layers)-1 {
			i.LiveBytes = l.mapped * block.UnitSizeBytes
		} else {
			i.SnapshotBytes += l.own * block.UnitSizeBytes
		}
	}
	return i
}

func (s *Store) sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.barrier(); err != nil {
		return err
	}
	s.qmu.Lock()
	defer s.qmu.Unlock()
	want := s.cycles.started + 1
	s.cycles.wanted = max(s.cycles.wanted, want)
	for s.cycles.done < want {
		if err := s.failure(); err != nil {
			return err
		}
		if s.closing {
			return ErrClosed
		}
		s.poke()
		s.qcond.Wait()
	}
	return nil
}
