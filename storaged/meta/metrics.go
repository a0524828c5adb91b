package meta

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/metrics"
	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/storaged/block"
)

// metaCounters count over the life of the process.
type metaCounters struct {
	failovers   atomic.Uint64 // volumes given to another owner because theirs was dead
	leaderships atomic.Uint64
}

// metricsRegistry holds what a member serves: of itself always, of the whole while it leads, so that every fact about the cluster is there once.
func (s *server) metricsRegistry() prometheus.Gatherer {
	reg := metrics.NewRegistry("meta")
	prometheus.WrapRegistererWith(prometheus.Labels{"member": s.opts.Name}, reg).MustRegister(newMemberCollector(s))
	reg.MustRegister(newWholeCollector(s))
	return prometheus.Gatherers{reg, etcdMetrics{}}
}

// etcdMetrics are those of the embedded etcd that say how it is; it keeps them in the process's default registry, beside hundreds that do not.
type etcdMetrics struct{}

var etcdKept = []string{
	"etcd_server_has_leader", "etcd_server_is_leader", "etcd_server_leader_changes_seen_total", "etcd_server_proposals_failed_total", "etcd_server_proposals_pending",
	"etcd_server_slow_apply_total", "etcd_disk_wal_fsync_duration_seconds", "etcd_disk_backend_commit_duration_seconds", "etcd_network_peer_round_trip_time_seconds",
	"etcd_mvcc_db_total_size_in_bytes", "etcd_mvcc_db_total_size_in_use_in_bytes", "etcd_server_quota_backend_bytes",
}

// Gather implements prometheus.Gatherer.
func (etcdMetrics) Gather() ([]*dto.MetricFamily, error) {
	all, err := prometheus.DefaultGatherer.Gather()
	var out []*dto.MetricFamily
	for _, f := range all {
		for _, name := range etcdKept {
			if f.GetName() == name {
				out = append(out, f)
			}
		}
	}
	return out, err
}

// memberCollector is about this member.
type memberCollector struct {
	metrics.Descs
	s                                                                *server
	leader, up, db, used, quota, failovers, leaderships, certificate *prometheus.Desc
}

func newMemberCollector(s *server) *memberCollector {
	c := &memberCollector{s: s}
	c.leader = c.New("iomesh_meta_leader", "1 on the member that leads.")
	c.up = c.New("iomesh_meta_healthy", "1 while the member's etcd runs, sees a leader and has no alarm.")
	c.db = c.New("iomesh_meta_db_bytes", "Size of the member's database file.")
	c.used = c.New("iomesh_meta_db_used_bytes", "Part of the database file in use.")
	c.quota = c.New("iomesh_meta_db_quota_bytes", "Size at which the database takes no more writes.")
	c.failovers = c.New("iomesh_meta_failovers_total", "Volumes given to another owner by this member because theirs was dead.")
	c.leaderships = c.New("iomesh_meta_leaderships_total", "Times this member began to lead.")
	c.certificate = c.New("iomesh_certificate_expiry_timestamp_seconds", "When the certificate in use ends.")
	return c
}

// Collect implements prometheus.Collector.
func (c *memberCollector) Collect(ch chan<- prometheus.Metric) {
	out, d := metrics.Sink(ch), c.s.describe()
	out.Gauge(c.leader, metrics.Flag(c.s.lead.Load() != nil))
	out.Gauge(c.up, metrics.Flag(d.GetMemberId() != 0 && d.GetLeaderId() != 0 && d.GetMessage() == ""))
	out.Gauge(c.db, float64(d.GetDbBytes()))
	out.Gauge(c.used, float64(d.GetDbBytesInUse()))
	out.Gauge(c.quota, float64(c.s.opts.QuotaBytes))
	out.Counter(c.failovers, float64(c.s.counters.failovers.Load()))
	out.Counter(c.leaderships, float64(c.s.counters.leaderships.Load()))
	if c.s.tls != nil {
		out.Gauge(c.certificate, float64(c.s.tls.NotAfter().Unix()))
	}
}

