// Package fsops makes, mounts, checks and grows filesystems on the devices of volumes.
//
// # Formatting never destroys data
//
// A device is formatted only if it is blank: blkid knows nothing on it, and its first and last 64 KiB can be read and are
// zero. A read error is an error, not "blank" (blkid says the same for both). What is not blank and not the wanted filesystem is
// refused with what was found.
//
// A format that was cut off must be repeatable, or a node that dies at the wrong moment would leave a volume nobody can use:
// mkfs.ext* writes the superblock last, so the ends stay zero until it is done; mkfs.xfs marks an unfinished superblock
// (sb_inprogress); and the caller remembers a format it began on this node (Request.Interrupted).
//
// # Options
//
// 4 KiB blocks and sectors always, as the volumes have them beneath; no discard while formatting, because a blank thin volume has nothing
// to free. ext*: errors=remount-ro, so that an I/O error stops the writers instead of spreading. xfs: nouuid, or a volume
// and its clone could not be mounted on one node.
//
// # Growing
//
// xfs grows mounted. ext3 and ext4 grow mounted where the kernel allows it to us (CAP_SYS_RESOURCE), and ext* before mounting
// everywhere: Mount does so when the device is larger than the filesystem.
package fsops
