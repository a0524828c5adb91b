package meta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/beat"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// kindJoining is how owners report a replica that is being copied to.
const kindJoining = "joining"

const (
	repairTick = time.Second
	// Copies under way at once: in all, per owner, and onto one disk.
	repairMax, repairPerOwner, repairPerDisk = 64, 8, 4
	// Deltas being added at once. They copy little, and have a limit of their own so that they never stand in the way of rebuilds.
	deltasMax = 64
	deltaWait = 20 * time.Second
	// repairRepeat is how often an owner is asked again for a step that has not shown yet; repeating one does nothing.
	repairRepeat = 5 * time.Second
	// repairAgain is how long an extent is left alone after its owner refused a step.
	repairAgain = 10 * time.Second
	repairCall  = 5 * time.Second
)

// diskHealth is what a disk means to the replicas on it.
type diskHealth uint8

const (
	diskGood      diskHealth = iota // attached and active
	diskReturning                   // away, but expected back: its replicas are waited for
	diskLeaving                     // attached, but being drained
	diskGone                        // failed, removed, or away for too long
)

func (h diskHealth) String() string { return [...]string{"good", "returning", "leaving", "gone"}[h] }

// repairStep is one thing to ask of an owner about one extent.
type repairStep struct {
	Extent block.ExtentID
	Add    int            // replicas to add; > 0, or
	Remove []block.DiskID // members to take out or absent ones to forget
	Keep   []block.DiskID // replicas whose nodes may not get another
	Kind   string         // rebuild or drain, for the task
	Delta  bool           // what is added is a delta (planDelta)
}

// planExtent decides what an extent needs. joining are the disks being copied to. Rules:
//
//   - Members on good or returning disks count. Those on leaving disks are replaced first, then removed, so that there never are fewer good
//     copies than before.
//   - Those on gone disks are no copies: a disk that has failed can only be read, and a set in which it is the last one could not be taken over.
//     They are removed at once if a member on a good disk stays, else with the leaving ones.
//   - Absent replicas on good or returning disks come back by themselves (the owner copies what they missed) and count as copies
//     under way.
//   - When enough members are in sync, absent replicas that no copy runs to are forgotten, and members beyond the factor leave, the
//     newest first.
func planExtent(e *metadb.Extent, factor int, health func(block.DiskID) diskHealth, joining []block.DiskID) (repairStep, bool) {
	step := repairStep{Extent: e.ID, Kind: "rebuild"}
	var kept, leaving, gone []block.DiskID
	attached := false
	coming := map[block.DiskID]bool{}
	for _, m := range e.Members {
		if m.Kind != metadb.KindFull {
			continue
		}
		switch health(m.Disk) {
		case diskGood:
			attached = true
			kept = append(kept, m.Disk)
		case diskReturning:
			kept = append(kept, m.Disk)
		case diskLeaving:
			step.Kind = "drain"
			leaving = append(leaving, m.Disk)
		case diskGone:
			gone = append(gone, m.Disk)
		}
	}
	if len(gone) > 0 && attached {
		step.Kind, step.Remove = "rebuild", gone
		return step, true
	}
	leaving = append(leaving, gone...)
	for _, d := range joining {
		if h := health(d); h == diskGood || h == diskReturning {
			coming[d] = true
		}
	}
	var idle []block.DiskID
	for _, a := range e.Absent {
		if coming[a.Disk] {
			continue
		}
		if h := health(a.Disk); (h == diskGood || h == diskReturning) && len(kept) < factor {
			coming[a.Disk] = true
		} else {
			idle = append(idle, a.Disk)
		}
	}
	if len(kept) >= factor {
		step.Remove = append(leaving, idle...)
		if extra := len(kept) - factor; extra > 0 {
			step.Remove = append(step.Remove, kept[len(kept)-extra:]...)
		}
		return step, len(step.Remove) > 0
	}
	if step.Add = factor - len(kept) - len(coming); step.Add <= 0 {
		return repairStep{}, false
	}
	step.Keep = kept
	for d := range coming {
		step.Keep = append(step.Keep, d)
	}
	return step, true
}

// repairBook remembers what was asked of owners.
type repairBook struct {
	mu      sync.Mutex
	copies  map[copyKey]copyState         // replicas being added, until they are members
	removed map[copyKey]time.Time         // removals asked for, until they show
	refused map[block.ExtentID]time.Time  // steps that failed
	missing map[block.DiskID]time.Time    // disks that present chunks do not report
	stuck   map[block.VolumeID]stuckState // volumes for which no place was found

	// clean are the volumes found whole, at the revision of their last change of a set; valid while the disks are as in seen.
	clean map[block.VolumeID]int64
	seen  map[block.DiskID]diskHealth
}