// wholeCollector is about the cluster, on the leader only.
type wholeCollector struct {
	metrics.Descs
	s *server

	state, finding, volumes, tasks, resyncLeft, resyncRate, resyncETA, asOf                    *prometheus.Desc
	memberUp, nodeUp, nodeSkew, nodeMaintenance, nodeCertificate, diskState                    *prometheus.Desc
	volumeInfo, volumeState, volumeSize, volumeLive, volumeSnapshots, volumeSessions, unwanted *prometheus.Desc
	old                                                                                        map[string]*prometheus.Desc

	mu     sync.Mutex
	last   *storagedv1.ClusterStatus
	vols   []*storagedv1.Volume
	of     *leader
	lastAt time.Time
}

// oldSpace are the original's metrics of space, movement and cache, of the cluster and of each chunk.
var oldSpace = map[string]string{
	"data_capacity_bytes":          "Raw capacity of all disks that are not removed.",
	"used_data_space_bytes":        "What replicas hold.",
	"valid_data_space_bytes":       "Raw capacity of the disks that work.",
	"provisioned_data_space_bytes": "Size of volumes times their replicas.",
	"failure_data_space_bytes":     "Raw capacity of failed and missing disks.",
	"data_space_use_rate":          "max(provisioned, used) / valid.",
	"temporary_replica_num":        "Temporary replicas.",
	"pending_recover_bytes":        "Left to copy for replicas that are missing or behind.",
	"pending_migrate_bytes":        "Left to copy for drains.",
	"recover_speed_bps":            "Speed of copying for replicas that are missing or behind.",
	"migrate_speed_bps":            "Speed of copying for drains.",
	"recover_migrate_speed_bps":    "Speed of all copying.",
	"cache_capacity_bytes":         "Capacity of the cache; 0 on all-flash.",
	"used_cache_space_bytes":       "0 while there is no cache.",
	"valid_cache_space_bytes":      "0 while there is no cache.",
	"dirty_cache_space_bytes":      "0 while there is no cache.",
	"failure_cache_space_bytes":    "0 while there is no cache.",
	"dirty_cache_ratio":            "0 while there is no cache.",
}

func newWholeCollector(s *server) *wholeCollector {
	c := &wholeCollector{s: s, old: map[string]*prometheus.Desc{}}
	c.state = c.New("iomesh_cluster_state", "1 for the state the cluster is in, 0 for the others.", "state")
	c.finding = c.New("iomesh_finding", "1 for each thing that is not as it should be, or worth knowing (docs/runbooks).", "code", "state", "kind", "object")
	c.volumes = c.New("iomesh_volumes", "Volumes by state.", "state")
	c.tasks = c.New("iomesh_tasks", "Work under way.", "kind", "state")
	c.resyncLeft = c.New("iomesh_resync_left_bytes", "Known to be left to copy.")
	c.resyncRate = c.New("iomesh_resync_bytes_per_second", "Speed of copying.")
	c.resyncETA = c.New("iomesh_resync_eta_seconds", "What is left at the present speed; absent while nothing is copied.")
	c.asOf = c.New("iomesh_cluster_facts_timestamp_seconds", "When what is told here was known.")
	c.memberUp = c.New("iomesh_meta_member_up", "1 while the leader finds the member healthy.", "member")
	c.nodeUp = c.New("iomesh_node_up", "1 while the node's chunk reports.", "node")
	c.nodeSkew = c.New("iomesh_node_clock_skew_seconds", "The node's clock minus the leader's.", "node")
	c.nodeMaintenance = c.New("iomesh_node_maintenance", "1 while the node is in maintenance.", "node")
	c.nodeCertificate = c.New("iomesh_node_certificate_expiry_timestamp_seconds", "When the certificate of the node's chunk ends.", "node")
	c.diskState = c.New("iomesh_pool_disk_state", "1 for the state of each disk of the pool.", "disk", "name", "node", "state")
	c.volumeInfo = c.New("iomesh_volume_info", "1; the labels join a volume's id with its name and owner.", "volume", "name", "owner")
	c.volumeState = c.New("iomesh_volume_state", "0 OK, 1 degraded, 2 at risk, 3 unavailable.", "volume")
	c.volumeSize = c.New("iomesh_volume_size_bytes", "Size of the volume.", "volume")
	c.volumeLive = c.New("iomesh_volume_live_bytes", "Space of the live content, one copy.", "volume")
	c.volumeSnapshots = c.New("iomesh_volume_snapshot_bytes", "Space only snapshots hold, one copy.", "volume")
	c.volumeSessions = c.New("iomesh_volume_sessions", "iSCSI sessions.", "volume")
	c.unwanted = c.New("zbs_cluster_chunks_unsafe_failure_space", "Nodes whose loss could not be made good in the space of the others.")
	for name, help := range oldSpace {
		c.old["cluster_"+name] = c.New("zbs_cluster_"+name, help)
		c.old["chunk_"+name] = c.New("zbs_chunk_"+name, help, "chunk", "node")
	}
	for _, name := range []string{"logical_size_bytes", "unique_logical_size_bytes", "shared_logical_size_bytes"} {
		c.old["cluster_"+name] = c.New("zbs_cluster_"+name, "Content of all volumes, one copy: live and held by snapshots only (unique: not shared with a clone; shared: the rest).")
		c.old["volume_"+name] = c.New("zbs_volume_"+name, "Content, one copy: live and held by snapshots only (unique: not shared with a clone; shared: the rest).", "volume")
	}
	c.old["use_state"] = c.New("zbs_chunk_use_state", "1 in use, 2 being drained, 3 without a disk.", "chunk", "node")
	c.old["connect_status"] = c.New("zbs_chunk_connect_status", "2 connected, 3 not.", "chunk", "node")
	c.old["maintenance_mode"] = c.New("zbs_chunk_maintenance_mode", "1 while the node is in maintenance.", "chunk", "node")
	return c
}

