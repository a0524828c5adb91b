// Package desired builds every object that a cluster consists of, as a pure function of Input: the wish and the few facts it
// is applied to (identity, addresses, nodes). No clock, no randomness, no client; equal inputs give equal objects.
//
//	object                                  file          remarks
//	ConfigMap iomesh-endpoints              endpoints.go  what clients need: addresses of meta, cluster id
//	PersistentVolume, one per meta member   meta.go       pins ordinal, node and host path; claimed in advance
//	StatefulSet iomesh-meta                 meta.go       host network; starts all at once; addresses are static, so DNS is not needed
//	Pod iomesh-chunk-<node>                 chunk.go      owned by the operator itself; see package rollout for its updates
//	DaemonSet iomesh-node                   node.go       agent, csi, redirect
//	DaemonSet iomesh-attach                 attach.go     never restarted by an update (OnDelete): it carries the nodes' volumes
//	PodDisruptionBudgets                    budgets.go    computed from redundancy
//
// Ports, paths and flags are those of docs/architecture.md; they stand in ports.go and in the file of the daemon.
//
// All pods are in the host network and use IP addresses only. Containers that open host devices or mount for other pods are
// privileged and say why in the annotation iomesh.com/privileged-because; all others drop every capability and have a
// read-only root.
package desired
