// Package signature recognises what is on a block device from its first and last bytes, and removes exactly that.
//
// It is the guard between a disk that holds somebody's data and a claim that would overwrite it. So it errs to one side: what
// looks like a superblock, partition table or RAID label is reported even where a mount would refuse it.
//
// Every kind is a row of a table (kinds.go): where its magic lies and how the label and UUID beside it are read. Offsets are in
// bytes from the start of the device, or from its end where negative. Nothing else of the device is read: about 600 KiB.
//
//	offset        who
//	0             xfs, LUKS, bluestore, squashfs, mdraid 1.1; boot sector: MBR, FAT, NTFS, exFAT
//	512, 4096     GPT header (by sector size), LVM2 label (sectors 0 to 3), stratis, mdraid 1.2, bcache, swap (end of page 0)
//	1024          ext2/3/4, f2fs, nilfs2
//	32768, 65536  iso9660, jfs, reiserfs, btrfs
//	128 KiB       zfs uberblocks (labels 0 and 1, then 2 and 3 at the end)
//	-8 KiB ...    mdraid 1.0 and 0.90, GPT backup header
//
// Kinds are named as libblkid names them (ext4, LVM2_member, linux_raid_member, crypto_LUKS; partition tables gpt and dos), because
// that is what people search for. What is neither blank nor known is [KindUnknown].
//
// All functions are pure over an io.ReaderAt and safe for concurrent use.
package signature
