// Package meta is the meta member of the block service: an embedded etcd member that holds the metadata, the control
// interface (gRPC: Volumes, Cluster, Membership), and, beside the raft leader, the meta leader.
//
// # Members and the leader
//
// 1, 3 or 5 members; a static list names them all. The first of the list founds the cluster, the others join as learners
// and are promoted when they have caught up. A member whose data directory was lost joins in the same way: its former self is
// removed first, never resumed (member.go). The process beside etcd's raft leader leads: it writes the key "leader", whose
// revision guards every mutation it makes, so that a deposed leader cannot act. Every member serves every call: the leader
// answers, the others forward (route.go); Locate is answered from the local mirror.
//
// # What is where
//
//	etcd      records (package metadb): the truth, written by the leader, and by owners for their volumes
//	mirror    all records in memory, kept by a watch, on every member
//	registry  what chunks report over their heartbeat streams: the leader's only, begins empty with it
//
// Decisions are pure functions of mirror and registry: chooseOwner, moveTarget, planFailover, placer, planExtent,
// volumeStatus, clusterStatus. Duties are loops that make the present equal to the records, so each goes on where an earlier
// leader was interrupted; nothing waits in memory alone.
//
// # Duties of the leader
//
//	failoverLoop  volumes of dead or restarted chunks get another owner and the next epoch, in batches
//	moveLoop      volumes move next to the initiator of their exclusive grant, and off nodes in maintenance
//	diskLoop      disks that chunks report are recorded; failed and rolled-back ones are marked
//	repairLoop    extents get back to their replica factor; drained disks empty
//	sweepLoop     unfinished and deleted volumes, snapshots, views, tombstones, orphaned replicas
//	healthLoop    the other members' health, for status
//
// # What a chunk must do
//
// Register, with a boot id that is new for each process, then keep one Heartbeat stream at the leader open and send a report
// each timeouts.Heartbeat. A stream begins with a full report: only then is the chunk present, that is, gets volumes. Owner records
// with a revision below RegisterResponse.revision belong to the process before: the leader raises their epoch at once.
// Replicas being copied to are reported in VolumeReport.status.extent_status with kind "joining", among the members or the absent. CloseSessions and a login check the grants anew.
//
// # Goroutines
//
// Run owns all: the gRPC server, the mirror's watch, the election loop, the upkeep of etcd, and, while leading, one per duty. All
// have ended when it returns.
package meta
