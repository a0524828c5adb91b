package sim

import (
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// version is what a block was set to under a label.
type version struct {
	label block.SnapSeq
	stamp block.Stamp
	value uint32
	zero  bool
	bad   bool // does not verify
	lost  bool // copied as bad
}

// replica is one extent on one disk, as its store has it.
type replica struct {
	ext    block.ExtentIndex
	blocks [blocksMax][]version // ascending labels
	state  replication.State
	stale  bool
}

func (r *replica) clone() *replica {
	c := *r
	for i := range c.blocks {
		c.blocks[i] = slices.Clone(r.blocks[i])
	}
	return &c
}

// at returns the version of a block as of a view.
func (r *replica) at(no block.No, view block.SnapSeq) version {
	if int(no) >= blocksMax {
		return version{zero: true}
	}
	vs := r.blocks[no]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].label <= view {
			return vs[i]
		}
	}
	return version{zero: true}
}

func (r *replica) newest(no block.No) block.Stamp {
	if vs := r.blocks[no]; len(vs) > 0 {
		return vs[len(vs)-1].stamp
	}
	return 0
}

// set makes v the version of its label.
func (r *replica) set(no block.No, v version) {
	vs := r.blocks[no]
	i := len(vs)
	for i > 0 && vs[i-1].label > v.label {
		i--
	}
	if i > 0 && vs[i-1].label == v.label {
		vs[i-1] = v
	} else {
		vs = slices.Insert(vs, i, v)
	}
	r.blocks[no] = vs
	r.state.Highest = max(r.state.Highest, v.stamp)
}

// disk keeps two states: what requests see, and what survives a crash. Operations reach the second in order, some time after the first,
// and are answered then.
type disk struct {
	w       *World
	chunk   *chunk
	id      block.DiskID
	seen    map[block.ExtentIndex]*replica
	durable map[block.ExtentIndex]*replica
	epoch   [2]block.Epoch // seen, durable
	owner   [2]block.ChunkID
	queue   []*diskOp
	busy    int64 // when the last operation of the queue is done

	failed bool
	full   bool
	stall  int64 // no operation ends before
}

type diskOp struct {
	op    replication.StoreOp
	msg   replication.Message
	token uint64
	inc   uint64
	done  replication.StoreDone
	back  bool // the process that asked is to be answered
}

func newDisk(w *World, c *chunk, n byte) *disk {
	return &disk{w: w, chunk: c, id: block.DiskID{byte(c.index + 1), n}, seen: map[block.ExtentIndex]*replica{}, durable: map[block.ExtentIndex]*replica{}}
}

func (d *disk) create(x block.ExtentIndex, g block.Generation) {
	for _, m := range []map[block.ExtentIndex]*replica{d.seen, d.durable} {
		m[x] = &replica{ext: x, state: replication.State{Generation: g}}
	}
}

// submit takes an operation of the chunk's process.
func (d *disk) submit(op replication.StoreOp, m *replication.Message, token uint64) {
	w := d.w
	o := &diskOp{op: op, msg: *m, token: token, inc: d.chunk.inc, back: token != 0}
	switch op {
	case replication.StoreRead, replication.StoreList, replication.StoreWindow:
		at := max(w.now+w.between(w.cfg.Disk/10, w.cfg.Disk/2), d.stall)
		w.push(event{at: at, kind: evRead, chunk: d.chunk, inc: d.chunk.inc, disk: d, op: o})
		return
	}
	o.done = replication.StoreDone{Token: token}
	if d.failed {
		o.done.Status = replication.StatusDiskFailed
	} else {
		d.apply(o, d.seen, 0, true)
	}
	lat := w.between(w.cfg.Disk/10, w.cfg.Disk)
	if w.chance(3) {
		lat = w.between(w.cfg.Disk, 8*w.cfg.Disk+10*ms)
	}
	d.busy = max(d.busy+1, w.now+lat, d.stall)
	d.queue = append(d.queue, o)
	w.push(event{at: d.busy, kind: evDisk, disk: d, op: o})
}

// completed makes an operation durable and answers it.
func (d *disk) completed(o *diskOp) {
	if len(d.queue) == 0 || d.queue[0] != o {
		return // lost in a crash
	}
	w := d.w
	if d.stall > w.now {
		d.busy = max(d.busy+1, d.stall)
		w.push(event{at: d.busy, kind: evDisk, disk: d, op: o})
		// Those behind it come later too: they find that it is not their turn.
		for _, q := range d.queue[1:] {
			d.busy++
			w.push(event{at: d.busy, kind: evDisk, disk: d, op: q})
		}
		return
	}
	d.queue = d.queue[1:]
	if d.failed {
		o.done.Status = replication.StatusDiskFailed
	} else if o.done.Status == replication.StatusOK {
		d.apply(o, d.durable, 1, false)
	}
	c := d.chunk
	if o.back && c.alive && c.inc == o.inc {
		w.push(event{at: w.now, chunk: c, inc: c.inc, fn: func() { c.storeDone(&o.done) }})
	}
}

