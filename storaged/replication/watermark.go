package replication

import "github.com/iomesh/iomesh/storaged/timeouts"

// marksPerTick is how many extents of a volume are told each TickInterval as soon as they are idle; the others once they are late. Of writes spread
// over thousands of extents nearly each would else be followed by messages to all members, and most of them by another write that says the same.
const marksPerTick = 20

// peerMarks gathers the watermarks for one chunk.
type peerMarks struct {
	peer  *peer
	marks []Mark
}

// untold holds the extents in which nothing is under way but of which the members do not know the watermark yet, about in the order of their last
// writes. Of writes that are spread over many extents these are almost all that are awake: Tick looks at those whose time has come, not at each of
// them each time. An extent is in it once at most; one that became active again since is let go, and comes again.
type untold struct {
	wait []untoldExtent
	head int
}

type untoldExtent struct {
	ext       *extent
	lastWrite Time // when it was put here
}

func (u *untold) push(e *extent) {
	e.untold = true
	if len(u.wait) == cap(u.wait) && u.head > len(u.wait)/2 {
		u.wait = u.wait[:copy(u.wait, u.wait[u.head:])]
		u.head = 0
	}
	u.wait = append(u.wait, untoldExtent{e, e.lastWrite})
}

func (u *untold) pop() *extent {
	e := u.wait[u.head].ext
	u.wait[u.head].ext = nil
	e.untold = false
	u.head++
	return e
}

// all are the extents in the order they were put here.
func (u *untold) all() []untoldExtent { return u.wait[u.head:] }

// tellLater notes an extent that is not active any more, if its members have to be told.
func (o *Owner) tellLater(e *extent) {
	if e.told != e.watermark && !e.untold {
		o.untold.push(e)
	}
}

// tellable reports whether an extent's members are to be told its watermark by a message of its own.
func (o *Owner) tellable(e *extent) bool {
	return e.told != e.watermark && o.now.Sub(e.lastWrite) >= timeouts.WatermarkIdle
}

// tellIdle notes the watermarks of extents that have not been written for timeouts.WatermarkIdle; after marksPerTick of them, only of those that
// have not been for timeouts.WatermarkLate.
func (o *Owner) tellIdle() {
	after, told := timeouts.WatermarkIdle, 0
	for all := o.untold.all(); len(all) > 0 && o.now.Sub(all[0].lastWrite) >= after; all = o.untold.all() {
		switch e := o.untold.pop(); {
		case e.active: // comes again when it is idle
		case e.told != e.watermark && o.now.Sub(e.lastWrite) >= after:
			o.mark(e)
			if told++; told == marksPerTick {
				after = timeouts.WatermarkLate
			}
		default:
			o.tellLater(e) // written since
		}
	}
}

// mark notes the extent's watermark for all members that can be reached.
func (o *Owner) mark(e *extent) {
	e.told = e.watermark
	for i := range e.slots {
		if s := &e.slots[i]; e.members.has(i) && s.peer.taken {
			o.markFor(s.peer, Mark{ReplicaID{e.index, s.disk}, e.rec.Generation, e.watermark})
		}
	}
}

func (o *Owner) markFor(p *peer, m Mark) {
	for i := range o.marks {
		if o.marks[i].peer == p {
			o.marks[i].marks = append(o.marks[i].marks, m)
			return
		}
	}
	o.marks = append(o.marks, peerMarks{p, append(make([]Mark, 0, o.marksLast+1), m)})
}

// markAll notes the watermarks of all extents that have not been told.
func (o *Owner) markAll() {
	mark := func(e *extent) {
		if e.phase == PhaseServing && e.told != e.watermark {
			o.mark(e)
		}
	}
	for _, e := range o.active {
		mark(e)
	}
	for _, u := range o.untold.all() {
		mark(u.ext)
	}
}

// sendMarks sends what was noted.
func (o *Owner) sendMarks() {
	if len(o.marks) > 0 {
		o.marksLast = len(o.marks[0].marks)
	}
	for i := range o.marks {
		for all := o.marks[i].marks; len(all) > 0; {
			n := min(len(all), MarksMax)
			o.send(o.marks[i].peer, MsgWatermark).More = &More{Marks: all[:n:n]}
			all = all[n:]
		}
	}
	o.marks = o.marks[:0]
}
