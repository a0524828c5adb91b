package sim

import (
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// Times of the simulation, in nanoseconds.
const (
	us  int64 = 1000
	ms  int64 = 1000 * us
	sec int64 = 1000 * ms
)

// blocksMax is the number of blocks of an extent that are ever used.
const blocksMax = 12

// payload is what all data slices point into: contents travel in the checksums.
var payload = make([]byte, replication.IOBlocksMax*block.Size)

// Config is what a run is made of. Use Random to draw one from a seed.
type Config struct {
	Seed    uint64
	Chunks  int
	Extents int
	// Replicas is the replica factor, MinReplicas as in the volume.
	Replicas, MinReplicas int
	Clients, Depth        int
	// Confirm tells owners of all clients, so that they have reads confirmed. Without it the promises alone have to do, as they must
	// while no clock stands still.
	Confirm bool
	// Budget is how many blocks an owner may copy per tick.
	Budget int
	// Scrub: owners scrub.
	Scrub bool
	// Deltas: the leader adds a delta member where a replica is away.
	Deltas bool
	// Think is the longest pause of a client between requests, in ns.
	Think int64
	// Net and Disk are the usual longest delays of a message and of a flush, in ns.
	Net, Disk int64
	// Length is how long load and faults go on, in ns.
	Length int64
	// Faults is the number of faults, drawn from Kinds.
	Faults int
	Kinds  []FaultKind
	// Snapshots and Moves are drawn as often on average.
	Snapshots, Moves int
	// Drains are replicas taken away by the leader, Grow appends an extent.
	Drains int
	Grow   bool
	// Bugs are planted in all machines.
	Bugs replication.Bugs
	// Trace gets a line per event; nil for none.
	Trace io.Writer
}

// Violation is a broken promise of the protocol.
type Violation struct {
	Seed uint64
	At   int64
	What string
}

func (v *Violation) Error() string {
	return fmt.Sprintf("seed %d at %.6fs: %s", v.Seed, float64(v.At)/1e9, v.What)
}

// Stats counts what happened in a run. Copied are blocks that owners count as copied by resync, Arrived those that reached a disk for it.
type Stats struct {
	Events, Writes, Reads, Errors, Snapshots, Moves, Owners, SetChanges, Joins, Copied, Repairs, MediumErrors, Deltas, Revivals, Scrubs, Arrived, Faults int
}

type eventKind uint8

const (
	evFunc eventKind = iota
	evDeliver
	evTick
	evDisk
	evRead
)

type event struct {
	at    int64
	kind  eventKind
	chunk *chunk // evFunc with a chunk waits while it is frozen
	inc   uint64
	env   *envelope
	disk  *disk
	op    *diskOp
	fn    func()
}

// World is one run: everything in it happens in one goroutine, in an order the seed decides.
type World struct {
	cfg        Config
	rng        *rand.Rand
	now        int64
	seq        uint64
	heap       []due // four children each
	events     []event
	freeEvents []uint32
	chunks     []*chunk
	net        network
	meta       meta
	volume     block.VolumeID

	clients []*client
	healed  bool
	stop    bool // clients begin nothing new
	ops     [][]BlockOp

	values uint32
	zeroes map[zeroKey]uint32
	stamps map[stampKey]uint32
	snaps  []*snapshot
	rmws   map[rmwKey]uint32
	bad    *Violation
	rot    *disk // the one disk that may lie in this run
	// No fault begins before quietTill; activeTill is when the effects of those that have begun are over.
	quietTill, activeTill int64
	Stats                 Stats

	freeEnv []*envelope
}

type zeroKey struct {
	ext   block.ExtentIndex
	stamp block.Stamp
	no    block.No
}

type stampKey struct {
	ext   block.ExtentIndex
	stamp block.Stamp
	no    block.No
}

type rmwKey struct {
	ext block.ExtentIndex
	no  block.No
	old uint32
}

func (w *World) fail(format string, args ...any) {
	if w.bad == nil {
		w.bad = &Violation{w.cfg.Seed, w.now, fmt.Sprintf(format, args...)}
		w.tracef("VIOLATION %s", w.bad.What)
	}
}

func (w *World) tracef(format string, args ...any) {
	if w.cfg.Trace != nil {
		fmt.Fprintf(w.cfg.Trace, "%12.6f ", float64(w.now)/1e9)
		fmt.Fprintf(w.cfg.Trace, format, args...)
		fmt.Fprintln(w.cfg.Trace)
	}
}

func (w *World) between(lo, hi int64) int64 { return lo + w.rng.Int64N(hi-lo+1) }
func (w *World) chance(percent int) bool    { return w.rng.IntN(100) < percent }

// due is the place of an event in the order: its time, then the order in which it was scheduled. It holds no pointer, so that moving
// it about costs the collector nothing.
type due struct {
	at   int64
	seq  uint64
	slot uint32 // in World.events
}

func (d due) before(e due) bool { return d.at < e.at || d.at == e.at && d.seq < e.seq }

// push schedules an event.
func (w *World) push(e event) {
	w.seq++
	d := due{at: e.at, seq: w.seq}
	if n := len(w.freeEvents); n > 0 {
		d.slot, w.freeEvents = w.freeEvents[n-1], w.freeEvents[:n-1]
		w.events[d.slot] = e
	} else {
		d.slot = uint32(len(w.events))
		w.events = append(w.events, e)
	}
	h := append(w.heap, d)
	i := len(h) - 1
	for i > 0 {
		p := (i - 1) / 4
		if h[p].before(d) {
			break
		}
		h[i] = h[p]
		i = p
	}
	h[i] = d
	w.heap = h
}

// pop takes the next event.
func (w *World) pop() event {
	h := w.heap
	top := h[0]
	n := len(h) - 1
	last := h[n]
	h = h[:n]
	i := 0
	for {
		c := 4*i + 1
		if c >= n {
			break
		}
		for k, end := c+1, min(c+4, n); k < end; k++ {
			if h[k].before(h[c]) {
				c = k
			}
		}
		if last.before(h[c]) {
			break
		}
		h[i] = h[c]
		i = c
	}
	if n > 0 {
		h[i] = last
	}
	w.heap = h
	e := w.events[top.slot]
	w.events[top.slot] = event{}
	w.freeEvents = append(w.freeEvents, top.slot)
	return e
}

// after runs fn later.
func (w *World) after(d int64, fn func()) { w.push(event{at: w.now + d, fn: fn}) }

// afterOn runs fn on a chunk later: not if its process has ended, not while it is frozen.
func (w *World) afterOn(c *chunk, d int64, fn func()) {
	w.push(event{at: w.now + d, chunk: c, inc: c.inc, fn: fn})
}

// run handles events until t or until something is wrong.
func (w *World) run(t int64) {
	for w.bad == nil && len(w.heap) > 0 && w.heap[0].at <= t {
		e := w.pop()
		w.now = e.at
		w.Stats.Events++
		if c := e.chunk; c != nil {
			if !c.alive || c.inc != e.inc {
				if e.env != nil {
					w.freeEnv = append(w.freeEnv, e.env)
				}
				continue
			}
			if c.frozenTill > w.now {
				e.at = c.frozenTill
				w.push(e)
				continue
			}
		}
		switch e.kind {
		case evFunc:
			e.fn()
		case evDeliver:
			w.deliver(e)
		case evTick:
			e.chunk.tick()
		case evDisk:
			e.disk.completed(e.op)
		case evRead:
			e.disk.readDone(e.chunk, e.op)
		}
	}
	if w.bad == nil {
		w.now = max(w.now, t)
	}
}

// Run plays a seed to its end and returns what was broken, nil if nothing was.
func Run(cfg Config) (*Violation, Stats) {
	w := newWorld(cfg)
	w.start()
	w.scheduleFaults()
	w.run(cfg.Length)
	w.finish()
	return w.bad, w.Stats
}

func newWorld(cfg Config) *World {
	w := &World{cfg: cfg, rng: newRand(cfg.Seed ^ 0x5eed<<32), zeroes: map[zeroKey]uint32{}, stamps: map[stampKey]uint32{}, rmws: map[rmwKey]uint32{}}
	w.volume = block.VolumeID{1}
	w.ops = make([][]BlockOp, (cfg.Extents+1)*blocksMax)
	w.meta.w = w
	w.net.init(w, cfg.Chunks)
	for i := range cfg.Chunks {
		w.chunks = append(w.chunks, newChunk(w, i))
	}
	w.rot = w.chunks[w.rng.IntN(cfg.Chunks)].disks[0]
	return w
}

// start creates the volume, boots the chunks and lets the clients begin.
func (w *World) start() {
	for range w.cfg.Extents {
		w.newExtent()
	}
	for _, c := range w.chunks {
		c.boot()
	}
	w.meta.assign(w.chunks[w.rng.IntN(len(w.chunks))])
	w.after(100*ms, w.meta.lead)
	for i := range w.cfg.Clients {
		w.clients = append(w.clients, newClient(w, i))
	}
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x10e5)) }