func newRepairBook() *repairBook {
	return &repairBook{
		copies: map[copyKey]copyState{}, removed: map[copyKey]time.Time{}, refused: map[block.ExtentID]time.Time{},
		missing: map[block.DiskID]time.Time{}, stuck: map[block.VolumeID]stuckState{}, clean: map[block.VolumeID]int64{},
	}
}

type copyKey struct {
	extent block.ExtentID
	disk   block.DiskID
}

type copyState struct {
	to    target
	asked time.Time
	delta bool
}

type stuckState struct {
	reason string
	at     time.Time
}

// repairLoop keeps every extent at its replica factor.
func (l *leader) repairLoop() {
	tick := beat.Every(repairTick)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
			l.repairOnce(l.ctx)
		}
	}
}

// diskHealths judges all disks.
func (l *leader) diskHealths(s *state) map[block.DiskID]diskHealth {
	l.repair.mu.Lock()
	defer l.repair.mu.Unlock()
	now := l.now()
	out := make(map[block.DiskID]diskHealth, len(s.disks))
	for id, d := range s.disks {
		live := l.reg.live(d.Chunk)
		reports, full := l.reg.disksOf(d.Chunk)
		r, reported := reports[id]
		attached := live.Present && reported && r.GetDisk().GetState() == diskStateActive
		if attached {
			delete(l.repair.missing, id)
		}
		away := func() diskHealth {
			since := l.reg.offlineSince(d.Chunk)
			if live.Present {
				if !full {
					return diskReturning
				}
				first, ok := l.repair.missing[id]
				if !ok {
					first = now
					l.repair.missing[id] = now
				}
				since = first
			}
			if s.maintenance(d.Chunk) || now.Sub(since) < l.s.opts.RepairDelay {
				return diskReturning
			}
			return diskGone
		}
		switch {
		case d.State == metadb.DiskFailed || d.State == metadb.DiskRemoved:
			out[id] = diskGone
		case d.State == metadb.DiskDraining && attached:
			out[id] = diskLeaving
		case attached:
			out[id] = diskGood
		case d.State == metadb.DiskDraining:
			out[id] = diskGone
		default:
			out[id] = away()
		}
	}
	return out
}

type repairJob struct {
	step   repairStep
	volume metadb.Volume
	owner  metadb.Owner
	with   []target // places of the replicas that stay
	again  *target  // of a copy to be asked for again
}

// repairOnce makes one pass over all extents and starts what the limits admit.
func (l *leader) repairOnce(ctx context.Context) {
	var jobs []repairJob
	var pool []diskRoom
	l.view(func(s *state) {
		health := l.diskHealths(s)
		if !maps.Equal(health, l.repair.seen) {
			l.repair.seen, l.repair.clean = health, map[block.VolumeID]int64{}
		}
		judge := func(id block.DiskID) diskHealth {
			if h, ok := health[id]; ok {
				return h
			}
			return diskGone // no record: removed
		}
		jobs = l.repairJobs(s, judge)
		if len(jobs) > 0 {
			pool = l.rooms(s)
			l.repair.mu.Lock()
			for k := range l.repair.copies { // no set names them yet
				take(pool, k.disk, s.volumes[k.extent.Volume].Thin)
			}
			l.repair.mu.Unlock()
		}
	})
	for _, j := range jobs {
		if ctx.Err() != nil {
			return
		}
		err := l.repairStep(ctx, j, pool)
		l.repair.mu.Lock()
		if err != nil {
			l.repair.refused[j.step.Extent] = l.now()
		}
		l.repair.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			l.log.Debug("repair step not done", "extent", j.step.Extent, "error", err)
		}
	}
}

