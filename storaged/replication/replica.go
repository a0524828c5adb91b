package replication

import "github.com/iomesh/iomesh/storaged/block"

// Replica is the side of a volume that holds data on one chunk: it lets the newest owner in and everybody else not (I3), and turns
// what that owner sends into store operations.
//
//	         TakeEpoch(e)            EpochFree(e)
//	epoch d ───────────▶ e pending ───────────────▶ epoch e
//	                     (d goes on until then)      d refused; per replica: wait for what d began, make e durable, describe
//
// Not safe for concurrent use.
type Replica struct {
	opt  ReplicaOptions
	bugs Bugs

	epoch    block.Epoch
	owner    block.ChunkID
	session  uint32
	released bool // owner has given up its promise

	pending []Message // MsgTakeEpoch of one epoch that waits for the promise
	began   uint64

	ops     []*op
	freeOps []*op
	quiets  []*op // waiting for earlier operations on their replica
	disks   []diskEpoch
	joins   []joinStart
	late    int // operations of older sessions still in the store
	out     []Effect
}

// diskEpoch is the epoch known to be durable on a disk, or being made so.
type diskEpoch struct {
	disk    block.DiskID
	durable block.Epoch
	writing block.Epoch
}

// joinStart is the start stamp of the last resync of a replica.
type joinStart struct {
	ReplicaID
	start block.Stamp
}

// op is one question that is being worked on.
type op struct {
	token   uint64
	index   uint32
	used    bool
	store   StoreOp
	from    block.ChunkID
	reply   Kind
	req     uint64
	session uint32
	epoch   block.Epoch
	extent  block.ExtentIndex
	disk    block.DiskID
	stamp   block.Stamp
	verify  bool // FlagVerify
	// before counts the operations on the same replica that must end first; held is what then starts.
	before int
	held   *Message
	began  uint64 // numbers operations of the Replica in the order they came
	seq    uint32 // numbers the uses of this struct
}

// NewReplica returns the Replica of a volume on a chunk.
func NewReplica(opt ReplicaOptions) *Replica {
	return &Replica{opt: opt, epoch: opt.Epoch, owner: opt.Owner}
}

// Epoch returns the highest epoch accepted, 0 if none, and its owner.
func (r *Replica) Epoch() (block.Epoch, block.ChunkID) { return r.epoch, r.owner }

// Receive handles a question of an owner.
func (r *Replica) Receive(from block.ChunkID, m *Message, out []Effect) []Effect {
	r.out = out
	switch {
	case m.Kind == MsgTakeEpoch:
		r.takeEpoch(from, m)
	case r.admits(from, m):
		r.serve(from, m)
	}
	return r.done()
}

// admits checks epoch and session. What does not pass is refused here.
func (r *Replica) admits(from block.ChunkID, m *Message) bool {
	switch {
	case m.Epoch < r.epoch:
		if r.bugs.has(BugSkipEpochCheck) {
			return true
		}
		r.refuse(from, m, StatusHigherEpoch)
		return false
	case m.Epoch > r.epoch:
		r.refuse(from, m, StatusNotEpoch)
		return false
	case m.Session < r.session:
		if r.bugs.has(BugLateWrite) {
			return true
		}
		r.refuse(from, m, StatusOldSession)
		return false
	}
	r.newSession(m.Session)
	return true
}

// joinOf returns where the start stamp of the last resync of a replica is kept. It need not outlive the process: messages do not either.
func (r *Replica) joinOf(m *Message) *block.Stamp {
	for i := range r.joins {
		if r.joins[i].ReplicaID == (ReplicaID{m.Extent, m.Disk}) {
			return &r.joins[i].start
		}
	}
	r.joins = append(r.joins, joinStart{ReplicaID: ReplicaID{m.Extent, m.Disk}})
	return &r.joins[len(r.joins)-1].start
}

func (r *Replica) newSession(s uint32) {
	if s <= r.session {
		return
	}
	r.session = s
	r.late = 0
	for _, p := range r.ops {
		if p.used {
			r.late++
		}
	}
}

