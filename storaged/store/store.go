package store

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/internal/hist"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// Store is one open disk.
//
// Locks, outermost first: mu, alloc.mu; qmu is never held with another.
type Store struct {
	disk  vdisk.Disk
	jdisk vdisk.Disk  // holds the journal; disk unless hybrid
	async vdisk.Async // of disk; nil if it has none
	opts  Options
	log   *slog.Logger
	sb    superblock
	geo   geometry
	alloc *allocator

	// mu guards everything in this group. The committer and the destager write, readers look up.
	mu         sync.RWMutex
	replicas   map[block.ExtentID]*replica
	layers     map[uint32]*layer
	dead       []*layer // removed from their replica, space not freed yet
	volumes    map[block.VolumeID]VolumeFence
	families   map[family]*int // layers per lineage and index
	cache      *pageCache
	nextHandle uint32
	inflight   inflight
	active     generation // what the journal holds since the last seal
	sealed     generation // what is being destaged
	dirty      []*replica // whose watermark was set since the last batch or seal
	overlays   overlayPool
	dirSlots   []uint32 // of the directory of the last checkpoint

	refSlots []slotRef // of the refcount pages; the destager's

	ring    ring
	batch   batch // the committer's, like applier
	applier applier

	// qmu guards the queue and the wishes of the committer and destager to each other.
	qmu      sync.Mutex
	qcond    sync.Cond
	queue    []item
	spare    []item
	busy     bool // the committer works on items taken from the queue
	waits    bool // the committer waits for the queue
	closing  bool
	larges   map[uint64]struct{} // large writes whose data is not yet journalled, by order
	largeSeq uint64
	seal     *sealRequest
	cycles   struct{ wanted, started, done uint64 }
	progress uint64 // of the destage cycle, up to progressMax
	lastBusy time.Time

	fenced    atomic.Pointer[error]
	fenceOnce sync.Once

	kick      chan struct{} // to the destager
	stop      chan struct{}
	committed chan struct{} // closed when the committer has ended
	wg        sync.WaitGroup
	dataJobs  jobQueue
	io        ioWatch
	n         counters
	flushes   hist.Histogram // journal writes

	scratch sync.Pool  // *readScratch
	readMu  sync.Mutex // guards left and failed of Readings
}

// generation counts what one generation of overlays holds.
type generation struct {
	layers  []*layer // with an overlay in this generation
	entries int      // block and page entries put, an upper bound
	pages   int      // pages with an entry
	units   int64    // units the destager may need for it
	runs    []unitRun
}

// slots is how many slots the destager may need for it: one per page, and one per table node.
func (g *generation) slots() int64 {
	return int64(g.pages) + int64(min(g.pages, nodesPerExtent*len(g.layers)))
}

// inflight is the batch being written: its blocks are read from memory.
type inflight struct {
	from, to uint64 // blocks of the ring, absolute
	data     []byte // of the blocks from .. to
}

// ring is the state of the journal. Positions are absolute: they count blocks over all laps. The committer's, except tail.
type ring struct {
	blocks     uint64
	head       uint64        // where the next batch goes
	tail       atomic.Uint64 // begin of what recovery needs
	headAtomic atomic.Uint64 // head, for others
	seq        uint64        // number of the next batch
	checkpoint atomic.Uint64
	prev       []uint32 // replicas changed by the last batch
	prevAny    bool
	torn       bool // replay ended before a batch at head whose data did not all arrive
}

func (r *ring) used() uint64 { return r.headAtomic.Load() - r.tail.Load() }

// family groups the layers that may share units: clones keep lineage and extent index.
type family struct {
	lineage block.VolumeID
	index   block.ExtentIndex
}

// counters are of Stats.
type counters struct {
	writes, writtenBytes, reads, readBytes atomic.Uint64
	batches, journalBytes                  atomic.Uint64
	destaged, checkpoints                  atomic.Uint64
	readErrors, writeErrors                atomic.Uint64
	checksumErrors, metaErrors             atomic.Uint64
	journalNanos, readNanos                atomic.Int64 // moving averages
}

func average(a *atomic.Int64, d time.Duration) {
	old := a.Load()
	a.Store(old + (int64(d)-old)/16)
}

// failure is the reason for which the store is fenced, or nil.
func (s *Store) failure() error {
	if p := s.fenced.Load(); p != nil {
		return *p
	}
	return nil
}

// fail fences the store for good (I7).
func (s *Store) fail(err error) error {
	s.fenceOnce.Do(func() {
		e := &fencedError{cause: err}
		var x error = e
		s.fenced.Store(&x)
		s.n.writeErrors.Add(1)
		s.log.Error("disk fenced after a failed write or flush", "disk", s.disk.String(), "diskID", s.sb.DiskID.String(), "error", err)
		if s.opts.OnFenced != nil {
			s.opts.OnFenced(x)
		}
		s.qmu.Lock()
		s.qcond.Broadcast()
		s.qmu.Unlock()
	})
	return s.failure()
}

// fencedError is ErrFenced with its cause.
type fencedError struct{ cause error }

func (e *fencedError) Error() string   { return ErrFenced.Error() + ": " + e.cause.Error() }
func (e *fencedError) Unwrap() []error { return []error{ErrFenced, e.cause} }

func (s *Store) super() Superblock { return s.sb.Superblock }

// poke wakes the destager.
func (s *Store) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
