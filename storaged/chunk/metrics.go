package chunk

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/iomesh/iomesh/internal/hist"
	"github.com/iomesh/iomesh/internal/metrics"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
)

// chunkMetrics counts what a chunk does. Everything in the path of an I/O is an atomic addition; Prometheus is met when it asks.
type chunkMetrics struct {
	reg         *prometheus.Registry
	resyncBytes prometheus.Counter
	repairs     prometheus.Counter
	scrubBytes  prometheus.Counter

	diskRead  hist.Histogram // one read of the store, checksums verified
	diskWrite hist.Histogram // one write of the store, from its handing over until it is durable
	roundTrip hist.Histogram // a lease request to a peer until its answer
	takeover  hist.Histogram // a record of ownership until all extents serve

	badBlocks atomic.Uint64 // blocks without a good copy
	fenced    atomic.Uint64 // writes refused for their epoch (I3)
	refused   [kindsMax]atomic.Uint64
	asked     sync.Map // block.ChunkID to replication.Time: lease requests that were not answered yet

	traffic traffic
}

// kindsMax bounds the kinds of results counted.
const kindsMax = 16

func newMetrics() *chunkMetrics {
	m := &chunkMetrics{reg: metrics.NewRegistry("chunk"),
		resyncBytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "iomesh_chunk_resync_bytes_total",
			Help: "Bytes copied by resyncs and rebuilds of volumes owned here, also by those that were interrupted."}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{Name: "iomesh_chunk_repairs_total",
			Help: "Ranges of bad blocks rewritten from a good copy."}),
		scrubBytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "iomesh_chunk_scrub_bytes_total",
			Help: "Bytes of all replicas that scrub has read and verified, of volumes owned here."}),
	}
	m.reg.MustRegister(m.resyncBytes, m.repairs, m.scrubBytes)
	return m
}

// serve answers scrapes until ctx ends.
func (m *chunkMetrics) serve(ctx context.Context, ln net.Listener) error {
	return metrics.Serve(ctx, ln, metrics.Handler(m.reg, nil))
}

// noteSend and noteReceive time the round trip to peers by the lease requests; the last one to each peer counts.
func (m *chunkMetrics) noteSend(to block.ChunkID, k replication.Kind, now func() replication.Time) {
	if k == replication.MsgLeaseRequest {
		m.asked.Store(to, now())
	}
}

func (m *chunkMetrics) noteReceive(from block.ChunkID, k replication.Kind, now func() replication.Time) {
	if k != replication.MsgLeaseGrant {
		return
	}
	if t, ok := m.asked.LoadAndDelete(from); ok {
		m.roundTrip.Observe(time.Duration(now() - t.(replication.Time)))
	}
}

// noteAnswer counts what a replica here refused.
func (m *chunkMetrics) noteAnswer(msg *replication.Message) {
	if msg.Kind == replication.MsgWriteReply && (msg.Status == replication.StatusHigherEpoch || msg.Status == replication.StatusNotEpoch) {
		m.fenced.Add(1)
	}
}

// watch registers what is read from the running server, under the chunk's number and its node's name.
func (m *chunkMetrics) watch(s *Server) {
	prometheus.WrapRegistererWith(prometheus.Labels{"chunk": strconv.Itoa(int(s.id)), "node": s.o.Node}, m.reg).MustRegister(newChunkCollector(s))
}

// resultNames are the labels of refused commands.
var resultNames = map[target.Kind]string{
	target.MediumError: "medium_error", target.SpaceExhausted: "space_exhausted", target.Unavailable: "unavailable", target.WriteProtected: "write_protected",
	target.Miscompare: "miscompare", target.OutOfRange: "out_of_range", target.Aborted: "aborted", target.Lost: "lost", target.Internal: "internal",
}

// volumeMeter counts the commands of one owned volume.
type volumeMeter struct {
	read, write             hist.Histogram
	readBytes, writtenBytes atomic.Uint64
	inFlight                atomic.Int64
}

// meter times one command and gives back its turn: it stands in for the target's Done. The hook is made once per request, so that nothing is allocated per command.
type meter struct {
	began time.Time
	done  func(*target.Command, target.Result)
	hook  func(*target.Command, target.Result)
}

// measure begins the time of the request's command. Call it once per Submit, before anything can complete the command.
func (r *request) measure() {
	if r.hook == nil {
		r.hook = r.measured
	}
	r.began, r.done = time.Now(), r.c.Done
	r.c.Done = r.hook
	r.v.meter.inFlight.Add(1)
}

func (r *request) measured(c *target.Command, res target.Result) {
	m := &r.v.meter
	m.inFlight.Add(-1)
	switch c.Op {
	case target.OpRead:
		m.read.Since(r.began)
		m.readBytes.Add(c.Length)
	case target.OpWrite, target.OpCompareAndWrite, target.OpOrWrite:
		m.write.Since(r.began)
		m.writtenBytes.Add(c.Length)
	}
	if res.Kind != target.OK && int(res.Kind) < kindsMax {
		r.v.s.metrics.refused[res.Kind].Add(1)
	}
	c.Done = r.done
	v, cost, later := r.v, r.cost, r.later
	r.later = nil
	r.done(c, res)
	// The request may be another command's by now.
	if cost > 0 {
		v.turns.ended(cost, v.s.since, later, v.turn)
	}
}

// sample is a volume's counters at a moment.
type sample struct {
	reads, writes           uint64
	readBytes, writtenBytes uint64
	readTime, writeTime     time.Duration
}

func (m *volumeMeter) sample() sample {
	r, w := m.read.Snapshot(), m.write.Snapshot()
	return sample{r.Count(), w.Count(), m.readBytes.Load(), m.writtenBytes.Load(), r.Sum, w.Sum}
}

func (s sample) minus(o sample) sample {
	return sample{s.reads - o.reads, s.writes - o.writes, s.readBytes - o.readBytes, s.writtenBytes - o.writtenBytes, s.readTime - o.readTime, s.writeTime - o.writeTime}
}

func (s *sample) add(o sample) {
	s.reads += o.reads
	s.writes += o.writes
	s.readBytes += o.readBytes
	s.writtenBytes += o.writtenBytes
	s.readTime += o.readTime
	s.writeTime += o.writeTime
}

// volumeKey tells ownerships of one volume apart: counters begin anew with each.
type volumeKey struct {
	id    block.VolumeID
	epoch block.Epoch
}
