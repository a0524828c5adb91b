// Package chunk is the data server of a node: the shell around the pure machines of package replication. It joins them with
// the disks (package store), the other chunks (package peer), the iSCSI target (package target) and the metadata (package metadb).
//
//	initiators ── target ──▶ volume (Owner) ──┬── own call ──▶ replicaShell (Replica) ──▶ store
//	                            ▲  │          └── peer ──────▶ other chunks' replicaShells
//	                            │  └ set changes, snapshots ──▶ metadb
//	                            └ promises ── leases (Lease) ◀── heartbeats of peers
//
// # Locks
//
// Each machine has a mutex of its own: one per owned volume, one per volume with replicas here, one for the leases. A machine is
// called under its lock; what it wants done (effects) is done after the lock is released, so that no lock is held across another
// machine, a queue or a system call, and no two locks of machines are ever held together. The leases alone perform their effects in
// strict order.
//
// A volume's requests pass its turns first, which have a mutex too: it is released before a machine is called. See crowd for the one word that volumes
// share.
//
// # Goroutines
//
// On the hot path none is of this package: the connection's reader in target or peer calls the machine and queues messages and
// journal records; the store's journal goroutine and the peers' readers bring the answers. Reads are done by a fixed set of readers
// per disk. Beside these: the ticker, the follower of the disk directory, one watcher each of owners, chunks and peers, and per volume one
// that follows its record. All end before Run returns.
//
// # Memory
//
// Data lies in reference-counted buffers of one pool. A write's buffer is referenced by the command, by each message that waits for a
// socket, and by the local store operation; a read's by the answer until the target has sent it.
package chunk
