package chunk

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/iomesh/iomesh/internal/metrics"
	"github.com/iomesh/iomesh/storaged/target"
)

// chunkCollector reads a running chunk when it is scraped. Per owned volume 46 series: two histograms, their bytes, and the original's 17 less
// the sizes, which the metadata leader knows.
type chunkCollector struct {
	metrics.Descs
	s *Server

	volumeLatency, volumeBytes, volumeDepth              *prometheus.Desc
	stage                                                *prometheus.Desc
	sessions, connections, logins, refusedConnections    *prometheus.Desc
	refusedLogins, commands, digestErrors, dataBytes     *prometheus.Desc
	failed, fenced, badBlocks, owned                     *prometheus.Desc
	extents, resyncLeft, peersUnreachable, certificate   *prometheus.Desc
	diskCapacity, diskUsed, diskReclaimable, diskJournal *prometheus.Desc
	diskReplicas, diskOps, diskBytes, diskErrors         *prometheus.Desc
	diskUp, diskCache, diskJournalLatency                *prometheus.Desc

	old, oldVolume map[string]*prometheus.Desc
}

// Words of the original's metrics.
var (
	directions = []string{"read", "write", "readwrite"}
	oldIO      = []string{"iops", "speed_bps"}
)

func newChunkCollector(s *Server) *chunkCollector {
	c := &chunkCollector{s: s, old: map[string]*prometheus.Desc{}, oldVolume: map[string]*prometheus.Desc{}}
	c.volumeLatency = c.New("iomesh_volume_latency_seconds", "Time from a command's arrival at the owner to its answer.", "volume", "op")
	c.volumeBytes = c.New("iomesh_volume_bytes_total", "Bytes read from and written to a volume.", "volume", "op")
	c.volumeDepth = c.New("iomesh_volume_commands_in_flight", "Commands that were not answered yet.", "volume")
	c.stage = c.New("iomesh_chunk_stage_seconds", "Time of one step of I/O on this chunk: disk_write (of a replica, until durable), "+
		"disk_read (checksums verified), network (round trip to another chunk), takeover (from becoming owner until all extents serve).", "stage")
	c.sessions = c.New("iomesh_chunk_iscsi_sessions", "iSCSI sessions.")
	c.connections = c.New("iomesh_chunk_iscsi_connections", "iSCSI connections, also those not logged in.")
	c.logins = c.New("iomesh_chunk_iscsi_logins_waiting", "Logins under way, parked ones included.")
	c.refusedConnections = c.New("iomesh_chunk_iscsi_refused_connections_total", "Connections closed because a limit was reached.")
	c.refusedLogins = c.New("iomesh_chunk_iscsi_refused_logins_total", "Logins refused: no grant, wrong CHAP secret, no such target.")
	c.commands = c.New("iomesh_chunk_iscsi_commands_total", "SCSI commands answered.", "op")
	c.digestErrors = c.New("iomesh_chunk_iscsi_digest_errors_total", "PDUs with a wrong digest.")
	c.dataBytes = c.New("iomesh_chunk_iscsi_buffer_bytes", "Memory held for data of commands.")
	c.failed = c.New("iomesh_chunk_failed_commands_total", "Commands not carried out, by reason.", "reason")
	c.fenced = c.New("iomesh_chunk_fenced_writes_total", "Writes refused here because a higher epoch was accepted (a former owner's).")
	c.badBlocks = c.New("iomesh_chunk_bad_blocks_total", "Blocks found without a good copy in any replica.")
	c.owned = c.New("iomesh_chunk_owned_volumes", "Volumes owned by this chunk.")
	c.extents = c.New("iomesh_volume_extents", "Extents of a volume by state: serving with all replicas (in_sync), with fewer (degraded), not serving (unavailable).", "volume", "state")
	c.resyncLeft = c.New("iomesh_volume_resync_left_bytes", "Bytes known to be left to copy.", "volume")
	c.peersUnreachable = c.New("iomesh_chunk_peers_unreachable", "Chunks that cannot be reached over the storage network.")
	c.certificate = c.New("iomesh_certificate_expiry_timestamp_seconds", "When the certificate in use ends.")
	c.diskUp = c.New("iomesh_disk_up", "1 while the disk is in use, 0 once it failed.", "disk", "device")
	c.diskCapacity = c.New("iomesh_disk_capacity_bytes", "What the disk can hold.", "disk")
	c.diskUsed = c.New("iomesh_disk_used_bytes", "What replicas hold.", "disk")
	c.diskReclaimable = c.New("iomesh_disk_reclaimable_bytes", "What deleted layers hold until it is freed.", "disk")
	c.diskJournal = c.New("iomesh_disk_journal_used_bytes", "Part of the journal that is not checkpointed.", "disk")
	c.diskReplicas = c.New("iomesh_disk_replicas", "Replicas on the disk.", "disk")
	c.diskOps = c.New("iomesh_disk_operations_total", "Requests to the store.", "disk", "op")
	c.diskBytes = c.New("iomesh_disk_bytes_total", "Bytes of requests to the store; journal: bytes written to the journal.", "disk", "op")
	c.diskErrors = c.New("iomesh_disk_errors_total", "Errors of the disk: read, write, checksum (of data), metadata.", "disk", "kind")
	c.diskCache = c.New("iomesh_disk_map_cache_total", "Look-ups of map pages in memory.", "disk", "result")
	c.diskJournalLatency = c.New("iomesh_disk_journal_seconds", "Time of a write of the journal, until it was durable.", "disk")
	for _, d := range directions {
		for _, k := range oldIO {
			c.old[d+k] = c.New("zbs_chunk_"+d+"_"+k, "Of volumes owned by this chunk, over the last 10 s: "+d+" "+k+".")
			c.oldVolume[d+k] = c.New("zbs_volume_"+d+"_"+k, "Over the last 10 s: "+d+" "+k+".", "volume")
		}
		c.old[d+"lat"] = c.New("zbs_chunk_avg_"+d+"_latency_ns", "Mean over the last 10 s.")
		c.old[d+"size"] = c.New("zbs_chunk_avg_"+d+"_size_bytes", "Mean over the last 10 s.")
		c.oldVolume[d+"lat"] = c.New("zbs_volume_"+d+"_latency_ns", "Mean over the last 10 s.", "volume")
		c.oldVolume[d+"size"] = c.New("zbs_volume_"+d+"_size_bytes", "Mean over the last 10 s.", "volume")
	}
	c.oldVolume["iop30s"] = c.New("zbs_volume_readwrite_iop30s", "Operations in the last 30 s.", "volume")
	c.oldVolume["depth"] = c.New("zbs_volume_avg_iodepth", "Mean number of commands in flight over the last 10 s.", "volume")
	return c
}

