// Package controller reconciles an IOMeshCluster: it observes, decides with the pure packages beside it (placement,
// devicemap, certs, desired, rollout, view) and acts.
//
// One pass, in this order, because each step needs what the ones before it made:
//
//	observe     nodes, devices, pods, volumes of state (cache); status of the metadata members (gRPC, every few seconds)
//	identity    Secret iomesh-ca with the cluster id, once; certificates; endpoints
//	members     where the metadata members are, for good; their volumes, StatefulSet
//	nodes       DaemonSets iomesh-node and iomesh-attach
//	devices     claims to write; disks to drain, then to release
//	chunks      one step of the rollout
//	budgets     what an eviction may take
//	status      always, whatever failed above
//
// A pass that fails is repeated; every step may be repeated at any time by this or another replica. Nothing that disrupts
// I/O is done on a guess: with the metadata members silent, serving chunks are not stopped and disks are not released.
//
// Deletion runs the steps backwards, see deletion.go.
package controller
