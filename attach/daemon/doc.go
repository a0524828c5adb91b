// Package daemon is the userspace attacher: it turns a LUN, reached by an initiator in this process, into a block device of
// the node. For hosts whose kernel has no iSCSI initiator, or where it cannot be used.
//
//	pod ─ filesystem ─ /dev/loopN ─ FUSE file vol ─ this process ─ iSCSI session ─ owner of the volume
//
// Life of a volume:
//
//	          Attach                       Detach: nobody claims the device
//	(none) ───────────▶ attached ─────────────────────────────────────────▶ (none)
//	                       │  ▲  device still open elsewhere                    ▲
//	                       │  └──────────────── detaching ──────────────────────┘ last user closes, Detach again
//	                       └ this process dies ─▶ broken ───────────────────────┘ last user closes; reported by List
//
// What lies in the state directory (on /run, gone after a boot):
//
//	<volume>/           mount point of the FUSE file
//	<volume>.json       [record]: written before anything is made, removed after everything is gone; holds no secret
//
// A device whose process has died fails every request at once. It cannot be healed: its users have to close it. Recover, called at
// start, clears what nobody uses, unmounts the dead FUSE mounts lazily, and keeps the rest listed as broken. So the daemon runs in
// a DaemonSet with the OnDelete strategy, apart from the CSI plugin that may be replaced at any time.
//
// Everything here is bounded: requests in flight and buffers per volume (package fusefile), one call per volume at a time.
package daemon
