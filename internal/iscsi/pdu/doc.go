// Package pdu is the framing of iSCSI (RFC 7143 §11): basic header segments, digests and padding, read from and written to a
// byte stream. It knows fields, not meaning: sessions are in storaged/target and internal/iscsi/initiator.
//
// A PDU on the wire:
//
//	offset  bytes
//	     0     48  basic header segment (BHS): opcode, flags, lengths, LUN, tags, sequence numbers; big endian
//	    48    4*n  additional header segments, n = BHS[4]; read and ignored except for the digest
//	     .      4  header digest: CRC32C of the above, least significant byte first; if negotiated
//	     .      m  data segment, m = BHS[5:8], padded with zeros to a multiple of 4
//	     .      4  data digest: CRC32C of data and padding; if negotiated and m > 0
//
// Reader and Batch are used by one goroutine each and allocate nothing per PDU. Reader bounds every length before it reads.
package pdu
