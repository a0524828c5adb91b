// Package loop makes block devices of files with the kernel's loop driver, by ioctl (no losetup).
//
// Loop devices belong to the whole machine, not to a container or mount namespace: another namespace's losetup, a stale
// number or a recycled minor must never be mistaken for ours. So a device is known by its backing file, that is by the
// (device, inode) pair that the kernel reports for it ([Backing]); names such as /dev/loop7 are only handed out.
//
// A device is made with LO_FLAGS_AUTOCLEAR and its descriptor kept open by [Device]: when the process dies, and nobody
// else has the device open, the kernel removes it. So a killed container or a powered-off node leaks nothing.
//
// All functions need root (CAP_SYS_ADMIN) and /dev/loop-control; [Supported] says what is missing.
package loop
