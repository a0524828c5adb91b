// Package story is the life of an IOMesh cluster, told and checked: install, map disks, volumes under load, the owner's node lost, the
// pod's own node lost, snapshot, restore, expansion. `make demo` shows it, the end-to-end tests assert it; it is the same code.
//
// Whoever acts in it writes numbered records (tests/verifier). What a pod said to have acknowledged was read from its log while it ran, so the
// check after each fault is: the row of records is unbroken and ends at that number or later.
package story
