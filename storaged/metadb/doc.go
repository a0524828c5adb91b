// Package metadb is the metadata of the block service as records in etcd: keys, typed values, guarded transactions and
// watches. The meta leader, every chunk and the tools use it; nobody else knows the keys.
//
// # Keys
//
// Under Prefix ("/iomesh/v1/"). Identities are UUIDs in text, except in the keys of extents, which are the bulk:
//
//	cluster                              ClusterRecord
//	leader                               LeaderRecord; its revision guards all mutations of the leader
//	chunk/<number>                       ChunkRecord; written once per start of the chunk's process
//	node/<name>                          NodeRecord
//	disk/<uuid>                          DiskRecord
//	volume/<uuid>                        VolumeRecord
//	name/<name>                          NameRecord
//	owner/<uuid>                         OwnerRecord; its revision guards all mutations of the owner
//	extent/<16 raw bytes><4 bytes index, big-endian>   ExtentRecord
//	grant/<uuid>/<initiator>             GrantRecord
//	snapshot/<uuid>                      SnapshotRecord
//	reservation/<uuid>                   ReservationRecord
//	tombstone/<uuid>                     TombstoneRecord
//
// A 3-way extent takes 38 bytes of key and at most 73 of value; docs/metadata.md has the sizes per TiB.
//
// # Guards
//
// Each record carries the etcd revision of its last change (field Revision; 0 = not stored). Every write compares it, and
// beside it the guard of the writer:
//
//   - The meta leader proves its leadership by the revision of the key leader (LeaderGuard): a deposed leader cannot act.
//   - The owner of a volume proves its ownership by the revision of owner/<uuid> (OwnerGuard): the key is written once per
//     epoch, so the revision stands for (volume, chunk, epoch). I2 and I11 rest on it.
//
// # Unknown outcomes
//
// A transaction whose answer is lost may have happened, and may yet happen: it can sit in the queue of a slow member. So
// a plain read does not settle it. Repeating the same change does: either it commits now, which the late one cannot do any
// more because the revision moved on; or it conflicts, and the current value tells. All writes but SetReservation recognise
// their own earlier success and report it as such, and most repeat themselves a few times. Until then the caller acknowledges nothing (I2).
//
// # Snapshots and views
//
// A new volume has SnapSeq 0, which every write carries. CommitSnapshot records a snapshot that holds the view s = the
// volume's SnapSeq, and raises the volume's SnapSeq to s+1: writes that carry at most s are in the snapshot.
//
// # Concurrency
//
// A DB is safe for concurrent use. Watches run one goroutine each, which ends when its context does, before its channel
// is closed. Returned records are the caller's.
package metadb
