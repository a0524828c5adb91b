package replication

import "github.com/iomesh/iomesh/storaged/block"

// takeEpoch begins or repeats the confirmation of an epoch.
func (r *Replica) takeEpoch(from block.ChunkID, m *Message) {
	var waiting block.Epoch
	if len(r.pending) > 0 {
		waiting = r.pending[0].Epoch
	}
	switch {
	case m.Epoch < r.epoch || m.Epoch < waiting || m.Epoch == r.epoch && m.Owner != r.owner:
		c := r.answer(m, MsgEpochTaken, StatusHigherEpoch)
		c.Epoch, c.Owner = max(r.epoch, waiting), r.owner
		if waiting > r.epoch {
			c.Owner = r.pending[0].Owner
		}
		r.send(from, c)
	case m.Epoch == r.epoch:
		if m.Session < r.session {
			return
		}
		r.newSession(m.Session)
		r.taken(m)
	case m.Epoch == waiting:
		if m.Session < r.pending[0].Session {
			return
		}
		if m.Session > r.pending[0].Session {
			r.pending = r.pending[:0] // the owner repeats all of them in the new session
		}
		r.pending = append(r.pending, *m)
		r.send(from, r.answer(m, MsgEpochPending, StatusOK))
	default:
		r.pending = append(r.pending[:0], *m)
		if r.epoch == 0 || r.released || r.owner == m.Owner {
			// Nothing is promised: never owned, given up, or the same chunk, where one owner ends before the next begins.
			r.accept()
			return
		}
		r.send(from, r.answer(m, MsgEpochPending, StatusOK))
		r.out = append(r.out, Effect{Kind: EffAskLease, To: m.Owner, Holder: r.owner, Msg: Message{Volume: r.opt.Volume, Epoch: m.Epoch}})
	}
}

// EpochFree says that nothing promised stands in the way of epoch (EffFree). Ignored unless that epoch waits.
func (r *Replica) EpochFree(epoch block.Epoch, out []Effect) []Effect {
	r.out = out
	if len(r.pending) > 0 && r.pending[0].Epoch == epoch {
		r.accept()
	}
	return r.done()
}

// accept makes the pending epoch the present one. From here on nothing older is let in; what was let in before ends before the
// replicas are described.
func (r *Replica) accept() {
	takes := r.pending
	r.pending = nil
	m := &takes[0]
	r.epoch, r.owner, r.session, r.released, r.late = m.Epoch, m.Owner, m.Session, false, 0
	for i := range takes {
		r.taken(&takes[i])
	}
}

// taken answers a TakeEpoch of the present epoch.
func (r *Replica) taken(m *Message) {
	c := r.answer(m, MsgEpochTaken, StatusOK)
	c.Disk, c.Extent = block.DiskID{}, 0
	c.Chain = r.chain(m.Owner)
	r.send(m.Owner, c)
	if m.More == nil {
		return
	}
	for _, t := range m.More.Targets {
		d := r.diskEpoch(t.Disk)
		if d.durable < r.epoch && d.writing < r.epoch {
			d.writing = r.epoch
			e := *m
			e.Disk, e.More = t.Disk, nil
			p := r.newOp(m.Owner, &e, StoreEpoch, 0)
			r.out = append(r.out, Effect{Kind: EffStore, Op: StoreEpoch, Token: p.token, Msg: e})
		}
		w := *m
		w.Extent, w.Disk, w.More = t.Extent, t.Disk, nil
		r.whenQuiet(m.Owner, w, StoreWindow, MsgEpochTaken)
	}
}

func (r *Replica) diskEpoch(d block.DiskID) *diskEpoch {
	for i := range r.disks {
		if r.disks[i].disk == d {
			return &r.disks[i]
		}
	}
	r.disks = append(r.disks, diskEpoch{disk: d})
	return &r.disks[len(r.disks)-1]
}

// epochStored continues the descriptions that waited for the epoch to be durable on a disk.
func (r *Replica) epochStored(p *op, d *StoreDone) {
	e := r.diskEpoch(p.disk)
	if d.Status == StatusOK {
		e.durable = max(e.durable, p.epoch)
		return
	}
	if e.writing == p.epoch {
		e.writing = 0
	}
	for i := 0; i < len(r.quiets); {
		q := r.quiets[i]
		if q.store == StoreWindow && q.disk == p.disk && q.epoch == p.epoch {
			r.quiets = append(r.quiets[:i], r.quiets[i+1:]...)
			r.reply(q, d)
			r.freeOp(q)
			continue
		}
		i++
	}
}

// reply answers the question of p with the outcome d.
func (r *Replica) reply(p *op, d *StoreDone) {
	if p.reply == 0 {
		return
	}
	r.out = append(r.out, Effect{Kind: EffSend, To: p.from})
	m := &r.out[len(r.out)-1].Msg
	m.Kind, m.Status, m.Req, m.Session, m.Epoch = p.reply, d.Status, p.req, p.session, p.epoch
	m.Feature, m.Volume, m.Extent, m.Disk = r.opt.Feature, r.opt.Volume, p.extent, p.disk
	if p.epoch < r.epoch && !r.bugs.has(BugSkipEpochCheck) {
		m.Status, m.Epoch, m.Owner = StatusHigherEpoch, r.epoch, r.owner
		return
	}
	switch p.store {
	case StoreWrite, StoreUnmap, StoreCopy:
		if d.Status == StatusOldGeneration {
			m.Generation = d.State.Generation
		}
	case StoreRead:
		m.Range, m.Stamp, m.Data, m.Sums = d.Range, d.Stamp, d.Data, d.Sums
		if p.verify {
			m.Data = nil
		}
	case StoreList:
		m.Range = d.Range
	case StoreWindow, StoreJoin:
		m.Generation, m.Watermark, m.Stamp = d.State.Generation, d.State.Watermark, d.State.Highest
	}
	if len(d.Runs) > 0 {
		m.More = &More{Runs: d.Runs}
	}
}

func (r *Replica) answer(m *Message, k Kind, s Status) Message {
	return Message{Kind: k, Status: s, Feature: r.opt.Feature, Session: m.Session, Req: m.Req, Volume: r.opt.Volume,
		Disk: m.Disk, Extent: m.Extent, Epoch: m.Epoch}
}

// refuse answers a question with a status, if it has an answer.
func (r *Replica) refuse(from block.ChunkID, m *Message, s Status) {
	k := answerTo(m.Kind)
	if k == 0 {
		return
	}
	a := r.answer(m, k, s)
	if s == StatusHigherEpoch {
		a.Epoch, a.Owner = r.epoch, r.owner
	}
	r.send(from, a)
}

// answerTo is the kind of the answer to a question, 0 if it has none.
func answerTo(k Kind) Kind {
	switch k {
	case MsgTakeEpoch:
		return MsgEpochTaken
	case MsgWrite, MsgUnmap:
		return MsgWriteReply
	case MsgRead:
		return MsgReadReply
	case MsgListStamps:
		return MsgStamps
	case MsgCopy:
		return MsgCopyReply
	case MsgJoinStart:
		return MsgJoinReply
	case MsgConfirm:
		return MsgConfirmed
	}
	return 0
}

func (r *Replica) chain(c block.ChunkID) uint64 {
	if c == r.opt.Self || r.opt.Chain == nil {
		return 0
	}
	return r.opt.Chain(c)
}

func (r *Replica) send(to block.ChunkID, m Message) {
	r.out = append(r.out, Effect{Kind: EffSend, To: to, Msg: m})
}

func (r *Replica) done() []Effect {
	out := r.out
	r.out = nil
	return out
}
