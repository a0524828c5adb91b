// Package metrics is what the daemons share to be watched by Prometheus: a registry with the process's own metrics and the build, an HTTP
// server for /metrics and /healthz, and small helpers for collectors that read state when they are scraped, so that nothing is counted twice and
// nothing in the path of an I/O knows Prometheus.
//
// Names: iomesh_<daemon>_<what>_<unit>; and the original's names (zbs_…), so that its dashboards and alerts go on (docs/metrics.md lists
// both). Cardinality is bounded by what exists: labels are volumes, disks, nodes and fixed words; never an initiator, an address, an error text.
package metrics
