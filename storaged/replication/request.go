package replication

import "github.com/iomesh/iomesh/storaged/block"

// mask is a set of slots of an extent.
type mask uint8

func bit(slot int) mask           { return 1 << slot }
func (m mask) has(slot int) bool  { return m&(1<<slot) != 0 }
func (m mask) covers(o mask) bool { return m&o == o }

// reqKind is what a request is for. Those up to reqLock are clients', the others the owner's own.
type reqKind uint8

const (
	reqWrite reqKind = iota
	reqUnmap
	reqRead
	reqFlush
	reqLock
	reqPiece   // part of a client's read
	reqRepair  // copy to a replica whose block did not verify
	reqRollGet // roll-forward: read from a holder
	reqRollPut // roll-forward: copy to a replica that lacks it
	reqJoin    // the messages of a resync
	reqScrub   // scrub: verify a range of a member
	reqMend    // scrub: read from a good member what was bad elsewhere
)

// request is one thing in progress. Requests are pooled: an Owner in steady state allocates none. A request is in at most one
// list of its extent, and client requests that are not answered in one arrival list.
type request struct {
	id   uint64 // use<<32 | index+1
	kind reqKind
	list *reqList
	ext  *extent
	tag  uint64
	lock LockID

	rng  block.Range
	data []byte
	sums []uint32

	// Writes.
	stamp    block.Stamp
	below    block.Stamp // highest applied stamp between the previous write in flight and this one
	acked    mask
	nospace  mask
	sent     mask // slots it was sent to, in their present session
	unsure   mask // slots that may have it although their answer was lost
	label    block.SnapSeq
	reserve  bool
	answered bool // the client has been told an error; the outcome is still open

	arrived    Time
	arrivedSeq uint64
	sentAt     Time

	// Reads and own requests, which are at one slot at a time (-1: none).
	view  block.SnapSeq
	slot  int8
	ready bool
	tried mask
	top   block.Stamp // highest stamp in the data
	read  *pieces
	whole *request // of a piece
	step  joinStep

	prev, next *request
	arr        *arrivalList
	aprev      *request
	anext      *request
}

// reqList is an intrusive list of requests in the order they were pushed.
type reqList struct {
	head, tail *request
	n          int
}

func (l *reqList) push(r *request) {
	r.list, r.prev, r.next = l, l.tail, nil
	if l.tail == nil {
		l.head = r
	} else {
		l.tail.next = r
	}
	l.tail = r
	l.n++
}

// unlist takes r out of the list it is in, if any.
func (r *request) unlist() {
	l := r.list
	if l == nil {
		return
	}
	if r.prev == nil {
		l.head = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		l.tail = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.list, r.prev, r.next = nil, nil, nil
	l.n--
}

// arrivalList holds requests the client waits for, oldest first.
type arrivalList struct{ head, tail *request }

func (l *arrivalList) push(r *request) {
	r.arr, r.aprev, r.anext = l, l.tail, nil
	if l.tail == nil {
		l.head = r
	} else {
		l.tail.anext = r
	}
	l.tail = r
}

func (r *request) unarrive() {
	l := r.arr
	if l == nil {
		return
	}
	if r.aprev == nil {
		l.head = r.anext
	} else {
		r.aprev.anext = r.anext
	}
	if r.anext == nil {
		l.tail = r.aprev
	} else {
		r.anext.aprev = r.aprev
	}
	r.arr, r.aprev, r.anext = nil, nil, nil
}

// pool hands out requests and finds them by id.
type pool struct {
	all  []*request
	free []*request
	used int // client requests
}

func (p *pool) get(k reqKind) *request {
	var r *request
	if n := len(p.free); n > 0 {
		r, p.free = p.free[n-1], p.free[:n-1]
	} else {
		slab := make([]request, 32)
		for i := range slab {
			slab[i].id = uint64(len(p.all) + 1)
			p.all = append(p.all, &slab[i])
			p.free = append(p.free, &slab[i])
		}
		return p.get(k)
	}
	r.kind = k
	r.slot = -1
	if k <= reqLock {
		p.used++
	}
	return r
}

// put gives r back. Its id is not valid any more.
func (p *pool) put(r *request) {
	r.unlist()
	r.unarrive()
	if r.kind <= reqLock {
		p.used--
	}
	*r = request{id: r.id + 1<<32}
	p.free = append(p.free, r)
}

func (p *pool) find(id uint64) *request {
	i := uint32(id)
	if i == 0 || int(i) > len(p.all) {
		return nil
	}
	if r := p.all[i-1]; r.id == id && r.ext != nil {
		return r
	}
	return nil
}
