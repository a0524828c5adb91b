// Package wire is the format of the replica traffic between chunks: frames (frame.go) and the encoding of the messages of
// package replication in them (message.go). Integers are little endian; all sizes are in bytes.
//
// # Frame
//
//	 0  u32  magic "IOM1"
//	 4  u8   type (1 = message)
//	 5  u8   flags, 0
//	 6  u16  feature level of the sender
//	 8  u32  length of the head, at most HeadMax
//	12  u32  length of the data, at most DataMax
//	16  8 B  0
//	24  u32  CRC32C of bytes [0, 24) and the head
//	28  u32  0
//	32       head, then data
//
// # Message (head of a frame of type 1)
//
//	  0  u8   kind                56  u32  epoch              96  u32  owner
//	  1  u8   status              60  u32  generation        100  u32  number of sums
//	  2  u16  flags               64  u32  snapshot sequence 104  u64  incarnation
//	  4  u32  session             68  u32  view              112  u64  chain
//	  8  u64  request             72  u32  first block       120  i64  sent
//	 16  16 B volume              76  u32  blocks            128  u32  runs   \
//	 32  16 B disk                80  u64  stamp             132  u32  marks   | numbers of
//	 48  u32  extent              88  u64  watermark         136  u32  targets | list entries
//	 52  u32  0                                              140  u32  volumes/
//	144       sums: u32 each
//	          runs: first block u32, blocks u32, stamp u64, label u32, state u8, 3 B 0      (24 each)
//	          marks: extent u32, disk 16 B, generation u32, watermark u64                   (32 each)
//	          targets: extent u32, disk 16 B                                                (20 each)
//	          volumes: volume 16 B, epoch u32                                               (20 each)
//
// The data of a frame is the message's Data. It is not covered by the frame's checksum: every block of it has its own sum, which
// the receiver verifies against the data before it is used (I8).
//
// Decoders accept any bytes without panic, allocate at most in proportion to the frame's length, and refuse lists longer than their bounds.
package wire
