// Package rollout decides the next step with the chunk pods: which to create, which to delete, and why it waits.
//
// It is pure. One call gives at most one disruptive step; the caller performs it and looks again.
//
//	pod is …                                   step
//	missing, node ready to take it             create
//	missing, node cordoned                     none: kubectl drain has moved it away, and it comes back with kubectl uncordon
//	failed or succeeded (evicted by kubelet)   delete, then create
//	of a node that is no storage node          delete, once its disks are released
//	outdated and not serving                   delete at once: nothing is lost, and a rollback must be able to pass
//	outdated and serving                       one node at a time, only while every volume has all its replicas:
//
//	   maintenance mode ──▶ delete pod ──▶ create ──▶ chunk online again ──▶ active mode ──▶ next node
//	   (owners move away)
//
// A paused update begins with no further node; the one under way is finished, so that none is left in maintenance mode.
//
// The node that is being updated stands in status.updatingNode before its first step, so that another operator, or this one
// after a restart, goes on where it stopped.
package rollout
