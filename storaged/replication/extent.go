package replication

import (
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
)

// slotsMax bounds the members and joiners of one extent.
const slotsMax = 8

// slot is one replica the owner speaks with: a member of the set, or a joiner.
type slot struct {
	disk  block.DiskID
	peer  *peer
	since block.Stamp // of a delta
	proof block.Stamp // what a replica with verify has to reach: the watermark when it came back. The present one may be of writes it got since
	found *found      // takeover: nil before the answer, and once the extent serves

	kind MemberKind
	// failed is why the replica must leave: the status with which it refused; StatusOK with leaving set means silence.
	failed  Status
	drained bool // leaves by RemoveMember: not kept as absent
	// verify: its process was restarted; not read from until it has shown that it lost nothing (I6).
	verify   bool
	stale    bool
	answered bool // in the takeover
}

// found is what a replica said of itself when the extent was taken over.
type found struct {
	state  State
	window []Run
}

// state is what the replica said of itself, zero if nothing.
func (s *slot) state() State {
	if s.found == nil {
		return State{}
	}
	return s.found.state
}

// change is a set change under way.
type change struct {
	want *SetChange
	join bool
}

// extent is what the owner knows of one extent.
//
//	Collecting ──all members answered or given up──▶ Rolling ──▶ Serving
//	     ▲             member lost on the way            │
//	     └────────────────────────────────────────────────┘
type extent struct {
	// What each write and each Tick looks at comes first: with many extents in use they come from memory, not from a cache of the processor.
	index   block.ExtentIndex
	phase   ExtentPhase
	active  bool // in Owner.active
	untold  bool // in Owner.untold
	touched bool // in Owner.touched
	members mask // recorded set
	wanted  mask // set of the change under way, 0 if none
	leaving mask // members that must leave
	change  *change
	join    *join

	counter   uint64      // of the last stamp
	watermark block.Stamp // everything up to here is on all members; always the stamp of an applied write
	tailDone  block.Stamp // highest applied stamp after the last write in flight
	told      block.Stamp // watermark the members were last told
	lastWrite Time

	inflight  reqList // numbered writes, ascending; those not yet on all members, or not acknowledged
	lingering reqList // acknowledged writes a joiner has not acknowledged
	waiting   reqList // writes and locks that may not start yet
	reads     reqList // not sent, or sent
	held      reqList // reads that have their data and wait for promises or writes
	jobs      reqList // the owner's own
	locks     []rangeLock

	rec   Record
	slots [slotsMax]slot

	joinRetry Time
	joinLast  block.DiskID   // the absent replica whose resync failed last: others come first
	noRoom    []block.DiskID // absent replicas whose last resync failed for lack of space
	since     Time           // when collecting began
	retryAt   Time
	rolls     []rollTask
	rollNext  int
	putSent   bool // copies of a roll-forward are under way or done: the descriptions are outdated
	steps     bool // joinStep is running
	needs     bool // reported as needing a last copy
	needsFrom Time // since when
	missed    bool // the last resync of an absent replica failed
	revived   int  // counts the attempts at a revival, so that each absent has its turn
	full      bool // reported as full
}

type rangeLock struct {
	id  LockID
	rng block.Range
}

// required is the set of slots a write must be on before it is acknowledged: the recorded set, the set of a change whose
// outcome is not known yet (I2), and a joiner that is about to be added.
func (e *extent) required() mask {
	m := e.members | e.wanted
	if e.join != nil && e.join.binding {
		m |= bit(e.join.slot)
	}
	return m
}

// targets is the set of slots that get new writes.
func (e *extent) targets() mask {
	m := e.required()
	if e.join != nil && e.join.direct {
		m |= bit(e.join.slot)
	}
	return m
}

// forgetNoRoom: it is not known any more that a replica's disk has no space.
func (e *extent) forgetNoRoom(disk block.DiskID) {
	e.noRoom = slices.DeleteFunc(e.noRoom, func(d block.DiskID) bool { return d == disk })
}

func (e *extent) fullCount(m mask) int {
	n := 0
	for i := range e.slots {
		if m.has(i) && e.slots[i].kind == Full {
			n++
		}
	}
	return n
}

// enough reports whether the recorded set, and the one it is perhaps being changed to, have minReplicas full members.
func (e *extent) enough(minReplicas int) bool {
	return e.fullCount(e.members) >= minReplicas && (e.wanted == 0 || e.fullCount(e.wanted) >= minReplicas)
}

// slotOf finds a disk, -1 if it has no slot.
func (e *extent) slotOf(d block.DiskID) int {
	for i := range e.slots {
		if e.slots[i].peer != nil && e.slots[i].disk == d {
			return i
		}
	}
	return -1
}

func (e *extent) addSlot(p *peer, disk block.DiskID, kind MemberKind, since block.Stamp) int {
	for i := range e.slots {
		if e.slots[i].peer == nil {
			e.slots[i] = slot{peer: p, disk: disk, kind: kind, since: since}
			return i
		}
	}
	return -1
}

// freeSlot forgets a slot and every trace of it in requests, so that its number can be used again.
func (e *extent) freeSlot(i int) {
	m := ^bit(i)
	for _, l := range []*reqList{&e.inflight, &e.lingering} {
		for r := l.head; r != nil; r = r.next {
			r.acked &= m
			r.nospace &= m
			r.sent &= m
			r.unsure &= m
		}
	}
	for _, l := range []*reqList{&e.reads, &e.held} {
		for r := l.head; r != nil; r = r.next {
			r.tried &= m
		}
	}
	e.leaving &= m
	e.slots[i] = slot{}
}

// unsent notes that what a slot was sent and did not answer is not under way any more.
func (e *extent) unsent(i int) {
	for _, l := range []*reqList{&e.inflight, &e.lingering} {
		for r := l.head; r != nil; r = r.next {
			r.unsure |= r.sent & bit(i) &^ r.acked &^ r.nospace
			r.sent &^= bit(i)
		}
	}
}

// blocked reports whether a write or lock of rng would overlap a write in flight, a lock of somebody else, or one that waits before it.
func (e *extent) blocked(rng block.Range, lock LockID, before *request) bool {
	for r := e.inflight.head; r != nil; r = r.next {
		if r.rng.Overlaps(rng) {
			return true
		}
	}
	for i := range e.locks {
		if e.locks[i].id != lock && e.locks[i].rng.Overlaps(rng) {
			return true
		}
	}
	if lock != 0 {
		return false // the lock was its place in the queue
	}
	for r := e.waiting.head; r != nil && r != before; r = r.next {
		if r.rng.Overlaps(rng) {
			return true
		}
	}
	return false
}

// onAll reports whether a write is on all slots it must be on.
func (e *extent) onAll(r *request) bool { return r.acked.covers(e.required()) }

// idle reports whether Tick has nothing to do for the extent but to have its watermark told.
func (e *extent) idle() bool {
	return e.phase == PhaseServing && e.inflight.n == 0 && e.waiting.n == 0 && e.reads.n == 0 && e.held.n == 0 && e.jobs.n == 0 &&
		e.lingering.n == 0 && e.change == nil && e.leaving == 0 && e.join == nil
}
