package sim

import (
	"maps"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// FaultKind is a kind of fault.
type FaultKind uint8

// The fault model. See docs/protocol.md.
const (
	// FaultKill ends a process; the kernel and the disks live on.
	FaultKill FaultKind = iota
	// FaultPower cuts the power of a node: what its disks had not made durable is lost.
	FaultPower
	// FaultPowerAll cuts the power of all nodes.
	FaultPowerAll
	// FaultFreeze stops a process; its clock goes on (SIGSTOP, a node that swaps).
	FaultFreeze
	// FaultPause stops a node with its clock (a paused virtual machine).
	FaultPause
	// FaultIsolate cuts a node off from the others, and perhaps from metadata and clients.
	FaultIsolate
	// FaultOneWay cuts one direction between two nodes.
	FaultOneWay
	// FaultDrop breaks the connections between two nodes.
	FaultDrop
	// FaultStall makes a disk answer nothing for a while.
	FaultStall
	// FaultFull makes a disk refuse what needs space.
	FaultFull
	// FaultDisk fails a flush: the disk refuses all changes from then on. At most one disk of a run, not while another fault is active.
	FaultDisk
	// FaultRot damages blocks at rest, or a write goes to the wrong place. Only that same disk.
	FaultRot
	// FaultRollback cuts the power of the node with that disk, which comes back with an old state. Not while another fault is active.
	FaultRollback
	// FaultMeta cuts a node off from metadata.
	FaultMeta
	// FaultSuspect makes the leader move the volume away from an owner that is well.
	FaultSuspect
	// FaultUsurp cuts the owner off from all but its clients while the others are restarted, and the leader moves the volume at once: whether the
	// old owner stops in time rests on nothing but promises given by processes that are gone.
	FaultUsurp
	// FaultStrand leaves the owner alone with those who only read: the writers go elsewhere first, and what they had begun there ends. Nothing
	// but the end of the promises keeps the readers from what has become old.
	FaultStrand
	// FaultRelay takes two members away one after the other, so far apart that a delta takes over what the first one misses, and brings the
	// first back while the second is still away: the two together are then all there is.
	FaultRelay
	faultKinds
)

// AllFaults are all kinds.
var AllFaults = func() []FaultKind {
	var k []FaultKind
	for i := range faultKinds {
		k = append(k, i)
	}
	return k
}()

// scheduleFaults spreads faults, snapshots and moves over the run.
func (w *World) scheduleFaults() {
	for range w.cfg.Faults {
		k := w.cfg.Kinds[w.rng.IntN(len(w.cfg.Kinds))]
		w.push(event{at: w.between(300*ms, w.cfg.Length-500*ms), fn: func() { w.fault(k, w.drawChunk()) }})
	}
	for range w.cfg.Snapshots {
		w.push(event{at: w.between(300*ms, w.cfg.Length), fn: w.takeSnapshot})
	}
	for range w.cfg.Drains {
		w.push(event{at: w.between(300*ms, w.cfg.Length), fn: w.drain})
	}
	if w.cfg.Grow {
		w.push(event{at: w.between(300*ms, w.cfg.Length), fn: w.grow})
	}
	for range w.cfg.Moves {
		w.push(event{at: w.between(300*ms, w.cfg.Length), fn: func() { w.move(w.chunks[w.rng.IntN(len(w.chunks))]) }})
	}
}

// drawChunk prefers the owner: faults there are the interesting ones.
func (w *World) drawChunk() *chunk {
	if w.chance(45) {
		return w.meta.owner
	}
	return w.chunks[w.rng.IntN(len(w.chunks))]
}

func (w *World) takeSnapshot() {
	c := w.clients[w.rng.IntN(len(w.clients))]
	if c.sess == nil || w.healed {
		return
	}
	o := &ioOp{kind: opBarrier, rng: block.Range{Start: 1, Count: 1}}
	c.begin(o)
}

// ready returns the chunk whose owner can be told something now, nil if there is none.
func (w *World) ready() *chunk {
	if c := w.meta.owner; c.alive && c.frozenTill <= w.now && c.owner != nil && c.ownerEpoch == w.meta.epoch {
		return c
	}
	return nil
}

// drain takes a replica away, perhaps after another was added.
func (w *World) drain() {
	c := w.ready()
	if c == nil || w.healed || w.now < w.quietTill {
		return
	}
	x := block.ExtentIndex(w.rng.IntN(len(w.meta.extents)))
	set := w.meta.extents[x].Members
	out := set[w.rng.IntN(len(set))].Disk
	if w.chance(50) {
		for _, o := range w.chunks {
			if o.alive && !slices.ContainsFunc(set, func(m replication.Member) bool { return m.Chunk == o.id }) {
				d := o.disks[len(o.disks)-1]
				c.do(c.owner.AddMember(c.clock(), x, replication.Member{Disk: d.id, Chunk: o.id}, c.effects()))
				break
			}
		}
		w.after(w.between(100*ms, 2*sec), func() { w.remove(x, out) })
		return
	}
	w.remove(x, out)
}

func (w *World) remove(x block.ExtentIndex, d block.DiskID) {
	if int(x) < len(w.meta.extents) && w.lastGood(w.meta.extents[x].Members, d) {
		return // the leader would not: what stays is on a disk that has failed
	}
	if c := w.ready(); c != nil && !w.healed && w.now >= w.quietTill {
		w.activeTill = max(w.activeTill, w.now+3*sec)
		w.tracef("drain %x of extent %d", d[:2], x)
		c.do(c.owner.RemoveMember(c.clock(), x, d, c.effects()))
	}
}

// grow appends an extent to the volume.
func (w *World) grow() {
	c := w.ready()
	if w.healed || c == nil {
		return
	}
	n := len(w.meta.extents)
	w.newExtent()
	c.do(c.owner.Grow(c.clock(), slices.Clone(w.meta.extents[n:]), sizeBlocks(n+1), c.effects()))
}

func (w *World) move(to *chunk) {
	o := w.meta.owner
	if w.healed || !o.alive || o.frozenTill > w.now || o.owner == nil || to == o {
		return
	}
	w.tracef("move to %d", to.id)
	o.do(o.owner.Release(o.clock(), to.id, o.effects()))
}

// duration draws how long a fault lasts: mostly around the steps of the ladder of time-outs.
func (w *World) duration() int64 {
	switch w.rng.IntN(3) {
	case 0:
		return w.between(10*ms, 500*ms)
	case 1:
		return w.between(500*ms, 2500*ms)
	}
	return w.between(2*sec, 7*sec)
}

func (w *World) fault(k FaultKind, c *chunk) {
	if w.healed || w.now < w.quietTill {
		return
	}
	if k == FaultDisk || k == FaultRot || k == FaultRollback {
		c = w.rot.chunk
	}
	if !c.alive && k != FaultSuspect {
		return
	}
	d := w.duration()
	w.Stats.Faults++
	w.tracef("FAULT %d at chunk %d for %.3fs", k, c.id, float64(d)/1e9)
	alone := w.activeTill <= w.now
	if k == FaultDrop {
		w.activeTill = max(w.activeTill, w.now+3*sec) // a member may leave for it
	} else if k != FaultRot && k != FaultSuspect {
		w.activeTill = max(w.activeTill, w.now+d+3*sec)
	}
	switch k {
	case FaultKill, FaultPower:
		c.die(k == FaultPower)
		w.after(d, func() { w.revive(c) })
	case FaultPowerAll:
		for _, c := range w.chunks {
			if c.alive {
				c.die(true)
			}
			w.after(d+w.between(0, 2*sec), func() { w.revive(c) })
		}
	case FaultFreeze, FaultPause:
		c.frozenTill = max(c.frozenTill, w.now+d)
		if k == FaultPause {
			c.stopClock(d)
		}
		if w.chance(60) {
			// It wakes up alone, and has to find out by itself that it has been replaced.
			w.cutOff(c)
			c.metaCut = true
			w.after(d+w.between(0, 3*sec), func() { w.join(c) })
		} else if w.chance(40) {
			c.metaCut = true
			w.after(d+w.between(0, 3*sec), func() { w.join(c) })
		}
	case FaultIsolate:
		meta, clients := w.chance(60), w.chance(30)
		if w.chance(50) {
			// The owner alone with its clients, for long enough that another takes over.
			c, meta, clients, d = w.meta.owner, true, false, w.between(3*sec, 7*sec)
			w.activeTill = max(w.activeTill, w.now+d+3*sec)
		}
		c.metaCut, c.clientCut = meta, clients
		w.cutOff(c)
		w.after(d, func() { w.join(c) })
	case FaultOneWay:
		o := w.chunks[w.rng.IntN(len(w.chunks))]
		a, b := c.index, o.index
		if w.chance(50) {
			a, b = b, a
		}
		if a != b {
			w.net.setCut(a, b, true)
			w.after(d, func() { w.net.setCut(a, b, false) })
		}
	case FaultDrop:
		if o := w.chunks[w.rng.IntN(len(w.chunks))]; o != c {
			w.net.drop(w.net.link(c.index, o.index))
		}
	case FaultStall:
		for _, x := range c.disks {
			x.stall = max(x.stall, w.now+d)
		}
	case FaultFull:
		which := w.chunks
		if w.chance(70) {
			which = []*chunk{c}
		}
		for _, c := range which {
			for _, x := range c.disks {
				x.full = true
				w.after(d, func() { x.full = false })
			}
		}
	case FaultDisk:
		if alone && w.redundant(w.rot) {
			w.rot.failed = true
			w.quietTill = w.now + 5*sec
		}
	case FaultRot:
		w.rotBlocks(w.rot)
	case FaultRollback:
		if alone && w.redundant(w.rot) && !w.rot.failed {
			w.rollback(w.rot, d)
		}
	case FaultMeta:
		c.metaCut = true
		w.after(d, func() { c.metaCut = false })
	case FaultSuspect:
		if to := w.meta.choose(); to != nil && to != w.meta.owner {
			w.meta.assign(to)
		}
	case FaultRelay:
		w.relay(w.between(500*ms, 3*sec), d)
	case FaultStrand:
		w.activeTill = max(w.activeTill, w.now+d+7*sec)
		w.strand(w.meta.owner, d+3*sec)
	case FaultUsurp:
		o := w.meta.owner
		o.metaCut = true
		w.cutOff(o)
		w.after(d+2*sec, func() { w.join(o) })
		for _, x := range w.chunks {
			if x != o && x.alive {
				x.die(false)
				w.after(w.between(10*ms, 150*ms), func() { w.revive(x) })
			}
		}
		for _, cl := range w.clients {
			if s := cl.sess; s != nil && s.chunk == o && cl.writes > 0 && w.chance(70) {
				w.after(w.between(0, 500*ms), func() { cl.dropSession(s) })
			}
		}
		w.after(160*ms, func() {
			if to := w.meta.choose(); to != nil && to != o && !w.healed {
				w.meta.assign(to)
			}
		})
	}
}

// relay is FaultRelay: the second goes after pause, and stays away for away longer than the first.
func (w *World) relay(pause, away int64) {
	rec := w.meta.extents[w.rng.IntN(len(w.meta.extents))]
	if len(rec.Members) < 2 {
		return
	}
	who := w.rng.Perm(len(rec.Members))
	first, second := w.chunks[rec.Members[who[0]].Chunk-1], w.chunks[rec.Members[who[1]].Chunk-1]
	if !first.alive || !second.alive {
		return
	}
	w.activeTill = max(w.activeTill, w.now+pause+away+6*sec)
	w.tracef("relay: chunk %d goes, then chunk %d", first.id, second.id)
	first.die(w.chance(50))
	w.after(pause, func() {
		if second.alive && !w.healed {
			second.die(w.chance(50))
			back := w.between(0, 1*sec)
			w.after(back, func() { w.revive(first) })
			w.after(back+away+2*sec, func() { w.revive(second) })
			return
		}
		w.revive(first)
	})
}

// strand is FaultStrand.
func (w *World) strand(o *chunk, d int64) {
	for _, cl := range w.clients {
		if cl.writes == 0 && w.chance(70) {
			continue
		}
		cl.shunned, cl.shunnedTill = o, w.now+d
		if s := cl.sess; s != nil && s.chunk == o {
			cl.dropSession(s)
		}
	}
	at := w.between(50*ms, 300*ms)
	w.after(at, func() {
		if w.healed {
			return
		}
		o.metaCut = true
		w.cutOff(o)
		w.after(d, func() { w.join(o) })
		if w.chance(60) {
			// The leader is quick, so that the promises end last.
			w.after(w.between(0, 400*ms), func() {
				if to := w.meta.chooseOther(o); to != nil && w.meta.owner == o && !w.healed {
					w.meta.assign(to)
				}
			})
		}
	})
}

// cutOff cuts all connections of a chunk with others.
func (w *World) cutOff(c *chunk) {
	for i := range w.chunks {
		if i != c.index {
			w.net.setCut(i, c.index, true)
			w.net.setCut(c.index, i, true)
		}
	}
}

func (w *World) join(c *chunk) {
	c.metaCut, c.clientCut = false, false
	for i := range w.chunks {
		if i != c.index {
			w.net.setCut(i, c.index, false)
			w.net.setCut(c.index, i, false)
		}
	}
}

func (w *World) revive(c *chunk) {
	if !c.alive {
		c.boot()
	}
}

// redundant reports whether every set with the disk has another member.
func (w *World) redundant(d *disk) bool {
	for _, r := range w.meta.extents {
		for _, m := range r.Members {
			if m.Disk == d.id && m.Kind == replication.Full && fullMembers(r.Members) < 2 {
				return false
			}
		}
	}
	return true
}

// rotBlocks damages blocks of a disk, in memory too, as if they had left every cache.
func (w *World) rotBlocks(d *disk) {
	for range 1 + w.rng.IntN(4) {
		x := block.ExtentIndex(w.rng.IntN(len(w.meta.extents)))
		no := w.rng.IntN(blocksMax)
		for _, m := range []map[block.ExtentIndex]*replica{d.seen, d.durable} {
			if r := m[x]; r != nil && len(r.blocks[no]) > 0 {
				r.blocks[no][len(r.blocks[no])-1].bad = true
			}
		}
	}
}

// rollback takes the power, and puts back what the disk held a while ago. The shell finds that the mount counter is too low.
func (w *World) rollback(d *disk, down int64) {
	old := map[block.ExtentIndex]*replica{}
	for _, x := range slices.Sorted(maps.Keys(d.durable)) {
		old[x] = d.durable[x].clone()
	}
	w.quietTill = w.now + 2*sec + 6*sec
	c := d.chunk
	w.after(w.between(100*ms, 2*sec), func() {
		if !c.alive || !w.redundant(d) || w.healed {
			return
		}
		w.tracef("chunk %d: disk is rolled back", c.id)
		c.die(true)
		for x := range old {
			old[x].stale = true
		}
		d.durable = old
		d.seen = map[block.ExtentIndex]*replica{}
		for x, r := range old {
			d.seen[x] = r.clone()
		}
		w.after(min(down, 3*sec), func() { w.revive(c) })
	})
}
