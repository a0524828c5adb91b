package meta

import (
	"maps"
	"slices"
	"sync"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// settle is how long a chunk must be present without a break before volumes move to it by choice.
const settle = 5 * time.Second

// registry is what the leader knows of the chunks from their heartbeat streams. It begins empty with each leadership.
//
//	          stream opens, first report
//	unseen ────────────────────────────▶ present ◀── reports
//	  │ OwnerDead after take-over           │ stream broken for BrokenStream, or silent for OwnerDead
//	  └──────────────▶ dead ◀───────────────┘
//	                    └── stream opens ──▶ present
//
// Unseen chunks are neither dead (their volumes stay) nor present (they get none).
type registry struct {
	now     func() time.Time
	started time.Time

	mu     sync.Mutex
	chunks map[block.ChunkID]*presence
	event  chan struct{} // capacity 1: something changed that decisions depend on
}

type presence struct {
	boot        uint64
	stream      uint64 // number of the stream in use; 0 = broken
	streams     uint64 // streams opened so far
	lastSeen    time.Time
	brokenAt    time.Time
	since       time.Time // of being present without a break
	full        bool      // a full report came on this stream
	disks       map[block.DiskID]*storagedv1.DiskReport
	volumes     map[block.VolumeID]volumeFact
	unreachable []block.ChunkID
	sessions    uint32
	observed    observed
}

// volumeFact is an owner's report of a volume.
type volumeFact struct {
	report *storagedv1.VolumeReport
	at     time.Time

	// rate is the speed of copying, in bytes per second, since the report of baseAt.
	rate     uint64
	baseDone uint64
	baseAt   time.Time
}

// rateEvery is the least time over which a speed is computed.
const rateEvery = time.Second

// after is the fact that follows f when a report comes in.
func (f volumeFact) after(v *storagedv1.VolumeReport, now time.Time) volumeFact {
	done := v.GetStatus().GetResyncBytesDone()
	next := volumeFact{report: v, at: now, rate: f.rate, baseDone: f.baseDone, baseAt: f.baseAt}
	switch dt := now.Sub(f.baseAt); {
	case f.report == nil || done < f.baseDone || f.report.GetEpoch() != v.GetEpoch():
		next.rate, next.baseDone, next.baseAt = 0, done, now
	case dt >= rateEvery:
		next.rate, next.baseDone, next.baseAt = uint64(float64(done-f.baseDone)/dt.Seconds()), done, now
	}
	return next
}

func newRegistry(now func() time.Time) *registry {
	return &registry{now: now, started: now(), chunks: map[block.ChunkID]*presence{}, event: make(chan struct{}, 1)}
}

func (r *registry) signal() {
	select {
	case r.event <- struct{}{}:
	default:
	}
}

// open begins a stream of a chunk and returns its number; an earlier stream of the chunk is superseded.
func (r *registry) open(id block.ChunkID, boot uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	p := r.chunks[id]
	if p == nil || p.boot != boot || r.dead(p, now) {
		streams := uint64(0)
		if p != nil {
			streams = p.streams
		}
		p = &presence{boot: boot, streams: streams, since: now, disks: map[block.DiskID]*storagedv1.DiskReport{}, volumes: map[block.VolumeID]volumeFact{}}
		r.chunks[id] = p
	}
	p.streams++
	p.stream = p.streams
	p.full = false
	p.lastSeen = now
	r.signal()
	return p.stream
}

// report takes in a heartbeat. It returns false if the stream was superseded.
func (r *registry) report(stream uint64, req *storagedv1.HeartbeatRequest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := block.ChunkID(req.GetChunk())
	p := r.chunks[id]
	if p == nil || p.stream != stream {
		return false
	}
	now := r.now()
	if now.Sub(p.lastSeen) > timeouts.OwnerDead {
		p.since = now // it was silent for so long that it counted as dead
		r.signal()
	}
	p.lastSeen = now
	p.observed.take(req, p.observed.skew == 0 && p.observed.certificate.IsZero(), now)
	p.sessions = req.GetSessions()
	unreachable := make([]block.ChunkID, len(req.GetUnreachable()))
	for i, u := range req.GetUnreachable() {
		unreachable[i] = block.ChunkID(u)
	}
	if !slices.Equal(unreachable, p.unreachable) {
		p.unreachable = unreachable
		r.signal()
	}
	before := p.volumes
	if req.GetFull() {
		clear(p.disks)
		p.volumes = map[block.VolumeID]volumeFact{}
		if !p.full {
			p.full = true
			r.signal()
		}
	}
	for _, d := range req.GetDisks() {
		if did, err := block.ParseDiskID(d.GetDisk().GetId()); err == nil {
			if old := p.disks[did]; old == nil || old.GetDisk().GetState() != d.GetDisk().GetState() {
				r.signal()
			}
			p.disks[did] = d
		}
	}
	for _, v := range req.GetVolumes() {
		if vid, err := block.ParseVolumeID(v.GetVolumeId()); err == nil {
			p.volumes[vid] = before[vid].after(v, now)
		}
	}
	return true
}

// close ends a stream.
func (r *registry) close(id block.ChunkID, stream uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.chunks[id]; p != nil && p.stream == stream {
		p.stream, p.brokenAt = 0, r.now()
		r.signal()
	}
}

// forget drops what is known of a removed chunk.
func (r *registry) forget(id block.ChunkID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.chunks, id)
}