// scrapeCache is how long an answer serves several scrapes: judging tens of thousands of volumes takes a while.
const scrapeCache = 2 * time.Second

func (c *wholeCollector) present(l *leader) (*storagedv1.ClusterStatus, []*storagedv1.Volume) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of != l || time.Since(c.lastAt) > scrapeCache {
		c.last, c.vols = l.status()
		c.of, c.lastAt = l, time.Now()
	}
	return c.last, c.vols
}

// Collect implements prometheus.Collector.
func (c *wholeCollector) Collect(ch chan<- prometheus.Metric) {
	l := c.s.lead.Load()
	if l == nil {
		return
	}
	out := metrics.Sink(ch)
	st, vols := c.present(l)
	now, _ := status.Of(st.GetHealth())
	for _, s := range status.States() {
		out.Gauge(c.state, metrics.Flag(s == now), s.Word())
	}
	type key struct{ code, kind, object string }
	said := map[key]bool{}
	for _, f := range st.GetFindings() {
		s, _ := status.Of(f.GetState())
		if k := (key{f.GetCode(), f.GetObjectKind(), f.GetObject()}); !said[k] {
			said[k] = true
			out.Gauge(c.finding, 1, f.GetCode(), s.Word(), f.GetObjectKind(), f.GetObject())
		}
	}
	out.Gauge(c.asOf, float64(st.GetAsOf().AsTime().UnixMilli())/1000)
	out.Gauge(c.resyncLeft, float64(st.GetResyncBytesLeft()))
	out.Gauge(c.resyncRate, float64(st.GetResyncBytesPerSecond()))
	if r := st.GetResyncBytesPerSecond(); r > 0 {
		out.Gauge(c.resyncETA, float64(st.GetResyncBytesLeft())/float64(r))
	}
	tasks := map[[2]string]int{}
	for _, kind := range []string{"resync", "rebuild", "drain", "move", "collect"} {
		tasks[[2]string{kind, "Running"}] = 0
	}
	for _, t := range st.GetTasks() {
		tasks[[2]string{t.GetKind(), t.GetState()}]++
	}
	for k, n := range tasks {
		out.Gauge(c.tasks, float64(n), k[0], k[1])
	}
	for _, m := range st.GetMeta() {
		out.Gauge(c.memberUp, metrics.Flag(m.GetHealthy()), m.GetName())
	}
	for _, n := range st.GetNodes() {
		out.Gauge(c.nodeUp, metrics.Flag(n.GetState() == "Online"), n.GetName())
		out.Gauge(c.nodeSkew, time.Duration(n.GetClockSkewNanoseconds()).Seconds(), n.GetName())
		out.Gauge(c.nodeMaintenance, metrics.Flag(n.GetMode() == "maintenance"), n.GetName())
		if n.GetCertificateExpires() != nil {
			out.Gauge(c.nodeCertificate, float64(n.GetCertificateExpires().AsTime().Unix()), n.GetName())
		}
	}
	for _, d := range st.GetDisks() {
		out.Gauge(c.diskState, 1, d.GetId(), d.GetName(), d.GetNode(), d.GetState())
	}
	c.volumeMetrics(out, vols)
	c.space(out, l, st, vols)
}

