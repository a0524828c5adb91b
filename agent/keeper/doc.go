// Package keeper carries out claims: it prepares a device for the cluster that claims it, tells the chunk of it through the disk
// directory, and takes it back when the claim has gone.
//
// # Steps
//
// For each claim there is a record in <state>/claims/<name>.json, replaced durably before the step that it announces. After a kill at any
// point the next round continues from it.
//
//	         identity, content verified          erased, blank verified             entry written: the chunk may use it
//	(none) ───────────────────────────▶ Preparing ─────────────────────▶ Prepared ◀──┐
//	   ▲                                                                    │ └──────┘ each round: path, status
//	   │ nothing of ours on the device any more                             │ claim removed
//	   ├──────────── Retained ◀── policy Retain ──┐                         ▼
//	   └──────────── Erased   ◀── policy Delete ──┴──────────────────── Releasing: entry removed, chunk has let go
//
// # What is never done
//
//   - Nothing is written to a device unless it is open exclusively (so nobody has it mounted) and its identity was read again while it was
//     open: between scan and write the kernel may have given its name to another disk.
//   - Nothing is erased that the claim did not name: the content's fingerprint at the first look, each signature at every later look.
//   - A device that has been handed to the chunk (Prepared) is never erased again under the same claim, whatever happens to the object, the
//     entry or the status. Should the record be lost too, a superblock of the claiming cluster protects the data.
//   - The disappearance of a claim counts only in the object in which the claim was acted on. A BlockDevice that was deleted and published
//     anew has no claim, and that means nothing: the disk stays in use until the operator has claimed it again.
//   - Erased: once the record says so the device is not touched again; it may belong to somebody else by then.
//
// A Keeper is used by one goroutine.
package keeper