func (r *registry) dead(p *presence, now time.Time) bool {
	if p == nil {
		return now.Sub(r.started) > timeouts.OwnerDead
	}
	if now.Sub(p.lastSeen) > timeouts.OwnerDead {
		return true
	}
	return p.stream == 0 && now.Sub(p.brokenAt) > timeouts.BrokenStream
}

// untilDead is how long it takes at least until a chunk that is not dead now can be so by its silence alone.
func (r *registry) untilDead() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	left := max(0, r.started.Add(timeouts.OwnerDead).Sub(now))
	if left == 0 {
		left = timeouts.OwnerDead
	}
	for _, p := range r.chunks {
		if r.dead(p, now) {
			continue
		}
		left = min(left, p.lastSeen.Add(timeouts.OwnerDead).Sub(now))
		if p.stream == 0 {
			left = min(left, p.brokenAt.Add(timeouts.BrokenStream).Sub(now))
		}
	}
	return left + time.Millisecond
}

// missed reports whether a chunk that this leader has not heard of is certainly gone: all that have reported, at least two, cannot reach it. They
// have noticed before this leader took over, so it need not wait as long as they did: when the node that goes carries both the leader
// and the owner of a volume, that wait would come on top of the election. A wrong guess moves volumes, no more.
func (r *registry) missed(id block.ChunkID, now time.Time) bool {
	said := 0
	for _, p := range r.chunks {
		if p.stream == 0 || !p.full || now.Sub(p.lastSeen) > 2*timeouts.Heartbeat {
			continue
		}
		if !slices.Contains(p.unreachable, id) {
			return false
		}
		said++
	}
	return said >= 2
}

// liveness is what decisions take from the registry about one chunk.
type liveness struct {
	Dead        bool
	Present     bool
	Settled     bool
	Unreachable []block.ChunkID
	LastSeen    time.Time // zero = not in this leadership
	Boot        uint64
	Sessions    uint32
}

// live returns the liveness of a chunk.
func (r *registry) live(id block.ChunkID) liveness {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.liveLocked(id, r.now())
}

func (r *registry) liveLocked(id block.ChunkID, now time.Time) liveness {
	p := r.chunks[id]
	l := liveness{Dead: r.dead(p, now)}
	if p == nil {
		l.Dead = l.Dead || r.missed(id, now)
		return l
	}
	l.Present = !l.Dead && p.stream != 0 && p.full
	l.Settled = l.Present && now.Sub(p.since) >= settle
	l.Unreachable, l.LastSeen, l.Boot, l.Sessions = p.unreachable, p.lastSeen, p.boot, p.sessions
	return l
}

// offlineSince is when a dead chunk was heard of last: at the earliest the take-over, before which nothing is known.
func (r *registry) offlineSince(id block.ChunkID) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.chunks[id]; p != nil {
		return p.lastSeen
	}
	return r.started
}

// volume returns the owner's last report of a volume.
func (r *registry) volume(owner block.ChunkID, id block.VolumeID) (volumeFact, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.chunks[owner]
	if p == nil {
		return volumeFact{}, false
	}
	f, ok := p.volumes[id]
	return f, ok
}

// disksOf returns the reports of a chunk's disks, and whether they are complete.
func (r *registry) disksOf(id block.ChunkID) (disks map[block.DiskID]*storagedv1.DiskReport, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.chunks[id]
	if p == nil {
		return nil, false
	}
	return maps.Clone(p.disks), p.full && p.stream != 0
}