func (c *wholeCollector) volumeMetrics(out metrics.Sink, vols []*storagedv1.Volume) {
	byState := map[status.State]int{}
	shared := map[string]bool{} // volumes that have clones or are one
	for _, v := range vols {
		if v.GetSourceVolumeId() != "" || v.GetSourceSnapshotId() != "" {
			shared[v.GetId()], shared[v.GetSourceVolumeId()] = true, true
		}
	}
	var sum [3]float64
	for _, v := range vols {
		s, _ := status.Of(v.GetStatus().GetHealth())
		byState[s]++
		id, st := v.GetId(), v.GetStatus()
		out.Gauge(c.volumeInfo, 1, id, v.GetName(), v.GetOwnerNode())
		out.Gauge(c.volumeState, float64(s), id)
		out.Gauge(c.volumeSize, float64(v.GetSizeBytes()), id)
		out.Gauge(c.volumeLive, float64(st.GetAllocatedBytes()), id)
		out.Gauge(c.volumeSnapshots, float64(st.GetSnapshotBytes()), id)
		out.Gauge(c.volumeSessions, float64(st.GetSessions()), id)
		logical := float64(st.GetAllocatedBytes() + st.GetSnapshotBytes())
		unique, common := logical, 0.0
		if shared[id] {
			// How much of it the clones still share is not counted: all of it may be.
			unique, common = 0, logical
		}
		for i, x := range []float64{logical, unique, common} {
			sum[i] += x
		}
		out.Gauge(c.old["volume_logical_size_bytes"], logical, id)
		out.Gauge(c.old["volume_unique_logical_size_bytes"], unique, id)
		out.Gauge(c.old["volume_shared_logical_size_bytes"], common, id)
	}
	for _, s := range status.States() {
		out.Gauge(c.volumes, float64(byState[s]), s.Word())
	}
	out.Gauge(c.old["cluster_logical_size_bytes"], sum[0])
	out.Gauge(c.old["cluster_unique_logical_size_bytes"], sum[1])
	out.Gauge(c.old["cluster_shared_logical_size_bytes"], sum[2])
}

// room is the space and the copying of the whole or of one chunk.
type room struct {
	capacity, used, valid, provisioned, failed, disks, draining float64
	temporary, recover, migrate, recoverRate, migrateRate       float64
}