// Collect implements prometheus.Collector.
func (c *chunkCollector) Collect(ch chan<- prometheus.Metric) {
	out := metrics.Sink(ch)
	c.volumes(out)
	c.iscsi(out)
	c.disks(out)
	m := c.s.metrics
	out.Histogram(c.stage, m.diskRead.Snapshot(), "disk_read")
	out.Histogram(c.stage, m.diskWrite.Snapshot(), "disk_write")
	out.Histogram(c.stage, m.roundTrip.Snapshot(), "network")
	out.Histogram(c.stage, m.takeover.Snapshot(), "takeover")
	for k, name := range resultNames {
		out.Counter(c.failed, float64(m.refused[k].Load()), name)
	}
	out.Counter(c.fenced, float64(m.fenced.Load()))
	out.Counter(c.badBlocks, float64(m.badBlocks.Load()))
	out.Gauge(c.peersUnreachable, float64(len(c.s.unreachable())))
	out.Gauge(c.certificate, float64(c.s.tls.NotAfter().Unix()))
}

func (c *chunkCollector) volumes(out metrics.Sink) {
	all := c.s.volumes.all()
	out.Gauge(c.owned, float64(len(all)))
	var sum rates
	for _, v := range all {
		id, k := v.id.String(), volumeKey{v.id, v.owner.Epoch}
		out.Histogram(c.volumeLatency, v.meter.read.Snapshot(), id, "read")
		out.Histogram(c.volumeLatency, v.meter.write.Snapshot(), id, "write")
		out.Counter(c.volumeBytes, float64(v.meter.readBytes.Load()), id, "read")
		out.Counter(c.volumeBytes, float64(v.meter.writtenBytes.Load()), id, "write")
		out.Gauge(c.volumeDepth, float64(v.meter.inFlight.Load()), id)
		st := v.report().GetStatus()
		out.Gauge(c.extents, float64(st.GetExtents()-st.GetExtentsDegraded()-st.GetExtentsUnavailable()), id, "in_sync")
		out.Gauge(c.extents, float64(st.GetExtentsDegraded()), id, "degraded")
		out.Gauge(c.extents, float64(st.GetExtentsUnavailable()), id, "unavailable")
		out.Gauge(c.resyncLeft, float64(st.GetResyncBytesLeft()), id)
		r := c.s.metrics.traffic.of(k, rateWindow)
		r.emit(out, c.oldVolume, id)
		sum.add(r.sample)
		sum.seconds = max(sum.seconds, r.seconds)
		last := c.s.metrics.traffic.of(k, opsWindow)
		out.Gauge(c.oldVolume["iop30s"], float64(last.reads+last.writes), id)
		// Little's law: what was in flight is the time spent in flight per time.
		out.Gauge(c.oldVolume["depth"], per((r.readTime+r.writeTime).Seconds(), r.seconds), id)
	}
	sum.emit(out, c.old)
}

