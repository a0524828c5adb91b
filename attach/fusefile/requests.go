package fusefile

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func (fs *filesystem) String() string { return "iomesh" }

func (fs *filesystem) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if header.NodeId != rootInode || name != Name {
		return fuse.ENOENT
	}
	out.NodeId = fileInode
	out.Generation = 1
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	fs.attr(fileInode, &out.Attr)
	return fuse.OK
}

func (fs *filesystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(forever)
	if !fs.attr(in.NodeId, &out.Attr) {
		return fuse.ENOENT
	}
	return fuse.OK
}

func (fs *filesystem) attr(inode uint64, out *fuse.Attr) bool {
	switch inode {
	case rootInode:
		*out = fuse.Attr{Ino: rootInode, Mode: syscall.S_IFDIR | 0o500, Nlink: 2, Blksize: BlockBytes}
	case fileInode:
		size := uint64(fs.size.Load())
		mode := uint32(syscall.S_IFREG | 0o600)
		if fs.readOnly {
			mode = syscall.S_IFREG | 0o400
		}
		*out = fuse.Attr{Ino: fileInode, Mode: mode, Nlink: 1, Size: size, Blocks: size / SectorBytes, Blksize: BlockBytes}
	default:
		return false
	}
	return true
}

func (fs *filesystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.NodeId != rootInode {
		return fuse.ENOTDIR
	}
	return fuse.OK
}

func (fs *filesystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if in.Offset == 0 {
		out.AddDirEntry(fuse.DirEntry{Name: Name, Mode: syscall.S_IFREG, Ino: fileInode, Off: 1})
	}
	return fuse.OK
}

func (fs *filesystem) ReadDirPlus(<-chan struct{}, *fuse.ReadIn, *fuse.DirEntryList) fuse.Status {
	return fuse.ENOSYS
}

func (fs *filesystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize = BlockBytes
	out.Frsize = BlockBytes
	out.Blocks = uint64(fs.size.Load()) / BlockBytes
	out.NameLen = uint32(len(Name))
	return fuse.OK
}

func (fs *filesystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId != fileInode {
		return fuse.EISDIR
	}
	if fs.readOnly && in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.EROFS
	}
	// The loop driver's descriptor bypasses the cache by O_DIRECT.
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	return fuse.OK
}

func (fs *filesystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	offset, size := int64(in.Offset), fs.size.Load()
	if offset < 0 || offset%SectorBytes != 0 {
		return nil, fuse.EINVAL
	}
	if offset >= size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	buf = buf[:min(int64(len(buf)), int64(in.Size), size-offset)]
	if len(buf)%SectorBytes != 0 {
		return nil, fuse.EINVAL
	}
	if err := fs.backend.ReadAt(fs.ctx, buf, offset); err != nil {
		return nil, fs.failed("read", offset, int64(len(buf)), err)
	}
	return fuse.ReadResultData(buf), fuse.OK
}

func (fs *filesystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	offset, length := int64(in.Offset), int64(len(data))
	if st := fs.changeable(offset, length); !st.Ok() {
		return 0, st
	}
	if length == 0 {
		return 0, fuse.OK
	}
	if err := fs.backend.WriteAt(fs.ctx, data, offset); err != nil {
		return 0, fs.failed("write", offset, length, err)
	}
	return uint32(length), fuse.OK
}

// changeable checks a range that is to be written. The file never grows by writing.
func (fs *filesystem) changeable(offset, length int64) fuse.Status {
	size := fs.size.Load()
	switch {
	case fs.readOnly:
		return fuse.EROFS
	case offset < 0 || length < 0 || offset%SectorBytes != 0 || length%SectorBytes != 0:
		return fuse.EINVAL
	case offset > size || length > size-offset:
		return fuse.Status(syscall.ENOSPC)
	}
	return fuse.OK
}

func (fs *filesystem) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	return fuse.OK // close(2) promises no durability; fsync does
}

func (fs *filesystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if fs.readOnly {
		return fuse.OK
	}
	if err := fs.backend.Flush(fs.ctx); err != nil {
		return fs.failed("flush", 0, 0, err)
	}
	return fuse.OK
}

func (fs *filesystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	offset, length := int64(in.Offset), int64(in.Length)
	if st := fs.changeable(offset, length); !st.Ok() {
		return st
	}
	var err error
	switch in.Mode {
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		err = fs.punch(offset, length)
	case unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
		err = fs.backend.WriteZeroes(fs.ctx, offset, length)
	default:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	if err != nil {
		return fs.failed("deallocate", offset, length, err)
	}
	return fuse.OK
}

// punch frees the whole blocks of a range and zeroes the rest: the loop driver sends "write zeroes" as a hole too, so nothing
// of it may keep its old content.
func (fs *filesystem) punch(offset, length int64) error {
	lo := (offset + BlockBytes - 1) / BlockBytes * BlockBytes
	hi := (offset + length) / BlockBytes * BlockBytes
	if lo >= hi {
		return fs.backend.WriteZeroes(fs.ctx, offset, length)
	}
	if lo > offset {
		if err := fs.backend.WriteZeroes(fs.ctx, offset, lo-offset); err != nil {
			return err
		}
	}
	if err := fs.backend.Unmap(fs.ctx, lo, hi-lo); err != nil {
		return err
	}
	if end := offset + length; end > hi {
		return fs.backend.WriteZeroes(fs.ctx, hi, end-hi)
	}
	return nil
}

// failed records an error and gives the errno for it.
func (fs *filesystem) failed(op string, offset, length int64, err error) fuse.Status {
	errno := errnoOf(err)
	text := fmt.Sprintf("%s [%d, %d): %v", op, offset, offset+length, err)
	fs.errMu.Lock()
	fs.errCount++
	first := fs.errLast == ""
	fs.errLast = text
	fs.errMu.Unlock()
	if first {
		// Only the first: a dead target would fill the log. The count and the last one are in the attachment's status.
		fs.log.Warn("request failed", "error", text, "errno", errno)
	}
	return fuse.Status(errno)
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.ENOSPC, syscall.EROFS, syscall.EINVAL, syscall.EOPNOTSUPP:
			return errno
		}
	}
	return syscall.EIO
}
