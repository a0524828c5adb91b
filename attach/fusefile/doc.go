// Package fusefile serves one file, `vol`, in a FUSE mount of its own. Its content is a block device somewhere else
// ([Backend]); a loop device is put on top of it.
//
// What the kernel asks becomes:
//
//	read, write          ReadAt, WriteAt        any number at once, up to 1 MiB each
//	fsync, flush         Flush                  returns when earlier acknowledged writes are stable
//	fallocate 0x3        Unmap                  PUNCH_HOLE: the range reads as zeros afterwards
//	fallocate 0x10 0x11  WriteZeroes            ZERO_RANGE
//	getattr              size
//
// Errors: a Backend's error that wraps a syscall.Errno of ENOSPC, EROFS or EINVAL is passed on, every other one is EIO. The
// loop driver turns them into the block layer's status, so that a filesystem on top sees the difference.
//
// Caching: attributes are cached without limit. A change of size is announced to the kernel by [File.Resize]; and the inode
// number stays readable after this process has died, which is how a later one recognises the loop devices left behind.
//
// Goroutines: those of go-fuse, one per request in flight; they end with Unmount.
package fusefile
