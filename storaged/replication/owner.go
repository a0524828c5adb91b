package replication

import (
	"github.com/iomesh/iomesh/storaged/block"
)

// Owner orders all reads and writes of one volume in one epoch.
//
// Not safe for concurrent use; different owners share nothing but promises, which are atomic.
type Owner struct {
	opt     OwnerOptions
	bugs    Bugs
	now     Time
	out     []Effect
	started Time
	running bool
	lost    bool
	worn    bool // an extent has used up its stamps: a new epoch is needed

	peers   []*peer // in the order first named
	extents []*extent
	active  []*extent
	untold  untold
	touched []*extent
	serving int

	pool     pool
	changes  arrivalList // writes and flushes
	others   arrivalList // reads and locks
	inflight int         // numbered writes not finished, of all extents
	seq      uint64      // counts client requests and confirmations, so that "since" needs no clock
	lockSeq  LockID

	snapSeq    block.SnapSeq
	initiators int
	arrivedSeq uint64 // seq when the last one logged in
	barrier    *barrier
	release    *release

	budget     int64
	latency    Latency
	scrub      scrub
	joins      int
	copying    uint32 // blocks of resyncs in flight, and how many may be
	copyMax    uint32
	cursor     int // of the search for resyncs
	idleCursor int // of dropIdle
	absent     int // extents with absent replicas
	adds       []addition
	marks      []peerMarks
	marksLast  int // how many a member was sent the last time
}

// peer is a chunk as seen by the owner.
type peer struct {
	chunk       block.ChunkID
	up          bool
	away        bool // not up, and known to have been lost at downSince
	session     uint32
	incarnation uint64
	upSince     Time
	downSince   Time
	promise     *Promise

	// taken: the chunk accepts nothing below the epoch, since takenAt; until then only MsgTakeEpoch is sent.
	taken     bool
	asked     bool
	pending   bool // it said that it waits for a promise to an earlier owner
	askedAt   Time
	takenAt   Time
	pendingAt Time

	// Promises count only in the chain in which the chunk confirmed the epoch.
	chain        uint64
	confirmSent  uint64 // seq of the confirmation under way, 0 if none
	confirmAt    Time
	confirmedSeq uint64 // seq of the last one confirmed
	confirmAgain bool
}

// NewOwner returns the owner of a volume in an epoch. It does nothing before Start.
func NewOwner(opt OwnerOptions) *Owner {
	opt.MinReplicas = max(opt.MinReplicas, 1)
	o := &Owner{opt: opt, snapSeq: opt.SnapSeq}
	for i := range opt.Extents {
		o.addExtent(opt.Extents[i])
	}
	return o
}

func (o *Owner) addExtent(rec Record) *extent {
	e := &extent{index: block.ExtentIndex(len(o.extents)), rec: rec, since: o.now}
	for _, m := range rec.Members {
		if i := e.addSlot(o.peer(m.Chunk), m.Disk, o.kind(m.Kind), m.Since); i >= 0 {
			e.members |= bit(i)
		}
	}
	for _, a := range rec.Absent {
		o.peer(a.Chunk)
	}
	if len(rec.Absent) > 0 {
		o.absent++
	}
	o.extents = append(o.extents, e)
	return e
}

func (o *Owner) peer(c block.ChunkID) *peer {
	for _, p := range o.peers {
		if p.chunk == c {
			return p
		}
	}
	p := &peer{chunk: c}
	if c != o.opt.Self && o.opt.Promise != nil {
		p.promise = o.opt.Promise(c)
	}
	o.peers = append(o.peers, p)
	return p
}

// Start begins the takeover of all extents.
func (o *Owner) Start(now Time, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	o.started, o.running = now, true
	for _, e := range o.extents {
		e.since = now
		o.activate(e)
	}
	if len(o.extents) == 0 {
		o.report(Report{Kind: ReportReady})
	}
	for _, p := range o.peers {
		if p.up {
			o.ask(p)
		}
	}
	return o.leave()
}

// enter begins a call. It returns false if the owner has stopped.
func (o *Owner) enter(now Time, out []Effect) bool {
	if o.lost {
		return false
	}
	o.now, o.out = max(o.now, now), out
	return true
}

func (o *Owner) leave() []Effect {
	for len(o.touched) > 0 && !o.lost {
		n := len(o.touched) - 1
		e := o.touched[n]
		o.touched = o.touched[:n]
		o.resettle(e)
	}
	if o.inflight == 0 && !o.lost && (o.barrier != nil || o.release != nil) {
		o.drained()
	}
	if o.worn && !o.lost {
		o.renew()
	}
	out := o.out
	o.out = nil
	return out
}