func (s *Stats) add(o Stats) {
	s.Events += o.Events
	s.Writes += o.Writes
	s.Reads += o.Reads
	s.Errors += o.Errors
	s.Snapshots += o.Snapshots
	s.Moves += o.Moves
	s.Owners += o.Owners
	s.SetChanges += o.SetChanges
	s.Joins += o.Joins
	s.Copied += o.Copied
	s.Repairs += o.Repairs
	s.MediumErrors += o.MediumErrors
	s.Deltas += o.Deltas
	s.Revivals += o.Revivals
	s.Scrubs += o.Scrubs
	s.Arrived += o.Arrived
	s.Faults += o.Faults
}

// newExtent places an extent on chunks drawn, and records it.
func (w *World) newExtent() {
	x := block.ExtentIndex(len(w.meta.extents))
	rec := replication.Record{Generation: 1, Revision: w.meta.next()}
	for _, i := range w.rng.Perm(w.cfg.Chunks)[:w.cfg.Replicas] {
		d := w.chunks[i].disks[0]
		d.create(x, 1)
		rec.Members = append(rec.Members, replication.Member{Disk: d.id, Chunk: w.chunks[i].id})
	}
	w.meta.extents = append(w.meta.extents, rec)
	w.meta.since = append(w.meta.since, 0)
}
