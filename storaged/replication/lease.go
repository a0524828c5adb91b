package replication

import (
	"maps"
	"sync/atomic"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// Lease is the chunk's side of the promises of I4, in both directions.
//
// As holder it asks every peer each timeouts.Heartbeat; a grant lasts timeouts.Lease less timeouts.LeaseSkew from the moment the
// request was sent, on the own clock. As granter it promises for timeouts.Lease from the request's arrival, on the own clock, to
// confirm no higher epoch for any volume it accepted the peer as owner of. So the granter's promise always ends after the holder's.
//
// A volume for which a higher epoch waits is excluded from the grants to its present owner; the wait ends when what was promised
// before ends, or when the holder says that it has stopped. An unbroken row of promises is a chain. Exclusions are
// kept for the chain only: a holder uses promises of a new chain for a volume only after the granter confirmed the volume's epoch in it.
//
// Not safe for concurrent use, except Promise and Chain.
type Lease struct {
	opt   LeaseOptions
	bugs  Bugs
	peers []*leasePeer
	wants []want
	chain uint64
	held  atomic.Pointer[map[block.ChunkID]*leasePeer]
	out   []Effect
}

type leasePeer struct {
	chunk   block.ChunkID
	promise Promise
	up      bool
	next    Time // when the next heartbeat is due

	given       atomic.Uint64 // chain
	end         Time          // of the promise given
	incarnation uint64
	excluded    []VolumeEpoch
}

// want is a higher epoch that waits for the end of a promise.
type want struct {
	VolumeEpoch
	holder block.ChunkID
	until  Time
}

// NewLease returns a Lease without peers.
func NewLease(opt LeaseOptions) *Lease {
	l := &Lease{opt: opt, chain: opt.Incarnation << 24}
	l.held.Store(&map[block.ChunkID]*leasePeer{})
	return l
}

func (l *Lease) peer(c block.ChunkID) *leasePeer {
	for {
		old := l.held.Load()
		if p := (*old)[c]; p != nil {
			return p
		}
		m := maps.Clone(*old)
		p := &leasePeer{chunk: c}
		m[c] = p
		if l.held.CompareAndSwap(old, &m) {
			return p
		}
	}
}

// listed returns the peer and sees to it that Tick knows it.
func (l *Lease) listed(c block.ChunkID) *leasePeer {
	p := l.peer(c)
	for _, q := range l.peers {
		if q == p {
			return p
		}
	}
	l.peers = append(l.peers, p)
	return p
}

// Promise returns the promise held from a chunk. It stays the same for the life of the Lease. For concurrent use.
func (l *Lease) Promise(c block.ChunkID) *Promise { return &l.peer(c).promise }

// Chain returns the number of the chain of promises given to a chunk, 0 if none was given. For concurrent use.
func (l *Lease) Chain(c block.ChunkID) uint64 { return l.peer(c).given.Load() }

// PeerUp begins heartbeats to a chunk; not called for the own one.
func (l *Lease) PeerUp(c block.ChunkID) {
	p := l.listed(c)
	p.up, p.next = true, 0
}

// PeerDown ends heartbeats. What was promised stays promised.
func (l *Lease) PeerDown(c block.ChunkID) { l.listed(c).up = false }

// Next is when Tick has something to do, NeverDue if not before another method is called.
func (l *Lease) Next() Time {
	next := NeverDue
	for _, p := range l.peers {
		if p.up {
			next = min(next, p.next)
		}
	}
	for _, w := range l.wants {
		if w.holder != l.opt.Self {
			next = min(next, w.until)
		}
	}
	return next
}

// NeverDue is later than any time.
const NeverDue = Time(1<<63 - 1)

// Heartbeats that are nearly due are sent with those that are, and with the answer to the peer's own: all pairs fall into step, and a chunk is woken
// few times in each interval.
const (
	nearlyDue    = timeouts.Heartbeat / 4
	dueWithGrant = timeouts.Heartbeat / 2
)

// Tick sends heartbeats that are due and frees epochs whose wait is over.
func (l *Lease) Tick(now Time, out []Effect) []Effect {
	l.out = out
	due := false
	for _, p := range l.peers {
		due = due || p.up && now >= p.next
	}
	for _, p := range l.peers {
		if due && p.up && now.Add(nearlyDue) >= p.next {
			l.ask(now, p)
		}
	}
	for i := 0; i < len(l.wants); {
		if w := l.wants[i]; w.holder != l.opt.Self && now >= w.until {
			l.wants = append(l.wants[:i], l.wants[i+1:]...)
			l.free(w)
			continue
		}
		i++
	}
	return l.done()
}

func (l *Lease) ask(now Time, p *leasePeer) {
	p.next = now.Add(timeouts.Heartbeat)
	l.send(p.chunk, Message{Kind: MsgLeaseRequest, Sent: now, Incarnation: l.opt.Incarnation})
}

// Receive handles MsgLease*.
func (l *Lease) Receive(now Time, from block.ChunkID, m *Message, out []Effect) []Effect {
	l.out = out
	switch m.Kind {
	case MsgLeaseRequest:
		l.grant(now, from, m)
	case MsgLeaseGrant:
		l.granted(now, from, m)
	case MsgLeaseRelease:
		if m.More != nil {
			for _, v := range m.More.Volumes {
				l.released(from, v)
			}
		}
	}
	return l.done()
}

func (l *Lease) grant(now Time, from block.ChunkID, m *Message) {
	p := l.listed(from)
	if m.Incarnation < p.incarnation {
		return // of a process that has died
	}
	if p.given.Load() == 0 || now >= p.end || m.Incarnation != p.incarnation {
		// What the holder knew of its volumes may be outdated: it has to ask for each again.
		l.chain++
		p.given.Store(l.chain)
		p.excluded = nil
		p.incarnation = m.Incarnation
	}
	p.end = max(p.end, now.Add(timeouts.Lease))
	g := Message{Kind: MsgLeaseGrant, Sent: m.Sent, Incarnation: m.Incarnation, Chain: p.given.Load()}
	if len(p.excluded) > 0 {
		g.More = &More{Volumes: append([]VolumeEpoch(nil), p.excluded...)}
	}
	l.send(from, g)
	if p.up && now.Add(dueWithGrant) >= p.next {
		l.ask(now, p)
	}
}

func (l *Lease) granted(now Time, from block.ChunkID, m *Message) {
	if m.Incarnation != l.opt.Incarnation {
		return
	}
	// The exclusions first: a volume's owner must have stopped before the promise that does not cover it counts.
	if m.More != nil {
		for _, v := range m.More.Volumes {
			l.exclude(v)
		}
	}
	until := m.Sent.Add(timeouts.Lease - timeouts.LeaseSkew)
	if l.bugs.has(BugLeaseMargin) {
		until = now.Add(timeouts.Lease + timeouts.Lease/2)
	}
	l.out = append(l.out, Effect{Kind: EffExtend, To: from, Until: until, Msg: Message{Chain: m.Chain}})
}

func (l *Lease) exclude(v VolumeEpoch) {
	l.out = append(l.out, Effect{Kind: EffExclude, Msg: Message{Volume: v.Volume, Epoch: v.Epoch}})
}

// Wanted asks whether asker may have the epoch although holder owns the volume at a lower one. The answer is EffFree, at once or
// when nothing promised to holder covers the volume any more.
func (l *Lease) Wanted(now Time, v VolumeEpoch, holder, asker block.ChunkID, out []Effect) []Effect {
	l.out = out
	w := want{VolumeEpoch: v, holder: holder}
	for i := range l.wants {
		if l.wants[i].Volume == v.Volume {
			if l.wants[i].Epoch > v.Epoch {
				return l.done() // a newer owner waits already
			}
			l.wants = append(l.wants[:i], l.wants[i+1:]...)
			break
		}
	}
	switch {
	case holder == 0 || holder == asker:
		// The same chunk: an owner there stops before a newer one starts, and a former process is dead.
		l.free(w)
	case holder == l.opt.Self:
		l.wants = append(l.wants, w)
		l.exclude(v)
	default:
		p := l.listed(holder)
		w.until = max(p.end, l.opt.Started.Add(timeouts.Lease))
		if now >= w.until {
			l.free(w)
			break
		}
		l.wants = append(l.wants, w)
		for i := range p.excluded {
			if p.excluded[i].Volume == v.Volume {
				p.excluded[i].Epoch = max(p.excluded[i].Epoch, v.Epoch)
				return l.done()
			}
		}
		if len(p.excluded) < VolumesMax {
			p.excluded = append(p.excluded, v)
		} else {
			// No room to tell: stop promising anything until the chain breaks.
			p.given.Store(0)
		}
	}
	return l.done()
}

// Released says that this chunk serves v.Volume in no epoch below v.Epoch any more.
func (l *Lease) Released(_ Time, v VolumeEpoch, out []Effect) []Effect {
	l.out = out
	l.released(l.opt.Self, v)
	for _, p := range l.peers {
		if p.up {
			l.send(p.chunk, Message{Kind: MsgLeaseRelease, More: &More{Volumes: []VolumeEpoch{v}}})
		}
	}
	return l.done()
}

func (l *Lease) released(holder block.ChunkID, v VolumeEpoch) {
	if holder != l.opt.Self {
		p := l.listed(holder)
		for i := range p.excluded {
			if e := p.excluded[i]; e.Volume == v.Volume && e.Epoch <= v.Epoch {
				p.excluded = append(p.excluded[:i], p.excluded[i+1:]...)
				break
			}
		}
	}
	for i, w := range l.wants {
		if w.Volume == v.Volume && w.holder == holder && w.Epoch <= v.Epoch {
			l.wants = append(l.wants[:i], l.wants[i+1:]...)
			l.free(w)
			return
		}
		if w.Volume == v.Volume && w.holder == holder && holder == l.opt.Self {
			// An owner has stopped, but what waits is further ahead: is there none up to there?
			l.exclude(w.VolumeEpoch)
		}
	}
}

func (l *Lease) free(w want) {
	l.out = append(l.out, Effect{Kind: EffFree, Msg: Message{Volume: w.Volume, Epoch: w.Epoch}})
}

func (l *Lease) send(to block.ChunkID, m Message) {
	m.Feature = l.opt.Feature
	l.out = append(l.out, Effect{Kind: EffSend, To: to, Msg: m})
}

func (l *Lease) done() []Effect {
	out := l.out
	l.out = nil
	return out
}
