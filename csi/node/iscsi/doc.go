// Package iscsi attaches volumes by the host's kernel initiator: go-iscsi-helper runs the host's iscsiadm in the host's mount and
// network namespaces. The package is small on purpose; what it adds are checks around the library's traps:
//
//   - A command that timed out returns no error there. So nothing is believed that iscsiadm said: after each step the sysfs of the kernel
//     is read (session, its state and names, the device).
//   - Its GetDevice can return another volume's disk. So the device is looked up in sysfs below its own session, and its serial number
//     (VPD page 80h) has to be the volume's id before it is handed out.
//   - Its errors contain all arguments. So secrets are never arguments: the node record is made without them and then written as a
//     file, readable by root only.
//   - Its UpdateScsiDeviceTimeout runs a shell. sysfs is written instead.
//
// The initiator name is that of the node's grant, not the host's: a record of an interface of our own (ifaceName) carries it, so nothing
// of the host's configuration is changed.
//
// A device with holders (multipath claims every disk on some hosts) is refused with the reason and the remedy.
package iscsi
