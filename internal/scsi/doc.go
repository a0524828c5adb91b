// Package scsi is the SCSI of a block device with thin provisioning and persistent reservations, as pure functions and values:
// SPC-4 (r37), SBC-3 (r35) with WRITE ATOMIC of SBC-4, SAM-5. It decodes commands, encodes what a logical unit answers, and keeps
// the state machine of reservations. It moves no data, and holds no clock, goroutine, socket or file.
//
//	CDB bytes ──Decode──▶ Request (verb, range, flags) or Sense
//	Unit ──Inquiry, ReadCapacity, ModeSense, …──▶ parameter data
//	Reservations.Apply(nexus, action) ──▶ new Reservations and what it did to others
//
// The logical block is 512 bytes, the physical block 4096 (512e). Everything decoded from an initiator is bounded and can only
// cause a Sense.
package scsi