func (r *Replica) serve(from block.ChunkID, m *Message) {
	switch m.Kind {
	case MsgWrite:
		r.change(from, m, StoreWrite)
	case MsgUnmap:
		r.change(from, m, StoreUnmap)
	case MsgRead:
		r.start(from, m, StoreRead, MsgReadReply)
	case MsgListStamps:
		r.start(from, m, StoreList, MsgStamps)
	case MsgCopy:
		if m.Flags&FlagJoin != 0 && *r.joinOf(m) != m.Stamp {
			// Of a resync that was given up: it could put an older content over what the present one has copied.
			r.refuse(from, m, StatusOldGeneration)
			return
		}
		r.start(from, m, StoreCopy, MsgCopyReply)
	case MsgJoinStart:
		j := r.joinOf(m)
		if m.Stamp < *j {
			r.refuse(from, m, StatusOldGeneration)
			return
		}
		*j = m.Stamp
		// What the replica got as a member before must not come in after the lists were made.
		r.whenQuiet(from, *m, StoreJoin, MsgJoinReply)
	case MsgWatermark:
		r.out = append(r.out, Effect{Kind: EffStore, Op: StoreWatermark, Msg: *m})
	case MsgConfirm:
		if len(r.pending) > 0 && !r.bugs.has(BugSkipEpochCheck) {
			// The promise for the present epoch may have ended while the new one waits: never renew it (I4).
			c := r.answer(m, MsgConfirmed, StatusHigherEpoch)
			c.Epoch, c.Owner = r.pending[0].Epoch, r.pending[0].Owner
			r.send(from, c)
			return
		}
		c := r.answer(m, MsgConfirmed, StatusOK)
		c.Chain = r.chain(from)
		r.send(from, c)
	case MsgRelease:
		r.released = true
	default:
		r.refuse(from, m, StatusInvalid)
	}
}

// change starts a write, or lets one that was begun in an older session answer in this one: two of the same must not be in the
// store together, because one could be refused and the other applied later.
func (r *Replica) change(from block.ChunkID, m *Message, s StoreOp) {
	if r.late > 0 {
		for _, p := range r.ops {
			if p.used && p.store == s && p.stamp == m.Stamp && p.extent == m.Extent && p.disk == m.Disk && p.epoch == m.Epoch && p.session < m.Session {
				p.session, p.req = m.Session, m.Req
				r.late--
				return
			}
		}
	}
	r.start(from, m, s, MsgWriteReply)
}

func (r *Replica) start(from block.ChunkID, m *Message, s StoreOp, reply Kind) {
	p := r.newOp(from, m, s, reply)
	r.out = append(r.out, Effect{Kind: EffStore, Op: s, Token: p.token})
	r.out[len(r.out)-1].Msg = *m
}

func (r *Replica) newOp(from block.ChunkID, m *Message, s StoreOp, reply Kind) *op {
	var p *op
	if n := len(r.freeOps); n > 0 {
		p, r.freeOps = r.freeOps[n-1], r.freeOps[:n-1]
	} else {
		p = &op{index: uint32(len(r.ops))}
		r.ops = append(r.ops, p)
	}
	p.seq++
	r.began++
	p.began = r.began
	p.token = uint64(p.seq)<<32 | uint64(p.index+1)
	p.used, p.store, p.from, p.reply = true, s, from, reply
	p.req, p.session, p.epoch = m.Req, m.Session, m.Epoch
	p.extent, p.disk, p.stamp = m.Extent, m.Disk, m.Stamp
	p.verify = m.Flags&FlagVerify != 0
	return p
}

func (r *Replica) freeOp(p *op) {
	p.used, p.held, p.before = false, nil, 0
	r.freeOps = append(r.freeOps, p)
}

// whenQuiet starts an operation once all operations on its replica that are in the store now have ended.
func (r *Replica) whenQuiet(from block.ChunkID, m Message, s StoreOp, reply Kind) {
	before := 0
	for _, p := range r.ops {
		if p.used && p.extent == m.Extent && p.disk == m.Disk && (p.store == StoreWrite || p.store == StoreUnmap || p.store == StoreCopy) {
			before++
		}
	}
	p := r.newOp(from, &m, s, reply)
	p.held, p.before = &m, before
	r.quiets = append(r.quiets, p)
	r.advance()
}

// advance starts the held operations whose time has come.
func (r *Replica) advance() {
	for i := 0; i < len(r.quiets); {
		p := r.quiets[i]
		if p.before > 0 || p.store == StoreWindow && r.diskEpoch(p.disk).durable < p.epoch {
			i++
			continue
		}
		r.quiets = append(r.quiets[:i], r.quiets[i+1:]...)
		m := *p.held
		p.held = nil
		m.Owner = r.owner
		r.out = append(r.out, Effect{Kind: EffStore, Op: p.store, Token: p.token, Msg: m})
	}
}

// StoreDone takes the outcome of an EffStore. Unknown tokens are ignored.
func (r *Replica) StoreDone(d *StoreDone, out []Effect) []Effect {
	r.out = out
	i := uint32(d.Token) - 1
	if d.Token == 0 || int(i) >= len(r.ops) || !r.ops[i].used || r.ops[i].token != d.Token {
		return r.done()
	}
	p := r.ops[i]
	if p.session < r.session && p.epoch == r.epoch && r.late > 0 {
		r.late--
	}
	switch p.store {
	case StoreEpoch:
		r.epochStored(p, d)
	case StoreWrite, StoreUnmap, StoreCopy:
		for _, q := range r.quiets {
			if q.extent == p.extent && q.disk == p.disk && p.began < q.began {
				q.before--
			}
		}
		fallthrough
	default:
		r.reply(p, d)
	}
	r.freeOp(p)
	r.advance()
	return r.done()
}
