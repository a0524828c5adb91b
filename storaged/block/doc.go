// Package block holds the words and numbers every part of the block service shares: identifiers, block and extent
// geometry, the Stamp that orders writes, and the seeded block checksum.
//
// Values here are plain comparable types without goroutines or state. All of them appear on disk and on the wire; their
// widths are part of those formats.
package block