func (o *Owner) activate(e *extent) {
	if !e.active {
		e.active = true
		o.active = append(o.active, e)
	}
}

func (o *Owner) report(r Report) {
	o.out = append(o.out, Effect{Kind: EffReport, Report: &r})
}

// send fills the fields every message to replicas has. It returns the message to fill in the rest.
func (o *Owner) send(p *peer, k Kind) *Message {
	o.out = append(o.out, Effect{Kind: EffSend, To: p.chunk})
	m := &o.out[len(o.out)-1].Msg
	m.Kind, m.Feature, m.Session, m.Volume, m.Epoch, m.SnapSeq = k, o.opt.Feature, p.session, o.opt.Volume, o.opt.Epoch, o.snapSeq
	return m
}

// sendTo is send to the replica of a slot.
func (o *Owner) sendTo(e *extent, i int, k Kind) *Message {
	s := &e.slots[i]
	m := o.send(s.peer, k)
	m.Extent, m.Disk, m.Generation = e.index, s.disk, e.rec.Generation
	return m
}

// PeerUp says that a chunk can be reached by a new set of connections. Called also for the own chunk, once.
func (o *Owner) PeerUp(now Time, c block.ChunkID, incarnation uint64, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	p := o.peer(c)
	if p.up {
		o.peerDown(p)
	}
	restarted := p.incarnation != 0 && p.incarnation != incarnation
	p.up, p.away, p.upSince, p.incarnation = true, false, now, incarnation
	p.session++
	for _, e := range o.extents {
		for i := range e.slots {
			s := &e.slots[i]
			if s.peer != p {
				continue
			}
			if restarted && e.members.has(i) {
				s.verify, s.proof = true, e.watermark
			}
			// It was to leave because it could not be reached. A change that is under way already is not taken back.
			if e.leaving.has(i) && s.failed == StatusOK && !s.drained && !s.stale && (e.wanted == 0 || e.wanted.has(i)) {
				e.leaving &^= bit(i)
			}
		}
	}
	o.ask(p)
	return o.leave()
}

// PeerAway says, of a chunk that cannot be reached when the volume is taken over, that it could be until a moment ago: it is waited for no longer
// than one that is lost later, while one that nobody has heard of yet may be about to come, as after a power failure.
func (o *Owner) PeerAway(now Time, c block.ChunkID, since Time, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	if p := o.peer(c); !p.up {
		p.away, p.downSince = true, since
	}
	return o.leave()
}

// PeerDown says that all connections to a chunk are gone.
func (o *Owner) PeerDown(now Time, c block.ChunkID, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	if p := o.peer(c); p.up {
		o.peerDown(p)
	}
	return o.leave()
}

func (o *Owner) peerDown(p *peer) {
	p.up, p.taken, p.asked, p.pending = false, false, false, false
	p.downSince = o.now
	p.confirmSent, p.confirmAgain = 0, false // the chain does not depend on connections
	for i := 0; i < len(o.active); i++ {
		e := o.active[i]
		for s := range e.slots {
			if e.slots[s].peer == p {
				o.slotDown(e, s)
			}
		}
		if o.lost {
			return
		}
	}
}

// slotDown deals with what was asked of a replica that cannot be reached any more.
func (o *Owner) slotDown(e *extent, i int) {
	e.unsent(i)
	if e.join != nil && (e.join.slot == i || e.join.source == i && e.join.phase != joinProposed) {
		o.joinFailed(e, StatusOK)
	}
	if e.phase != PhaseServing {
		o.collectDown(e, i)
	}
	o.rerouteReads(e, i)
	o.failJobs(e, i, StatusReadFailed)
}

// ask sends TakeEpoch with the replicas of the chunk that must be described: those of extents that are being taken over, and
// members whose process was restarted.
func (o *Owner) ask(p *peer) {
	if !p.up || !o.running {
		return
	}
	var t []ReplicaID
	sent := false
	flush := func() {
		m := o.send(p, MsgTakeEpoch)
		m.Owner, m.Incarnation = o.opt.Self, o.opt.Incarnation
		if len(t) > 0 {
			m.More = &More{Targets: t}
		}
		t, sent = nil, true
	}
	for _, e := range o.extents {
		for i := range e.slots {
			s := &e.slots[i]
			if s.peer == p && e.members.has(i) && (e.phase != PhaseServing && !s.answered || s.verify) {
				t = append(t, ReplicaID{e.index, s.disk})
				if len(t) == TargetsMax {
					flush()
				}
			}
		}
	}
	if len(t) > 0 || !sent {
		flush()
	}
	p.asked, p.askedAt = true, o.now
}

