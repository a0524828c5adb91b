// Package floor is the least a replicated durable write can cost in Go on a machine: no iSCSI, no maps, no leases, no recovery.
//
// A client sends 4 KiB blocks over TCP to a primary. The primary puts each block into its own journal and forwards it to two replicas,
// processes of their own with a journal each. A journal commits a batch, whatever has come in during the last commit, with one
// O_DIRECT|O_DSYNC write. Each block's CRC32C is computed on arrival and stored. A write is acknowledged when all three journals have it.
//
// A frame is a header of 16 bytes (little-endian: identifier uint32, length uint32, block uint64) and length bytes of data; an
// acknowledgement is the identifier alone. Identifiers are below 1024, and one is not used again before its acknowledgement.
package floor

const (
	headerBytes = 16
	blockBytes  = 4096
	maxInFlight = 1024
)
