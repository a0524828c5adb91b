package sim

import (
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// tickEvery is how often chunks tick.
const tickEvery = 40 * ms

// chunk is a node with its process: the shell around the machines.
type chunk struct {
	w     *World
	index int
	id    block.ChunkID
	inc   uint64
	disks []*disk

	alive      bool
	killed     bool // its process was killed, so that everybody notices at once
	diedAt     int64
	frozenTill int64
	metaCut    bool
	clientCut  bool
	metaSeen   int64

	// The clock: base + (now - since) * (1 + rate/1e6). It never goes back over restarts, unlike CLOCK_BOOTTIME, but no more is needed.
	base, since int64
	rate        int64

	lease      *replication.Lease
	replica    *replication.Replica
	owner      *replication.Owner
	ownerEpoch block.Epoch
	usedEpoch  block.Epoch
	barrierAt  int64
	serving    map[uint64]*attempt // requests inside the owner by tag
	away       []replication.Time  // by chunk: when this process lost it, 0 if it has not

	buf [][]replication.Effect
}

func newChunk(w *World, i int) *chunk {
	c := &chunk{w: w, index: i, id: block.ChunkID(i + 1), base: w.between(1*sec, 1000*sec), rate: w.between(-24000, 24000)}
	c.disks = []*disk{newDisk(w, c, 0)}
	return c
}

// clock reads the chunk's CLOCK_BOOTTIME.
func (c *chunk) clock() replication.Time {
	d := c.w.now - c.since
	return replication.Time(c.base + d + d/1000*c.rate/1000)
}

// stopClock makes the clock stand still for d from now.
func (c *chunk) stopClock(d int64) {
	c.base = int64(c.clock())
	c.since = c.w.now + d
}

func (c *chunk) disk(id block.DiskID) *disk {
	for _, d := range c.disks {
		if d.id == id {
			return d
		}
	}
	return nil
}

// boot starts the process.
func (c *chunk) boot() {
	w := c.w
	c.alive, c.killed = true, false
	c.inc++
	c.metaSeen = w.now
	c.owner, c.serving = nil, map[uint64]*attempt{}
	c.away = make([]replication.Time, len(w.chunks))
	c.usedEpoch = max(c.usedEpoch, w.meta.epoch) // epochs it may have used before its end
	plant := replication.Plant{Bugs: w.cfg.Bugs}
	c.lease = replication.NewLease(replication.LeaseOptions{Self: c.id, Incarnation: c.inc, Started: c.clock()})
	plant.Lease(c.lease)
	opt := replication.ReplicaOptions{Volume: w.volume, Self: c.id, Chain: c.lease.Chain}
	for _, d := range c.disks {
		if d.epoch[0] > opt.Epoch {
			opt.Epoch, opt.Owner = d.epoch[0], d.owner[0]
		}
	}
	c.replica = replication.NewReplica(opt)
	plant.Replica(c.replica)
	w.tracef("chunk %d: process %d starts at epoch %d of %d", c.id, c.inc, opt.Epoch, opt.Owner)
	w.push(event{at: w.now + w.between(0, tickEvery), kind: evTick, chunk: c, inc: c.inc})
	for i := range w.chunks {
		if i != c.index && w.now > 0 {
			// Connections of the process before are reset when the peer next uses them, at the latest.
			l := w.net.link(c.index, i)
			w.net.drop(l)
			w.net.connect(l)
		}
	}
	if w.now == 0 && c.index == len(w.chunks)-1 {
		for a := range w.chunks {
			for b := a + 1; b < len(w.chunks); b++ {
				w.net.connect(w.net.links[a][b])
			}
		}
	}
}

// die ends the process. A power cut also loses what the disks have not made durable; a kill leaves it to the kernel.
func (c *chunk) die(power bool) {
	w := c.w
	w.tracef("chunk %d: process ends, power %v", c.id, power)
	c.alive, c.killed, c.diedAt = false, !power, w.now
	c.frozenTill = 0
	if c.since > w.now {
		c.since = w.now
	}
	c.owner = nil
	for _, d := range c.disks {
		if power {
			d.crash()
		} else {
			for _, o := range d.queue {
				o.back = false
			}
		}
	}
	detect := 2 * ms
	if power {
		detect = 2500 * ms
	}
	w.net.processEnded(c, detect)
	for _, cl := range w.clients {
		cl.chunkDied(c)
	}
}

// own begins to own the volume.
func (c *chunk) own(e block.Epoch) {
	w := c.w
	if c.owner != nil {
		c.excluded(e)
	}
	c.usedEpoch, c.ownerEpoch = e, e
	opt := replication.OwnerOptions{Volume: w.volume, Self: c.id, Incarnation: c.inc, Epoch: e, ReplicaFactor: w.cfg.Replicas,
		MinReplicas: w.cfg.MinReplicas, SnapSeq: w.meta.snapSeq, Snapshots: w.meta.views, Promise: c.lease.Promise,
		SizeBlocks: sizeBlocks(len(w.meta.extents))}
	opt.Extents = append(opt.Extents, w.meta.extents...)
	o := replication.NewOwner(opt)
	replication.Plant{Bugs: w.cfg.Bugs}.Owner(o)
	c.owner = o
	if w.cfg.Confirm {
		o.Initiators(w.cfg.Clients)
	}
	w.tracef("chunk %d: owner in epoch %d", c.id, e)
	c.do(o.PeerUp(c.clock(), c.id, c.inc, c.effects()))
	for i := range w.chunks {
		if i != c.index && w.net.link(c.index, i).known[w.net.link(c.index, i).end(c.index)] != 0 {
			c.do(o.PeerUp(c.clock(), w.chunks[i].id, w.chunks[i].inc, c.effects()))
		} else if since := c.away[i]; since != 0 {
			c.do(o.PeerAway(c.clock(), w.chunks[i].id, since, c.effects()))
		}
	}
	c.do(o.Start(c.clock(), c.effects()))
}

// sizeBlocks is the size of a volume: of its last extent only what is ever used, so that scrub gets around.
func sizeBlocks(extents int) uint64 { return uint64(extents-1)*block.PerExtent + blocksMax }

func (c *chunk) excluded(e block.Epoch) {
	if c.owner != nil {
		c.do(c.owner.Excluded(c.clock(), e, c.effects()))
	}
}

func (c *chunk) tick() {
	c.w.push(event{at: c.w.now + tickEvery, kind: evTick, chunk: c, inc: c.inc})
	if c.clock() >= c.lease.Next() {
		c.do(c.lease.Tick(c.clock(), c.effects()))
	}
	if c.owner != nil && !c.owner.Quiet() {
		c.do(c.owner.Tick(c.clock(), c.effects()))
	}
	if c.owner != nil && c.owner.Joining() {
		c.do(c.owner.ResyncBudget(c.clock(), int64(c.w.cfg.Budget)*block.Size, 0, c.effects()))
	}
	if c.owner != nil && c.w.cfg.Scrub {
		c.do(c.owner.ScrubBudget(c.clock(), replication.ScrubBlocks*block.Size, c.effects()))
	}
}

func (c *chunk) peerUp(other *chunk) {
	c.lease.PeerUp(other.id)
	c.away[other.index] = 0
	if c.owner != nil {
		c.do(c.owner.PeerUp(c.clock(), other.id, other.inc, c.effects()))
	}
}

func (c *chunk) peerDown(other *chunk) {
	c.lease.PeerDown(other.id)
	c.away[other.index] = c.clock()
	if c.owner != nil {
		c.do(c.owner.PeerDown(c.clock(), other.id, c.effects()))
	}
}

// receive takes a message of another chunk or of the own one.
func (c *chunk) receive(from *chunk, m *replication.Message) {
	if c.w.cfg.Trace != nil && m.Kind < replication.MsgLeaseRequest && m.Kind != replication.MsgConfirm && m.Kind != replication.MsgConfirmed {
		c.w.tracef("%d→%d %s", from.id, c.id, describe(m))
	}
	switch m.Kind {
	case replication.MsgLeaseRequest, replication.MsgLeaseGrant, replication.MsgLeaseRelease:
		c.do(c.lease.Receive(c.clock(), from.id, m, c.effects()))
	case replication.MsgEpochPending, replication.MsgEpochTaken, replication.MsgWriteReply, replication.MsgReadReply, replication.MsgJoinReply,
		replication.MsgStamps, replication.MsgCopyReply, replication.MsgConfirmed:
		if c.owner != nil {
			c.do(c.owner.Receive(c.clock(), from.id, m, c.effects()))
		}
	default:
		c.do(c.replica.Receive(from.id, m, c.effects()))
	}
}

func (c *chunk) storeDone(d *replication.StoreDone) {
	c.do(c.replica.StoreDone(d, c.effects()))
}

// effects returns an empty slice to collect effects in; do gives it back.
func (c *chunk) effects() []replication.Effect {
	if len(c.buf) == 0 {
		return make([]replication.Effect, 0, 8)
	}
	b := c.buf[len(c.buf)-1]
	c.buf = c.buf[:len(c.buf)-1]
	return b[:0]
}

// do performs effects in order, each with what follows from it before the next.
func (c *chunk) do(out []replication.Effect) {
	w := c.w
	for i := range out {
		if w.bad != nil {
			break
		}
		e := &out[i]
		switch e.Kind {
		case replication.EffSend:
			c.send(e)
		case replication.EffStore:
			c.store(e)
		case replication.EffAskLease:
			c.do(c.lease.Wanted(c.clock(), replication.VolumeEpoch{Volume: e.Msg.Volume, Epoch: e.Msg.Epoch}, e.Holder, e.To, c.effects()))
		case replication.EffFree:
			c.do(c.replica.EpochFree(e.Msg.Epoch, c.effects()))
		case replication.EffExclude:
			if c.owner != nil && c.ownerEpoch < e.Msg.Epoch {
				c.excluded(e.Msg.Epoch)
			}
			c.do(c.lease.Released(c.clock(), replication.VolumeEpoch{Volume: e.Msg.Volume, Epoch: e.Msg.Epoch}, c.effects()))
		case replication.EffExtend:
			c.lease.Promise(e.To).Extend(e.Until, e.Msg.Chain)
		case replication.EffSetChange:
			w.meta.change(c, e.Change)
		case replication.EffCommitSnapshot:
			w.meta.snapshot(c, e.Tag, e.Epoch, e.SnapSeq)
		case replication.EffSetOwner:
			w.meta.setOwner(c, e.To, e.Epoch)
		case replication.EffLost:
			w.tracef("chunk %d: owner of epoch %d ends: %d", c.id, e.Epoch, e.Result)
			c.owner = nil
			for _, cl := range w.clients {
				cl.ownerLost(c)
			}
			c.do(c.lease.Released(c.clock(), replication.VolumeEpoch{Volume: w.volume, Epoch: e.Epoch + 1}, c.effects()))
		case replication.EffComplete:
			c.complete(e)
		case replication.EffPiece:
			if a := c.serving[e.Tag]; a != nil {
				a.piece(e.Range, e.Sums)
			}
		case replication.EffLocked:
			c.locked(e)
		case replication.EffForget:
		case replication.EffReport:
			c.reported(e.Report)
		}
	}
	if cap(out) > 0 {
		c.buf = append(c.buf, out)
	}
}

func (c *chunk) reported(r *replication.Report) {
	w := c.w
	switch r.Kind {
	case replication.ReportJoined:
		w.Stats.Joins++
		w.Stats.Copied += int(r.CopiedBytes / block.Size)
	case replication.ReportJoinFailed:
		w.Stats.Copied += int(r.CopiedBytes / block.Size)
	case replication.ReportRepaired:
		w.Stats.Repairs++
	case replication.ReportScrubbed:
		w.Stats.Scrubs++
	case replication.ReportBehind:
		w.fail("extent %d: scrub says that %x has lost something", r.Extent, r.Disk[:2])
	case replication.ReportBad:
		w.Stats.MediumErrors++
		w.checkLost(c.owner.Record(r.Extent), r)
	}
	if w.cfg.Trace != nil {
		w.tracef("chunk %d: report %d extent %d phase %s disk %x status %d range %v", c.id, r.Kind, r.Extent, r.Phase, r.Disk[:2], r.Status, r.Range)
	}
}

func (c *chunk) send(e *replication.Effect) {
	w := c.w
	m := &e.Msg
	if len(m.Data) > 0 && len(m.Data) != len(m.Sums)*block.Size && len(m.Sums) > 0 {
		w.fail("message %s has %d bytes and %d checksums", describe(m), len(m.Data), len(m.Sums))
	}
	if e.To == c.id {
		var env *envelope
		if k := len(w.freeEnv); k > 0 {
			env, w.freeEnv = w.freeEnv[k-1], w.freeEnv[:k-1]
		} else {
			env = &envelope{}
		}
		*env = envelope{msg: *m, from: c.index, to: c.index}
		w.push(event{at: w.now + w.between(1*us, 10*us), kind: evDeliver, chunk: c, inc: c.inc, env: env})
		return
	}
	w.net.send(c.index, int(e.To)-1, m)
}

// store hands an operation to the disk it names.
func (c *chunk) store(e *replication.Effect) {
	if e.Op == replication.StoreWatermark {
		for _, d := range c.disks {
			d.submit(e.Op, &e.Msg, 0)
		}
		return
	}
	d := c.disk(e.Msg.Disk)
	if d == nil {
		done := replication.StoreDone{Token: e.Token, Status: replication.StatusNoReplica}
		c.w.afterOn(c, 10*us, func() { c.storeDone(&done) })
		return
	}
	d.submit(e.Op, &e.Msg, e.Token)
}

// checkLost makes sure that a block called lost is: no member the owner knows has it.
func (w *World) checkLost(rec replication.Record, r *replication.Report) {
	for _, m := range rec.Members {
		if m.Kind != replication.Full {
			continue
		}
		x := w.chunks[m.Chunk-1].disk(m.Disk).seen[r.Extent]
		if x == nil || r.Range.Count != 1 || x.newest(r.Range.Start) > x.state.Watermark {
			// It was bad when it was read; a write under way heals it.
			continue
		}
		good := true
		for _, v := range x.blocks[r.Range.Start] {
			good = good && !v.bad
		}
		if good && len(x.blocks[r.Range.Start]) > 0 && !x.stale {
			w.fail("block %d of extent %d is called lost, and chunk %d has it", r.Range.Start, r.Extent, m.Chunk)
		}
	}
}