func (c *wholeCollector) space(out metrics.Sink, l *leader, st *storagedv1.ClusterStatus, vols []*storagedv1.Volume) {
	var whole room
	per := map[uint32]*room{}
	for _, n := range st.GetNodes() {
		per[n.GetChunk()] = &room{}
	}
	draining := map[uint32]bool{}
	for _, d := range st.GetDisks() {
		r := per[d.GetChunk()]
		if r == nil || d.GetState() == "Removed" {
			continue
		}
		for _, x := range []*room{&whole, r} {
			x.capacity += float64(d.GetSizeBytes())
			x.used += float64(d.GetUsedBytes())
			x.disks++
			switch d.GetState() {
			case diskStateFailed, diskStateMissing:
				x.failed += float64(d.GetSizeBytes())
			default:
				x.valid += float64(d.GetSizeBytes())
			}
			if d.GetState() == "Draining" || d.GetState() == diskStateDrained {
				x.draining++
				draining[d.GetChunk()] = true
			}
		}
	}
	deltas := map[block.ChunkID]int{}
	l.view(func(s *state) {
		for id, u := range s.usage {
			if r := per[uint32(s.disks[id].Chunk)]; r != nil {
				r.provisioned += float64(u.thinBytes + u.thickBytes)
				whole.provisioned += float64(u.thinBytes + u.thickBytes)
			}
		}
		for _, extents := range s.extents {
			for i := range extents {
				for _, m := range extents[i].Members {
					if m.Kind != 0 {
						deltas[m.Chunk]++
					}
				}
			}
		}
	})
	for id, n := range deltas {
		if r := per[uint32(id)]; r != nil {
			r.temporary += float64(n)
			whole.temporary += float64(n)
		}
	}
	moving := len(draining) > 0
	for _, v := range vols {
		left := float64(v.GetStatus().GetResyncBytesLeft())
		s, _ := status.Of(v.GetStatus().GetHealth())
		for _, x := range []*room{&whole, per[v.GetOwnerChunk()]} {
			if x == nil {
				continue
			}
			// A volume that has all its replicas copies because a disk is being emptied.
			if moving && s == status.OK {
				x.migrate += left
			} else {
				x.recover += left
			}
		}
	}
	rate := float64(st.GetResyncBytesPerSecond())
	if all := whole.recover + whole.migrate; all > 0 {
		whole.recoverRate, whole.migrateRate = rate*whole.recover/all, rate*whole.migrate/all
		for _, r := range per {
			r.recoverRate, r.migrateRate = rate*r.recover/all, rate*r.migrate/all
		}
	}
	whole.emit(out, c.old, "cluster_")
	out.Gauge(c.unwanted, float64(status.UnsafeNodes(status.FactsOf(st, nil, st.GetAsOf().AsTime()).Nodes, status.FactsOf(st, nil, st.GetAsOf().AsTime()).Disks)))
	for _, n := range st.GetNodes() {
		r := per[n.GetChunk()]
		labels := []string{strconv.Itoa(int(n.GetChunk())), n.GetName()}
		r.emit(out, c.old, "chunk_", labels...)
		connect, use := 3.0, 1.0
		if n.GetState() == "Online" {
			connect = 2
		}
		switch {
		case r.disks == 0:
			use = 3
		case r.draining > 0:
			use = 2
		}
		out.Gauge(c.old["connect_status"], connect, labels...)
		out.Gauge(c.old["use_state"], use, labels...)
		out.Gauge(c.old["maintenance_mode"], metrics.Flag(n.GetMode() == "maintenance"), labels...)
	}
}

func (r *room) emit(out metrics.Sink, d map[string]*prometheus.Desc, scope string, labels ...string) {
	rate := 0.0
	if r.valid > 0 {
		rate = max(r.provisioned, r.used) / r.valid
	}
	for name, v := range map[string]float64{
		"data_capacity_bytes": r.capacity, "used_data_space_bytes": r.used, "valid_data_space_bytes": r.valid, "provisioned_data_space_bytes": r.provisioned,
		"failure_data_space_bytes": r.failed, "data_space_use_rate": rate, "temporary_replica_num": r.temporary,
		"pending_recover_bytes": r.recover, "pending_migrate_bytes": r.migrate, "recover_speed_bps": r.recoverRate, "migrate_speed_bps": r.migrateRate,
		"recover_migrate_speed_bps": r.recoverRate + r.migrateRate,
	} {
		out.Gauge(d[scope+name], v, labels...)
	}
	for name := range oldSpace {
		if strings.Contains(name, "cache") {
			out.Gauge(d[scope+name], 0, labels...)
		}
	}
}

// healthy is the answer of /healthz: the process lives and its etcd runs or is being started.
func (s *server) healthy() error {
	if e := s.etcd.Load(); e != nil && s.describe().GetLeaderId() == 0 {
		return fmt.Errorf("member %s sees no leader", s.opts.Name)
	}
	return nil
}
