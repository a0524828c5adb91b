package sim

import (
	"fmt"
	"maps"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// finish heals everything, waits until the volume is well, reads all of it, and judges.
func (w *World) finish() {
	if w.bad != nil {
		return
	}
	w.heal()
	w.run(w.now + 300*ms)
	w.stop = true
	// What disks have kept until now is given up by now, and who kept it has left its sets.
	w.run(w.now + 2*sec)
	limit := w.now + 90*sec
	for w.bad == nil && !w.settled() {
		if w.now > limit {
			w.fail("not well %d s after the last fault: %s", 90, w.why())
			return
		}
		w.run(w.now + 100*ms)
	}
	w.readAll()
	limit = w.now + 40*sec
	for w.bad == nil && !w.idle() {
		if w.now > limit {
			w.fail("reads at the end are not answered: %s", w.why())
			return
		}
		w.run(w.now + 50*ms)
	}
	w.run(w.now + 300*ms)
	if w.bad != nil {
		return
	}
	w.compareMembers()
	w.judge()
}

func (w *World) heal() {
	w.tracef("HEAL")
	w.healed = true
	for _, c := range w.clients {
		c.shunned = nil
	}
	for _, c := range w.chunks {
		// Who is frozen thaws by itself: what waits for it keeps its order.
		c.metaCut, c.clientCut = false, false
		for i := range w.chunks {
			w.net.setCut(c.index, i, false)
		}
		for _, d := range c.disks {
			d.full = false
			d.stall = min(d.stall, w.now)
		}
		if last := c.disks[len(c.disks)-1]; last.failed {
			c.disks = append(c.disks, newDisk(w, c, byte(len(c.disks))))
		}
		if !c.alive {
			c.boot()
		}
	}
}

func (w *World) idle() bool {
	for _, c := range w.clients {
		if len(c.open) > 0 {
			return false
		}
	}
	return true
}

// settled reports whether all extents serve with all their replicas and no client waits.
func (w *World) settled() bool { return w.why() == "" }

func (w *World) why() string {
	for _, c := range w.chunks {
		if c.frozenTill > w.now {
			return "a chunk is frozen"
		}
		for i := range c.index {
			if l := w.net.link(i, c.index); !l.up || l.known[0] != l.gen || l.known[1] != l.gen {
				return "connections are missing"
			}
		}
	}
	o := w.meta.owner
	switch {
	case o.owner == nil || o.ownerEpoch != w.meta.epoch:
		return "no owner"
	case !w.idle():
		for _, c := range w.clients {
			for _, o := range c.open {
				return fmt.Sprintf("client %d waits for kind %d of extent %d %v, session %d, attempts %d; owner has %v", c.id, o.kind, o.ext, o.rng, o.session, o.attempts,
					slices.Sorted(maps.Keys(w.meta.owner.serving)))
			}
		}
	}
	s := o.owner.Status()
	switch {
	case s.Serving < s.Extents:
		return "extents do not serve"
	case s.Degraded > 0:
		return "replicas are missing"
	case s.Joining > 0:
		return "resync goes on"
	}
	for x, rec := range w.meta.extents {
		if o.owner.Record(block.ExtentIndex(x)).Generation != rec.Generation {
			return "the owner does not know a set"
		}
	}
	return ""
}

// readAll reads every block of every view through the owner.
func (w *World) readAll() {
	if w.bad != nil {
		return
	}
	c := w.clients[0]
	for x := range w.meta.extents {
		rng := block.Range{Count: blocksMax}
		c.begin(&ioOp{kind: opRead, ext: block.ExtentIndex(x), rng: rng, view: block.LiveView})
		for _, v := range w.meta.views {
			c.begin(&ioOp{kind: opView, ext: block.ExtentIndex(x), rng: rng, view: v})
		}
	}
}

// compareMembers checks that all members of each set are equal, in what they show and in what they keep.
func (w *World) compareMembers() {
	views := append([]block.SnapSeq{w.meta.snapSeq}, w.meta.views...)
	for x, rec := range w.meta.extents {
		if len(rec.Members) < w.cfg.Replicas {
			w.fail("extent %d has %d members", x, len(rec.Members))
		}
		var first *replica
		var at block.ChunkID
		for _, m := range rec.Members {
			d := w.chunks[m.Chunk-1].disk(m.Disk)
			if m.Kind != replication.Full {
				w.fail("extent %d: a delta is left on chunk %d", x, m.Chunk)
				return
			}
			for _, r := range []*replica{d.seen[block.ExtentIndex(x)], d.durable[block.ExtentIndex(x)]} {
				if r == nil {
					w.fail("extent %d: member on chunk %d has no replica", x, m.Chunk)
					return
				}
				if first == nil {
					first, at = r, m.Chunk
					continue
				}
				for _, v := range views {
					for no := range block.No(blocksMax) {
						a, b := first.at(no, v), r.at(no, v)
						if a.stamp != b.stamp || (a.zero != b.zero || a.value != b.value) && !a.bad && !b.bad {
							w.fail("extent %d block %d view %d: chunk %d has %d at %s, chunk %d has %d at %s", x, no, v, at, a.value, a.stamp, m.Chunk, b.value, b.stamp)
							return
						}
					}
				}
			}
		}
	}
}

// judge gives the history of every block to the checker.
func (w *World) judge() {
	for k, ops := range w.ops {
		if err := CheckRegister(ops); err != nil {
			w.fail("extent %d block %d: %v", k/blocksMax, k%blocksMax, err)
			return
		}
	}
}

// Random draws a configuration from a seed.
func Random(seed uint64) Config {
	w := &World{rng: newRand(seed)}
	c := Config{Seed: seed, Chunks: 3 + w.rng.IntN(3), Extents: 1 + w.rng.IntN(2), Replicas: 2 + w.rng.IntN(2), MinReplicas: 1,
		Clients: 1 + w.rng.IntN(3), Depth: 1 + w.rng.IntN(4), Think: w.between(5*ms, 200*ms), Net: 150 * us, Disk: 300 * us, Length: w.between(5*sec, 14*sec), Faults: 1 + w.rng.IntN(8),
		Snapshots: w.rng.IntN(4), Moves: w.rng.IntN(3), Drains: max(0, w.rng.IntN(6)-3), Grow: w.chance(20)}
	if c.Replicas == 3 && !w.chance(30) {
		c.MinReplicas = 2
	}
	// Slow networks and disks keep more in flight, so that faults hit it.
	for _, d := range []*int64{&c.Net, &c.Disk} {
		switch w.rng.IntN(3) {
		case 0:
			*d = w.between(1*ms, 8*ms)
		case 1:
			*d = w.between(8*ms, 40*ms)
		}
	}
	c.Budget = 40
	c.Deltas, c.Scrub = w.chance(80), w.chance(60)
	// Few kinds at a time make combinations of the same kind likely.
	n := 1 + w.rng.IntN(4)
	switch {
	case w.chance(25):
		n = int(faultKinds)
	case w.chance(10):
		// Members that leave one after the other, with somewhere to put a delta.
		c.Kinds, n = []FaultKind{FaultRelay, FaultRelay}, w.rng.IntN(2)
		c.Chunks, c.Deltas = max(c.Chunks, c.Replicas+1), true
	case w.chance(45):
		// What makes two owners believe in themselves.
		c.Kinds = []FaultKind{FaultIsolate, FaultFreeze, FaultUsurp, FaultStrand, FaultSuspect}
		if n = 0; w.chance(50) {
			c.Kinds = append(c.Kinds, FaultPause)
		}
		// Somebody has to write through the one while somebody reads through the other.
		c.Clients, c.Think = max(c.Clients, 2), w.between(5*ms, 40*ms)
	}
	for _, i := range w.rng.Perm(int(faultKinds))[:n] {
		c.Kinds = append(c.Kinds, FaultKind(i))
	}
	c.Confirm = slices.Contains(c.Kinds, FaultPause) || w.chance(50)
	return c
}
