// Package blockdev finds the block devices of a machine and what is known of each: identity, size, use.
//
// Everything comes from files: sysfs (/sys/class/block), the udev database where there is one, the mounts of the machine's first
// process, /proc/swaps, and the first and last bytes of the device itself (package signature). No command is run. The roots are
// configurable, so that tests scan recorded trees.
//
// # Identity
//
// Kernel names (sda, loop3) change between boots and identify nothing. A device is identified by what it says of itself:
//
//	disk       WWN, serial number, vendor, model
//	partition  identity of its disk, partition UUID, number
//	loop       name of the node, path of the backing file
//	others     none: the place on the bus stands in, which is good enough to list the device and never to use it
//
// The name of a BlockDevice object is "bd-" and a hash of the identity. Size is not part of the name (a virtual disk may grow) but
// part of the fingerprint that a claim records. sysfs goes before udev, so that the identity is the same whether or not udev runs.
//
// A Scanner may be used concurrently; a scan returns a snapshot that belongs to the caller.
package blockdev