// repairJobs collects the steps that are due and admitted.
func (l *leader) repairJobs(s *state, health func(block.DiskID) diskHealth) []repairJob {
	now := l.now()
	l.repair.mu.Lock()
	defer l.repair.mu.Unlock()
	b := l.repair
	for k := range b.copies {
		e := extentOf(s, k.extent)
		c := b.copies[k]
		late := c.delta && now.Sub(c.asked) > deltaWait // the owner did not want it, or could not make it
		if h := health(k.disk); e == nil || memberAs(e, k.disk, c.delta) || late || h == diskGone || h == diskLeaving {
			delete(b.copies, k)
		}
	}
	for k, at := range b.removed {
		if now.Sub(at) > repairRepeat {
			delete(b.removed, k)
		}
	}
	for id, at := range b.refused {
		if now.Sub(at) > repairAgain {
			delete(b.refused, id)
		}
	}
	perOwner := map[block.ChunkID]int{}
	total := 0
	joining := map[block.ExtentID][]block.DiskID{}
	note := func(e block.ExtentID, d block.DiskID) {
		for _, have := range joining[e] {
			if have == d {
				return
			}
		}
		joining[e] = append(joining[e], d)
		perOwner[s.owners[e.Volume].Chunk]++
		total++
	}
	var jobs []repairJob
	deltas := map[block.ExtentID]bool{} // being added
	for k, c := range b.copies {
		if c.delta {
			deltas[k.extent] = true
			continue
		}
		note(k.extent, k.disk)
		// A new owner knows nothing of it: the same place is asked for until it is a member.
		if o := s.owners[k.extent.Volume]; now.Sub(c.asked) > repairRepeat && l.reg.live(o.Chunk).Present && b.refused[k.extent].IsZero() {
			jobs = append(jobs, repairJob{step: repairStep{Extent: k.extent}, volume: s.volumes[k.extent.Volume], owner: o, again: &c.to})
		}
	}
	for id, v := range s.volumes {
		o := s.owners[id]
		if v.State != metadb.StateReady || !l.reg.live(o.Chunk).Present {
			continue
		}
		inUse := false
		if f, ok := l.reg.volume(o.Chunk, id); ok && f.report.GetEpoch() == uint64(o.Epoch) {
			inUse = f.report.GetStatus().GetSessions() > 0
			for _, es := range f.report.GetStatus().GetExtentStatus() {
				for _, m := range slices.Concat(es.GetMembers(), es.GetAbsent()) {
					if d, err := block.ParseDiskID(m.GetDiskId()); err == nil && m.GetKind() == kindJoining {
						note(block.ExtentID{Volume: id, Index: block.ExtentIndex(es.GetIndex())}, d)
					}
				}
			}
		}
		if at, ok := b.clean[id]; ok && at == s.changed[id] {
			continue
		}
		extents := s.extents[id]
		whole := true
		for i := range extents {
			if !isWhole(&extents[i], int(v.ReplicaFactor), health) {
				whole = false
				break
			}
		}
		if whole {
			b.clean[id] = s.changed[id]
			continue
		}
		for i := range extents {
			e := &extents[i]
			if e.Revision == 0 || !b.refused[e.ID].IsZero() {
				continue
			}
			step, due := planExtent(e, int(v.ReplicaFactor), health, joining[e.ID])
			if !due && inUse && !deltas[e.ID] && len(joining[e.ID]) == 0 {
				step, due = planDelta(e, int(v.ReplicaFactor), health)
			}
			step.Remove = slices.DeleteFunc(step.Remove, func(d block.DiskID) bool { return !b.removed[copyKey{e.ID, d}].IsZero() })
			if !due || step.Add == 0 && len(step.Remove) == 0 {
				continue
			}
			if step.Delta {
				if len(deltas) >= deltasMax {
					continue
				}
				deltas[e.ID] = true
			} else if step.Add > 0 {
				if total >= repairMax || perOwner[o.Chunk] >= repairPerOwner {
					continue
				}
				perOwner[o.Chunk]++
				total++
			}
			j := repairJob{step: step, volume: v, owner: o}
			for _, d := range step.Keep {
				c := s.disks[d].Chunk
				j.with = append(j.with, target{Disk: d, Chunk: c, Node: s.nodeOf(c)})
			}
			jobs = append(jobs, j)
			if len(jobs) >= 4*repairMax {
				return jobs
			}
		}
	}
	return jobs
}

// isWhole is the case in which planExtent has nothing to do, without its work: nearly all extents, nearly always.
func isWhole(e *metadb.Extent, factor int, health func(block.DiskID) diskHealth) bool {
	if len(e.Members) != factor || len(e.Absent) != 0 {
		return false
	}
	for _, m := range e.Members {
		if m.Kind != metadb.KindFull || health(m.Disk) != diskGood {
			return false
		}
	}
	return true
}

// memberAs reports whether a disk is the kind of member it was to become.
func memberAs(e *metadb.Extent, d block.DiskID, delta bool) bool {
	for _, m := range e.Members {
		if m.Disk == d {
			return delta || m.Kind == metadb.KindFull
		}
	}
	return false
}

func extentOf(s *state, id block.ExtentID) *metadb.Extent {
	list := s.extents[id.Volume]
	if int(id.Index) >= len(list) || list[id.Index].Revision == 0 {
		return nil
	}
	return &list[id.Index]
}