// Receive handles an answer of a replica.
func (o *Owner) Receive(now Time, from block.ChunkID, m *Message, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	var p *peer
	for _, q := range o.peers {
		if q.chunk == from {
			p = q
			break
		}
	}
	switch {
	case p == nil || m.Volume != o.opt.Volume:
	case m.Status == StatusHigherEpoch:
		if m.Epoch > o.opt.Epoch {
			o.stop(ResultLost)
		}
	case m.Epoch != o.opt.Epoch || m.Session != p.session || m.Status == StatusOldSession || !p.up:
	case m.Status == StatusNotEpoch:
		// The chunk forgot: its disk was away when the epoch was stored. Begin again with it.
		if p.taken {
			p.taken = false
			for _, e := range o.active {
				for i := range e.slots {
					if e.slots[i].peer == p {
						e.unsent(i)
					}
				}
			}
			o.ask(p)
		}
	default:
		o.answer(p, m)
	}
	return o.leave()
}

func (o *Owner) answer(p *peer, m *Message) {
	switch m.Kind {
	case MsgWriteReply:
		o.onWriteReply(p, m)
	case MsgReadReply, MsgCopyReply, MsgJoinReply, MsgStamps:
		r := o.pool.find(m.Req)
		if r == nil || r.slot < 0 {
			return
		}
		if s := &r.ext.slots[r.slot]; s.peer != p || s.disk != m.Disk {
			return
		}
		if r.kind == reqRead {
			o.onReadReply(r, m)
		} else {
			o.onJobReply(r, m)
		}
	case MsgEpochPending:
		if !p.pending && !p.taken {
			p.pending, p.pendingAt = true, o.now
		}
	case MsgEpochTaken:
		if m.Disk == (block.DiskID{}) {
			o.onTaken(p, m)
		} else {
			o.onDescribed(p, m)
		}
	case MsgConfirmed:
		o.onConfirmed(p, m)
	}
}

// onTaken: from now on the chunk serves this owner and no earlier one.
func (o *Owner) onTaken(p *peer, m *Message) {
	p.chain = m.Chain
	if p.taken {
		return
	}
	p.taken, p.takenAt, p.pending = true, o.now, false
	for i := 0; i < len(o.active); i++ {
		e := o.active[i]
		for s := range e.slots {
			if e.slots[s].peer == p {
				o.resend(e, s)
			}
		}
		o.sendReads(e)
	}
}

// Excluded says that promises cover no epoch of the volume below epoch: a newer owner waits.
func (o *Owner) Excluded(now Time, epoch block.Epoch, out []Effect) []Effect {
	if !o.enter(now, out) {
		return out
	}
	if epoch > o.opt.Epoch {
		o.stop(ResultLost)
	}
	return o.leave()
}

// Initiators tells how many initiators are logged in.
func (o *Owner) Initiators(n int) { o.initiators = n }

// Arrived says that an initiator is logging in: what it reads is answered only after the epoch was confirmed from now on. Where it comes from there may
// have been a newer owner, and this one may have slept through that with its clock (I4). One that stays needs no more than the promises,
// while it is the only one.
func (o *Owner) Arrived() {
	o.seq++
	o.arrivedSeq = o.seq
}

// stop ends this owner for good. No client request is left without an answer.
func (o *Owner) stop(why Result) {
	if o.lost {
		return
	}
	o.lost = true
	if o.barrier != nil {
		o.complete(o.barrier.tag, ResultLost)
		o.barrier = nil
	}
	for _, l := range []*arrivalList{&o.changes, &o.others} {
		for l.head != nil {
			r := l.head
			o.complete(r.tag, ResultLost)
			o.pool.put(r)
		}
	}
	for _, e := range o.extents {
		for r := e.inflight.head; r != nil; r = r.next {
			o.out = append(o.out, Effect{Kind: EffForget, Tag: r.tag})
		}
	}
	o.out = append(o.out, Effect{Kind: EffLost, Result: why, Epoch: o.opt.Epoch})
}

// renew ends this owner and asks for a new epoch for the same chunk.
func (o *Owner) renew() {
	o.stop(ResultLost)
	n := len(o.out) - 1
	lost := o.out[n]
	o.out[n] = Effect{Kind: EffSetOwner, To: o.opt.Self, Epoch: o.opt.Epoch + 1}
	o.out = append(o.out, lost)
}

func (o *Owner) complete(tag uint64, res Result) *Effect {
	o.out = append(o.out, Effect{Kind: EffComplete, Tag: tag, Result: res})
	return &o.out[len(o.out)-1]
}