// emit writes the original's rates, means and sizes.
func (r rates) emit(out metrics.Sink, d map[string]*prometheus.Desc, labels ...string) {
	for _, x := range []struct {
		dir   string
		ops   uint64
		bytes uint64
		nanos float64
	}{
		{"read", r.reads, r.readBytes, float64(r.readTime)},
		{"write", r.writes, r.writtenBytes, float64(r.writeTime)},
		{"readwrite", r.reads + r.writes, r.readBytes + r.writtenBytes, float64(r.readTime + r.writeTime)},
	} {
		out.Gauge(d[x.dir+"iops"], per(float64(x.ops), r.seconds), labels...)
		out.Gauge(d[x.dir+"speed_bps"], per(float64(x.bytes), r.seconds), labels...)
		out.Gauge(d[x.dir+"lat"], mean(x.nanos, x.ops), labels...)
		out.Gauge(d[x.dir+"size"], mean(float64(x.bytes), x.ops), labels...)
	}
}

func (c *chunkCollector) iscsi(out metrics.Sink) {
	t := c.s.target.Totals()
	out.Gauge(c.sessions, float64(t.Sessions))
	out.Gauge(c.connections, float64(t.Connections))
	out.Gauge(c.logins, float64(t.Logins))
	out.Counter(c.refusedConnections, float64(t.RefusedConnections))
	out.Counter(c.refusedLogins, float64(t.FailedLogins))
	out.Gauge(c.dataBytes, float64(t.DataBytes))
	// Summed over targets: volumes have their own series while they are owned here.
	var sum target.Counters
	for _, n := range t.PerTarget {
		sum.Reads += n.Reads
		sum.Writes += n.Writes
		sum.Others += n.Others
		sum.DigestErrors += n.DigestErrors
	}
	out.Counter(c.commands, float64(sum.Reads), "read")
	out.Counter(c.commands, float64(sum.Writes), "write")
	out.Counter(c.commands, float64(sum.Others), "other")
	out.Counter(c.digestErrors, float64(sum.DigestErrors))
}

func (c *chunkCollector) disks(out metrics.Sink) {
	for _, d := range c.s.disks.all() {
		st, id := d.store.Stats(), d.id.String()
		out.Gauge(c.diskUp, metrics.Flag(c.s.disks.failure(d) == nil), id, d.entry.Device)
		out.Gauge(c.diskCapacity, float64(st.CapacityBytes), id)
		out.Gauge(c.diskUsed, float64(st.UsedBytes), id)
		out.Gauge(c.diskReclaimable, float64(st.ReclaimableBytes), id)
		out.Gauge(c.diskJournal, float64(st.JournalUsedBytes), id)
		out.Gauge(c.diskReplicas, float64(st.Replicas), id)
		out.Counter(c.diskOps, float64(st.Reads), id, "read")
		out.Counter(c.diskOps, float64(st.Writes), id, "write")
		out.Counter(c.diskOps, float64(st.JournalBatches), id, "journal")
		out.Counter(c.diskBytes, float64(st.ReadBytes), id, "read")
		out.Counter(c.diskBytes, float64(st.WrittenBytes), id, "write")
		out.Counter(c.diskBytes, float64(st.JournalWrittenBytes), id, "journal")
		out.Counter(c.diskErrors, float64(st.ReadErrors), id, "read")
		out.Counter(c.diskErrors, float64(st.WriteErrors), id, "write")
		out.Counter(c.diskErrors, float64(st.ChecksumErrors), id, "checksum")
		out.Counter(c.diskErrors, float64(st.MetaErrors), id, "metadata")
		out.Counter(c.diskCache, float64(st.CacheHits), id, "hit")
		out.Counter(c.diskCache, float64(st.CacheMisses), id, "miss")
		out.Histogram(c.diskJournalLatency, d.store.Flushes().Snapshot(), id)
	}
}
