// Package vdisk gives the store one face of a disk in three forms: Real, a block device or a written file, with O_DIRECT
// where the filesystem allows it; Sim, in memory, which forgets unflushed writes at a simulated power cut; and Faulty, which
// wraps either and makes it fail, lie, rot or stall on request.
package vdisk
