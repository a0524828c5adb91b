package main

// dashboard is one Grafana dashboard.
type dashboard struct {
	file, title, describes string
	vars                   []variable
	panels                 []panel
}

// variable is chosen by the user, from a label's values.
type variable struct{ name, metric, label string }

// panel shows one or more queries. empty says why there may be no data; "" means there always is in a cluster with a volume in use.
type panel struct {
	title, about, unit, kind string
	queries                  []query
	empty                    string
}

type query struct{ expr, legend string }

// Kinds of panels.
const (
	stat  = "stat"
	graph = "timeseries"
	list  = "table"
)

func one(expr string) []query { return []query{{expr, ""}} }

// quantiles of a histogram's rate, by some labels.
func quantiles(metric, match, by, legend string) []query {
	var out []query
	for _, q := range []string{"0.5", "0.99", "0.999"} {
		out = append(out, query{"histogram_quantile(" + q + ", sum by (le" + by + ") (rate(" + metric + "_bucket{" + match + "}[$__rate_interval])))", "p" + q[2:] + legend})
	}
	return out
}

var idle = "No command in the time shown: a quantile of nothing is nothing."

var dashboards = []dashboard{
	{file: "cluster", title: "IOMesh / Cluster", describes: "The whole at a glance.", panels: []panel{
		{"State", "OK, Degraded, At risk or Unavailable, as `kubectl iomesh status` says.", "none", stat, []query{{"iomesh_cluster_state == 1", "{{state}}"}}, ""},
		{"Findings", "What is not as it should be; each code has a runbook.", "none", list, []query{{"iomesh_finding", ""}}, "There is none in a healthy cluster."},
		{"Alerts", "Firing alerts of IOMesh.", "none", list, []query{{`ALERTS{alertname=~"IOMesh.*",alertstate="firing"}`, ""}}, "None fires in a healthy cluster."},
		{"Nodes online", "Storage nodes whose chunk reports.", "none", stat, one("sum(iomesh_node_up)"), ""},
		{"Metadata members healthy", "As the leader finds them.", "none", stat, one("sum(iomesh_meta_member_up)"), ""},
		{"Disks by state", "Of the pool.", "none", stat, []query{{"sum by (state) (iomesh_pool_disk_state)", "{{state}}"}}, ""},
		{"Volumes by state", "Judged by their replicas.", "none", stat, []query{{"iomesh_volumes", "{{state}}"}}, ""},
		{"Space used", "Part of the working disks that replicas hold.", "percentunit", stat, one("zbs_cluster_used_data_space_bytes / (zbs_cluster_valid_data_space_bytes > 0)"), ""},
		{"Space", "Raw: capacity, what works, what is used, what is promised to volumes.", "bytes", graph, []query{{"zbs_cluster_data_capacity_bytes", "capacity"}, {"zbs_cluster_valid_data_space_bytes", "works"}, {"zbs_cluster_used_data_space_bytes", "used"}, {"zbs_cluster_provisioned_data_space_bytes", "provisioned"}}, ""},
		{"Content", "One copy: live, and held by snapshots only.", "bytes", graph, []query{{"sum(iomesh_volume_live_bytes)", "live"}, {"sum(iomesh_volume_snapshot_bytes)", "snapshots"}, {"sum(iomesh_disk_reclaimable_bytes)", "being freed (raw)"}}, ""},
		{"Operations", "Commands per second of all volumes.", "iops", graph, []query{{"zbs_cluster_read_iops", "read"}, {"zbs_cluster_write_iops", "write"}}, ""},
		{"Throughput", "Bytes per second of all volumes.", "Bps", graph, []query{{"zbs_cluster_read_speed_bps", "read"}, {"zbs_cluster_write_speed_bps", "write"}}, ""},
		{"Latency", "From a command's arrival at the owner to its answer, all volumes.", "s", graph, quantiles("iomesh_volume_latency_seconds", "", ", op", " {{op}}"), idle},
		{"Nodes whose loss is not covered", "Their content would not fit into the others' free space.", "none", stat, one("zbs_cluster_chunks_unsafe_failure_space"), ""},
		{"Versions", "What runs where; more than one during an update.", "none", list, []query{{"count by (component, version) (iomesh_build_info)", ""}}, ""},
	}},
	{file: "node", title: "IOMesh / Node", describes: "One storage node.", vars: []variable{{"node", "iomesh_node_up", "node"}}, panels: []panel{
		{"Online", "1 while the metadata leader hears of it.", "none", stat, one(`iomesh_node_up{node=~"$node"}`), ""},
		{"Owned volumes", "Volumes whose I/O it orders.", "none", stat, one(`sum by (node) (iomesh_chunk_owned_volumes{node=~"$node"})`), ""},
		{"Sessions", "iSCSI sessions.", "none", stat, one(`sum by (node) (iomesh_chunk_iscsi_sessions{node=~"$node"})`), ""},
		{"Operations", "Of volumes it owns.", "iops", graph, []query{{`sum by (node) (zbs_chunk_read_iops{node=~"$node"})`, "{{node}} read"}, {`sum by (node) (zbs_chunk_write_iops{node=~"$node"})`, "{{node}} write"}}, ""},
		{"Throughput", "Of volumes it owns.", "Bps", graph, []query{{`sum by (node) (zbs_chunk_read_speed_bps{node=~"$node"})`, "{{node}} read"}, {`sum by (node) (zbs_chunk_write_speed_bps{node=~"$node"})`, "{{node}} write"}}, ""},
		{"Stages", "Where time goes, 99 of 100: disk writes until durable, disk reads, round trips to other chunks.", "s", graph, []query{{`histogram_quantile(0.99, sum by (le, stage, node) (rate(iomesh_chunk_stage_seconds_bucket{node=~"$node"}[$__rate_interval])))`, "{{node}} {{stage}}"}}, idle},
		{"Failed commands", "By reason.", "ops", graph, []query{{`sum by (node, reason) (rate(iomesh_chunk_failed_commands_total{node=~"$node"}[$__rate_interval]))`, "{{node}} {{reason}}"}}, ""},
		{"Fenced writes", "Of former owners, refused here.", "ops", graph, []query{{`sum by (node) (rate(iomesh_chunk_fenced_writes_total{node=~"$node"}[$__rate_interval]))`, "{{node}}"}}, ""},
		{"Unreachable peers", "Chunks it cannot reach on the storage network.", "none", graph, []query{{`iomesh_chunk_peers_unreachable{node=~"$node"}`, "{{node}}"}}, ""},
		{"Clock", "Its clock minus the metadata leader's.", "s", graph, []query{{`iomesh_node_clock_skew_seconds{node=~"$node"}`, "{{node}}"}}, ""},
		{"CPU", "Cores used by the chunk.", "none", graph, []query{{`rate(process_cpu_seconds_total{component="chunk"}[$__rate_interval])`, "{{instance}}"}}, ""},
		{"Memory", "Resident memory of the chunk.", "bytes", graph, []query{{`process_resident_memory_bytes{component="chunk"}`, "{{instance}}"}}, ""},
	}},
	{file: "disk", title: "IOMesh / Disk", describes: "Disks of the pool.", vars: []variable{{"node", "iomesh_node_up", "node"}}, panels: []panel{
		{"In use", "1 while the chunk uses the disk.", "none", list, one(`iomesh_disk_up{node=~"$node"}`), ""},
		{"Used", "Part of the disk that replicas hold.", "percentunit", graph, []query{{`iomesh_disk_used_bytes{node=~"$node"} / (iomesh_disk_capacity_bytes{node=~"$node"} > 0)`, "{{node}} {{disk}}"}}, ""},
		{"Operations", "Requests to the store.", "iops", graph, []query{{`sum by (node, disk, op) (rate(iomesh_disk_operations_total{node=~"$node"}[$__rate_interval]))`, "{{node}} {{disk}} {{op}}"}}, ""},
		{"Throughput", "Bytes of requests; journal: bytes written to it.", "Bps", graph, []query{{`sum by (node, disk, op) (rate(iomesh_disk_bytes_total{node=~"$node"}[$__rate_interval]))`, "{{node}} {{disk}} {{op}}"}}, ""},
		{"Journal writes", "Time until durable.", "s", graph, quantiles("iomesh_disk_journal_seconds", `node=~"$node"`, ", node, disk", " {{node}} {{disk}}"), idle},
		{"Journal fill", "Not yet checkpointed.", "bytes", graph, []query{{`iomesh_disk_journal_used_bytes{node=~"$node"}`, "{{node}} {{disk}}"}}, ""},
		{"Errors", "By kind; checksum errors are repaired from other replicas.", "none", graph, []query{{`sum by (node, disk, kind) (increase(iomesh_disk_errors_total{node=~"$node"}[$__rate_interval]))`, "{{node}} {{disk}} {{kind}}"}}, ""},
		{"Replicas", "On the disk.", "none", graph, []query{{`iomesh_disk_replicas{node=~"$node"}`, "{{node}} {{disk}}"}}, ""},
		{"Life left", "As the disk says (S.M.A.R.T.).", "percent", list, one("blockdevicemonitor_smart_lifespan_percentage"), "Only disks that tell, where the agent runs."},
		{"Map cache", "Look-ups of map pages answered from memory.", "percentunit", graph, []query{{`sum by (node, disk) (rate(iomesh_disk_map_cache_total{node=~"$node",result="hit"}[$__rate_interval])) / (sum by (node, disk) (rate(iomesh_disk_map_cache_total{node=~"$node"}[$__rate_interval])) > 0)`, "{{node}} {{disk}}"}}, idle},
	}},
	{file: "volume", title: "IOMesh / Volume", describes: "One volume.", vars: []variable{{"volume", "iomesh_volume_info", "volume"}}, panels: []panel{
		{"Name and owner", "The owner orders its I/O.", "none", list, one(`iomesh_volume_info{volume=~"$volume"}`), ""},
		{"State", "0 OK, 1 degraded, 2 at risk, 3 unavailable.", "none", stat, one(`iomesh_volume_state{volume=~"$volume"}`), ""},
		{"Extents", "By how many replicas they have in sync.", "none", graph, []query{{`sum by (volume, state) (iomesh_volume_extents{volume=~"$volume"})`, "{{state}}"}}, ""},
		{"Operations", "Commands per second.", "iops", graph, []query{{`sum by (op) (rate(iomesh_volume_latency_seconds_count{volume=~"$volume"}[$__rate_interval]))`, "{{op}}"}}, ""},
		{"Throughput", "Bytes per second.", "Bps", graph, []query{{`sum by (op) (rate(iomesh_volume_bytes_total{volume=~"$volume"}[$__rate_interval]))`, "{{op}}"}}, ""},
		{"Latency", "From arrival at the owner to the answer.", "s", graph, quantiles("iomesh_volume_latency_seconds", `volume=~"$volume"`, ", op", " {{op}}"), idle},
		{"In flight", "Commands not answered yet, mean of 10 s.", "none", graph, []query{{`zbs_volume_avg_iodepth{volume=~"$volume"}`, "mean"}}, ""},
		{"Space", "Size, live content, held by snapshots only; one copy.", "bytes", graph, []query{{`iomesh_volume_size_bytes{volume=~"$volume"}`, "size"}, {`iomesh_volume_live_bytes{volume=~"$volume"}`, "live"}, {`iomesh_volume_snapshot_bytes{volume=~"$volume"}`, "snapshots"}}, ""},
		{"Left to copy", "For replicas that are missing or behind.", "bytes", graph, []query{{`iomesh_volume_resync_left_bytes{volume=~"$volume"}`, "left"}}, ""},
		{"Sessions", "iSCSI sessions.", "none", graph, []query{{`iomesh_volume_sessions{volume=~"$volume"}`, "sessions"}}, ""},
	}},
	{file: "rebuild", title: "IOMesh / Rebuild and repair", describes: "Copies and repairs.", panels: []panel{
		{"Left to copy", "Known so far.", "bytes", graph, one("iomesh_resync_left_bytes"), ""},
		{"Speed", "Of copying.", "Bps", graph, []query{{"zbs_cluster_recover_speed_bps", "recover"}, {"zbs_cluster_migrate_speed_bps", "migrate"}}, ""},
		{"Time left", "At the present speed.", "s", stat, one("iomesh_resync_eta_seconds"), "Nothing is being copied."},
		{"Work", "Under way and waiting.", "none", graph, []query{{"iomesh_tasks", "{{kind}} {{state}}"}}, ""},
		{"Copied", "Bytes of resyncs and rebuilds, by owner.", "Bps", graph, []query{{"sum by (node) (rate(iomesh_chunk_resync_bytes_total[$__rate_interval]))", "{{node}}"}}, ""},
		{"Repairs", "Ranges of bad blocks rewritten from a good copy.", "none", graph, []query{{"sum by (instance) (increase(iomesh_chunk_repairs_total[$__rate_interval]))", "{{instance}}"}}, ""},
		{"Blocks without a good copy", "Reads of them fail until they are written.", "none", graph, []query{{"sum by (node) (increase(iomesh_chunk_bad_blocks_total[$__rate_interval]))", "{{node}}"}}, ""},
		{"Failovers", "Volumes given to another owner because theirs was dead.", "none", graph, []query{{"sum(increase(iomesh_meta_failovers_total[$__rate_interval]))", "volumes"}}, ""},
		{"Taking over", "From becoming owner until all extents serve.", "s", graph, quantiles("iomesh_chunk_stage_seconds", `stage="takeover"`, "", ""), "No volume changed its owner in the time shown."},
		{"Disks being drained", "Or drained and not removed yet.", "none", stat, one(`count(iomesh_pool_disk_state{state=~"Draining|Drained"}) or vector(0)`), ""},
	}},
	{file: "csi", title: "IOMesh / CSI", describes: "The CSI driver.", panels: []panel{
		{"Calls", "By method.", "ops", graph, []query{{"sum by (method) (rate(iomesh_csi_call_seconds_count[$__rate_interval]))", "{{method}}"}}, "The CSI driver is not part of a block service without Kubernetes."},
		{"Failing calls", "By method and code.", "ops", graph, []query{{`sum by (method, code) (rate(iomesh_csi_call_seconds_count{code!="OK"}[$__rate_interval]))`, "{{method}} {{code}}"}}, "The CSI driver is not part of a block service without Kubernetes."},
		{"Time of calls", "99 of 100.", "s", graph, []query{{"histogram_quantile(0.99, sum by (le, method) (rate(iomesh_csi_call_seconds_bucket[$__rate_interval])))", "{{method}}"}}, "The CSI driver is not part of a block service without Kubernetes."},
		{"Under way", "Calls not answered yet.", "none", graph, []query{{"sum by (method) (iomesh_csi_calls_in_flight)", "{{method}}"}}, "The CSI driver is not part of a block service without Kubernetes."},
		{"Conditions", "Of the cluster object.", "none", list, one("iomesh_operator_cluster_condition"), "The operator is not part of a block service without Kubernetes."},
		{"Devices", "Block devices by claim.", "none", stat, []query{{"iomesh_operator_devices", "{{state}}"}}, "The operator is not part of a block service without Kubernetes."},
	}},
	{file: "iscsi", title: "IOMesh / iSCSI", describes: "Sessions and logins.", panels: []panel{
		{"Sessions", "By node of the owner.", "none", graph, []query{{"iomesh_chunk_iscsi_sessions", "{{node}}"}}, ""},
		{"Logins waiting", "Parked until the volume has an owner included.", "none", graph, []query{{"iomesh_chunk_iscsi_logins_waiting", "{{node}}"}, {"iomesh_redirect_logins_waiting", "redirector {{instance}}"}}, ""},
		{"Refused logins", "No grant, wrong secret, no such target.", "none", graph, []query{{"increase(iomesh_chunk_iscsi_refused_logins_total[$__rate_interval])", "{{node}}"}, {"increase(iomesh_redirect_refused_logins_total[$__rate_interval])", "redirector {{instance}}"}}, ""},
		{"Refused connections", "A limit was reached.", "none", graph, []query{{"increase(iomesh_chunk_iscsi_refused_connections_total[$__rate_interval])", "{{node}}"}}, ""},
		{"Commands", "By kind.", "ops", graph, []query{{"sum by (op) (rate(iomesh_chunk_iscsi_commands_total[$__rate_interval]))", "{{op}}"}}, ""},
		{"Digest errors", "PDUs damaged on the way.", "none", graph, []query{{"increase(iomesh_chunk_iscsi_digest_errors_total[$__rate_interval])", "{{node}}"}}, ""},
		{"Buffers", "Memory held for data of commands.", "bytes", graph, []query{{"iomesh_chunk_iscsi_buffer_bytes", "{{node}}"}}, ""},
		{"Redirector's questions", "To the metadata members, by whether one answered.", "ops", graph, []query{{"sum by (result) (rate(iomesh_redirect_questions_total[$__rate_interval]))", "{{result}}"}}, ""},
	}},
}
