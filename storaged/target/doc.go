// Package target is the iSCSI target of a chunk: one target (IQN) per volume, and in it one logical unit, number 1.
//
// The chunk gives it listeners, a Directory (who may log in where) and through that Volumes (what to read and write). It
// speaks RFC 7143 at error recovery level 0 with one connection per session, CRC32C digests and CHAP, and the SCSI of internal/scsi.
//
// # Logins
//
//	connection ─▶ login.Accept ─▶ Admit: Directory.Lookup, parked while there is no owner
//	                           ─▶ Establish: the session of the same nexus (initiator, ISID) ends first, with its commands (I14)
//	                           ─▶ session.run
//
// A passing state is never answered with a status 02xxh, which initiators take for final: the login is parked, and if that takes
// too long the connection is closed without an answer. A login in progress is in the books of the server, so that CloseSessions
// and CloseVolume reach it too (I16).
//
// # Sessions
//
// Each session has a reader, which decodes and submits commands, and a writer, which turns completed commands into PDUs, as many per system
// call as are there. Volumes complete commands from any goroutine. Commands of several steps (UNMAP, WRITE SAME, VERIFY with
// comparison, PERSISTENT RESERVE OUT, …) run in a goroutine each. In steady state reads and writes allocate nothing: tasks and
// buffers are pooled, lists are intrusive.
//
// Life of a command: see taskState. What matters for order (I14): a command that waits for memory or data can be dropped at once; one
// that was submitted is waited for. Task management, logout, session reinstatement, PREEMPT, CloseSessions and CloseVolume all rest on this.
// An aborted command is not answered.
//
// # Bounds
//
// Commands per session: the window (Options.QueueDepth), and as many again for immediate ones. Buffers: Options.SessionBytesMax per session and
// Options.TotalBytesMax in all, at least one command being let in per session; beyond it commands wait, and so does nobody else. Unsolicited data of
// waiting commands: 64 KiB (FirstBurstLength) each. PDUs of their own (pings, rejects): 128, then the reader waits. An initiator that
// takes no responses is dropped after Options.WriteTimeout, one that is silent after NOPInterval and NOPTimeout.
//
// # What survives
//
// Persistent reservations are stored through the Volume before they are answered, whether APTPL is set or not, since a move of the owner
// is no power loss. RESERVE (6), mode parameters and unit attentions belong to this process and end with it.
package target