// crash loses what was not durable, but for a part of the queue that happened to reach the disk.
func (d *disk) crash() {
	keep := 0
	if len(d.queue) > 0 {
		keep = d.w.rng.IntN(len(d.queue) + 1)
	}
	for _, o := range d.queue[:keep] {
		if o.done.Status == replication.StatusOK && !d.failed {
			d.apply(o, d.durable, 1, false)
		}
	}
	d.queue = nil
	d.busy = d.w.now
	d.seen = map[block.ExtentIndex]*replica{}
	for x, r := range d.durable {
		d.seen[x] = r.clone()
	}
	d.epoch[0], d.owner[0] = d.epoch[1], d.owner[1]
}

// apply performs a changing operation on one of the two states. The first time its outcome is decided.
func (d *disk) apply(o *diskOp, to map[block.ExtentIndex]*replica, k int, first bool) {
	m := &o.msg
	status := func(s replication.Status) {
		if first {
			o.done.Status = s
		}
	}
	switch o.op {
	case replication.StoreEpoch:
		if m.Epoch > d.epoch[k] {
			d.epoch[k], d.owner[k] = m.Epoch, m.Owner
		}
		return
	case replication.StoreWatermark:
		if m.More != nil {
			for _, mk := range m.More.Marks {
				if r := to[mk.Extent]; r != nil && mk.Disk == d.id {
					r.state.Watermark = max(r.state.Watermark, mk.Watermark)
					r.state.Generation = max(r.state.Generation, mk.Generation)
				}
			}
		}
		return
	case replication.StoreJoin:
		r := to[m.Extent]
		if r == nil {
			if m.Flags&replication.FlagCreate == 0 {
				status(replication.StatusNoReplica)
				return
			}
			r = &replica{ext: m.Extent}
			to[m.Extent] = r
		}
		if !r.stale && r.state.JoinStamp == 0 && r.state.Highest >= m.Watermark {
			r.state.Watermark = max(r.state.Watermark, m.Watermark)
		}
		if r.stale {
			r.state.Watermark = 0
		}
		r.stale = false
		r.state.Generation, r.state.JoinStamp = m.Generation, m.Stamp
		if first {
			o.done.State = r.state
		}
		if m.Epoch > d.epoch[k] {
			d.epoch[k], d.owner[k] = m.Epoch, m.Owner
		}
		return
	}
	r := to[m.Extent]
	switch {
	case r == nil:
		status(replication.StatusNoReplica)
		return
	case r.stale && !d.w.cfg.Bugs.Has(replication.BugRollStale):
		status(replication.StatusStale)
		return
	case first && m.Generation < r.state.Generation && !d.w.cfg.Bugs.Has(replication.BugLateWrite):
		status(replication.StatusOldGeneration)
		o.done.State = r.state
		return
	}
	if first && d.full && o.op != replication.StoreUnmap && m.Flags&(replication.FlagReserve|replication.FlagRoll|replication.FlagRepair) == 0 && len(m.Sums) > 0 {
		status(replication.StatusNoSpace)
		return
	}
	r.state.Generation = max(r.state.Generation, m.Generation)
	r.state.Watermark = max(r.state.Watermark, m.Watermark)
	switch o.op {
	case replication.StoreWrite, replication.StoreUnmap:
		for i := range m.Range.Count {
			no := m.Range.Start + block.No(i)
			if first {
				d.w.noteStamp(m, no, m.Sums[i])
			}
			if m.Stamp <= r.newest(no) && !d.w.cfg.Bugs.Has(replication.BugLateWrite) {
				continue
			}
			r.set(no, version{label: m.SnapSeq, stamp: m.Stamp, value: m.Sums[i], zero: o.op == replication.StoreUnmap})
		}
	case replication.StoreCopy:
		if first && m.Flags&replication.FlagJoin != 0 {
			d.w.Stats.Arrived += int(m.Range.Count)
		}
		d.copy(r, m)
	}
}

