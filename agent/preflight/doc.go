// Package preflight examines a machine before and while it serves storage: each check has a status, the evidence it rests on, and the fix.
//
// Checks read files of the machine and ask the kernel; the only thing written is a small file below the state directory, to time its
// flushes, and it is removed. A check that cannot find out says so (Unknown) and never guesses. Findings come in a fixed order.
package preflight