func hasMember(e *metadb.Extent, d block.DiskID) bool {
	for _, m := range e.Members {
		if m.Disk == d {
			return true
		}
	}
	return false
}

// repairStep asks the owner for one step. Removals are idempotent; additions are remembered until they show.
func (l *leader) repairStep(ctx context.Context, j repairJob, pool []diskRoom) error {
	cc, err := l.control(j.owner.Chunk)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, repairCall)
	defer cancel()
	e := j.step.Extent
	if j.again != nil {
		return l.addMember(ctx, cc, e, *j.again, false)
	}
	for _, d := range j.step.Remove {
		l.repair.mu.Lock()
		l.repair.removed[copyKey{e, d}] = l.now()
		l.repair.mu.Unlock()
		_, err := cc.RemoveMember(ctx, &storagedv1.RemoveMemberRequest{VolumeId: e.Volume.String(), Extent: uint32(e.Index), DiskId: d.String()})
		if err != nil {
			return fmt.Errorf("remove %s: %w", d, err)
		}
		l.log.Debug("replica to be taken out of its set", "volume", e.Volume, "extent", uint32(e.Index), "disk", d)
	}
	if j.step.Add == 0 {
		return nil
	}
	v := j.volume
	var open []diskRoom
	perDisk := l.copiesByDisk()
	for _, d := range pool {
		if perDisk[d.ID] < repairPerDisk {
			open = append(open, d)
		}
	}
	w := want{Seed: v.ID, Replicas: 1, Thick: !v.Thin, PreferNode: v.PreferNode, Nodes: v.TopologyNodes}
	p, err := newPlacer(open, l.limits(), w)
	if err == nil {
		var targets []target
		size := min(uint64(block.ExtentSizeBytes), v.SizeBytes-uint64(e.Index)*block.ExtentSizeBytes)
		if targets, err = p.place(e.Index, size, 1, j.with); err == nil {
			take(pool, targets[0].Disk, v.Thin) // for the steps that follow in this pass
			return l.addMember(ctx, cc, e, targets[0], j.step.Delta)
		}
	}
	if len(open) == len(pool) && !j.step.Delta {
		l.repair.mu.Lock()
		l.repair.stuck[v.ID] = stuckState{reason: err.Error(), at: l.now()}
		l.repair.mu.Unlock()
	}
	return err
}

// take counts one more replica on a disk of a pool.
func take(pool []diskRoom, id block.DiskID, thin bool) {
	for i := range pool {
		if pool[i].ID != id {
			continue
		}
		if thin {
			pool[i].ThinBytes += block.ExtentSizeBytes
		} else {
			pool[i].Thick += block.ExtentSizeBytes
		}
	}
}

func (l *leader) addMember(ctx context.Context, cc storagedv1.ChunkControlClient, e block.ExtentID, t target, delta bool) error {
	unlock, ok := l.locks.tryLock("extent " + e.String())
	if !ok {
		return errors.New("an orphaned replica of the extent is being deleted")
	}
	defer unlock()
	key := copyKey{e, t.Disk}
	l.repair.mu.Lock()
	_, repeated := l.repair.copies[key]
	l.repair.copies[key] = copyState{to: t, asked: l.now(), delta: delta}
	if !delta {
		delete(l.repair.stuck, e.Volume)
	}
	l.repair.mu.Unlock()
	_, err := cc.AddMember(ctx, &storagedv1.AddMemberRequest{VolumeId: e.Volume.String(), Extent: uint32(e.Index), DiskId: t.Disk.String(), Chunk: uint32(t.Chunk), Delta: delta})
	if err != nil {
		// With an unknown outcome the entry stays: asking for a second place could make one copy too many.
		if c := status.Code(err); c != codes.DeadlineExceeded && c != codes.Unavailable {
			l.repair.mu.Lock()
			delete(l.repair.copies, key)
			l.repair.mu.Unlock()
		}
		return fmt.Errorf("add %s on node %s: %w", t.Disk, t.Node, err)
	}
	if repeated {
		return nil
	}
	if delta {
		l.log.Info("delta being added", "volume", e.Volume, "extent", uint32(e.Index), "disk", t.Disk, "node", t.Node)
		return nil
	}
	l.log.Info("replica being rebuilt", "volume", e.Volume, "extent", uint32(e.Index), "disk", t.Disk, "node", t.Node)
	return nil
}

func (l *leader) copiesByDisk() map[block.DiskID]int {
	l.repair.mu.Lock()
	defer l.repair.mu.Unlock()
	out := map[block.DiskID]int{}
	for k := range l.repair.copies {
		out[k.disk]++
	}
	return out
}