func (d *disk) copy(r *replica, m *replication.Message) {
	if m.More == nil {
		if m.Flags&replication.FlagJoin != 0 {
			r.state.JoinStamp = 0
		}
		return
	}
	for _, run := range m.More.Runs {
		for i := range run.Range.Count {
			no := run.Range.Start + block.No(i)
			if int(no) >= blocksMax {
				break
			}
			v := version{label: m.View, stamp: run.Stamp, zero: run.State == replication.BlockZero, lost: run.State == replication.BlockBad}
			switch {
			case v.lost:
				v.bad = true
			case v.zero:
				v.value = d.w.zeroes[zeroKey{m.Extent, run.Stamp, no}]
			default:
				v.value = m.Sums[no-m.Range.Start]
			}
			o := r.at(no, m.View)
			var replace bool
			switch {
			case m.Flags&replication.FlagJoin != 0:
				keep := o.stamp >= r.state.JoinStamp && o.stamp >= v.stamp
				same := o.stamp == v.stamp && !o.bad && o.zero == v.zero
				replace = !keep && !same || d.w.cfg.Bugs.Has(replication.BugCopyOverwrites)
				if v.lost && same {
					replace = false
				}
			case m.Flags&replication.FlagRoll != 0:
				replace = o.stamp < v.stamp
			case m.Flags&replication.FlagRepair != 0:
				replace = o.stamp == v.stamp && !v.lost
				v.label = o.label
			}
			if replace {
				r.set(no, v)
			}
		}
	}
}

// readDone answers reads and lists with what is seen now.
func (d *disk) readDone(c *chunk, o *diskOp) {
	m := &o.msg
	done := replication.StoreDone{Token: o.token, Range: m.Range}
	r := d.seen[m.Extent]
	switch {
	case r == nil:
		done.Status = replication.StatusNoReplica
	case r.stale && !d.w.cfg.Bugs.Has(replication.BugRollStale):
		done.Status = replication.StatusStale
	default:
		switch o.op {
		case replication.StoreRead:
			d.read(r, m, &done)
		case replication.StoreList:
			for no := m.Range.Start; no < m.Range.End() && no < blocksMax; no++ {
				if v := r.at(no, m.View); v.stamp > m.Stamp {
					done.Runs = appendRun(done.Runs, no, v)
				}
			}
		case replication.StoreWindow:
			done.State = r.state
			for no := range block.No(blocksMax) {
				for _, v := range r.blocks[no] {
					if v.stamp > r.state.Watermark {
						done.Runs = appendRun(done.Runs, no, v)
					}
				}
			}
		}
	}
	c.storeDone(&done)
}

func (d *disk) read(r *replica, m *replication.Message, done *replication.StoreDone) {
	sums := make([]uint32, m.Range.Count)
	var bad []replication.Run
	for i := range m.Range.Count {
		no := m.Range.Start + block.No(i)
		v := r.at(no, m.View)
		done.Stamp = max(done.Stamp, v.stamp)
		sums[i] = v.value
		if v.bad {
			sums[i] = 0xbad0bad
			bad = append(bad, replication.Run{Range: block.Range{Start: no, Count: 1}, Stamp: v.stamp, Label: v.label, State: replication.BlockBad})
		}
		if m.Flags&replication.FlagStamps != 0 {
			done.Runs = appendRun(done.Runs, no, v)
		}
	}
	done.Data, done.Sums = payload[:m.Range.SizeBytes()], sums
	if len(bad) > 0 {
		done.Status = replication.StatusBadBlocks
		if m.Flags&replication.FlagStamps == 0 {
			done.Runs = bad
		}
	}
}

// appendRun adds a block to a list of runs.
func appendRun(runs []replication.Run, no block.No, v version) []replication.Run {
	s := replication.BlockData
	switch {
	case v.bad:
		s = replication.BlockBad
	case v.zero:
		s = replication.BlockZero
	}
	if n := len(runs); n > 0 {
		if l := &runs[n-1]; l.Range.End() == no && l.Stamp == v.stamp && l.Label == v.label && l.State == s {
			l.Range.Count++
			return runs
		}
	}
	return append(runs, replication.Run{Range: block.Range{Start: no, Count: 1}, Stamp: v.stamp, Label: v.label, State: s})
}

// noteStamp checks that a stamp means one value for a block, for ever.
func (w *World) noteStamp(m *replication.Message, no block.No, value uint32) {
	k := stampKey{m.Extent, m.Stamp, no}
	if old, ok := w.stamps[k]; ok {
		if old != value {
			w.fail("stamp %s of extent %d block %d means both %d and %d", m.Stamp, m.Extent, no, old, value)
		}
		return
	}
	w.stamps[k] = value
	if m.Kind == replication.MsgUnmap {
		w.zeroes[zeroKey(k)] = value
	}
}
