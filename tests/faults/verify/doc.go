// Package verify is a load on a logical unit whose every block can be judged: what a block holds names the volume, the block, and
// the number of the write, under a checksum, and a History remembers for each block what was begun, acknowledged and seen.
//
// # What is checked
//
// Each block is a register with one writer at a time, whose values are numbered 1, 2, 3 … (0 is never written). A read that began when
// write a was the newest acknowledged, or value s was the newest any finished read had returned, and that ended when write b was the newest begun, must
// return a value of [max(a, s), b]. So these show: an acknowledged write that is lost, a read of stale data, two reads that disagree
// (I5), a block of another volume or place, a torn or rotten block, a value never written, zeros where data was.
// An unmap is a write of the value zero; it has a number as well.
//
// A write that was answered with an error counts as begun for good: it may show or not, but once it has shown it must stay.
//
// The History lives in the memory of the test, which no fault touches.
package verify
