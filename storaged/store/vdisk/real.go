package vdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Real is a block device, a partition or a file. It bypasses the page cache where the filesystem allows it and otherwise
// (tmpfs) writes through it with fdatasync.
type Real struct {
	path        string
	file, dsync *os.File
	sizeBytes   int64
	direct      bool
	device      bool
	noDiscard   atomic.Bool
	bounce      sync.Pool
	asyncOnce   sync.Once
	async       *requests
}

const bounceBytes = 1 << 20

// Open opens a device or file for reading and writing. The size is that of the device, or of the file rounded down to pages. A block device is
// claimed: it fails with EBUSY if it is mounted, part of something, or claimed by another process, and nobody else can claim it meanwhile.
func Open(path string) (*Real, error) { return openReal(path, os.O_RDWR) }

// OpenReadOnly opens a device or file; writes fail.
func OpenReadOnly(path string) (*Real, error) { return openReal(path, os.O_RDONLY) }

func openReal(path string, mode int) (*Real, error) {
	r := &Real{path: path, direct: true}
	r.bounce.New = func() any { b := Aligned(bounceBytes); return &b }
	claim := 0
	if st, err := os.Stat(path); err == nil && mode == os.O_RDWR && st.Mode()&os.ModeDevice != 0 {
		claim = unix.O_EXCL // the second descriptor below goes without: a claim is one descriptor's
	}
	f, err := os.OpenFile(path, mode|unix.O_DIRECT|unix.O_CLOEXEC|claim, 0)
	if errors.Is(err, unix.EINVAL) {
		r.direct = false
		f, err = os.OpenFile(path, mode|unix.O_CLOEXEC|claim, 0)
	}
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("open disk: %w: it is mounted or used by something else; see lsblk %s", err, path)
	}
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	r.file = f
	if err := r.measure(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open disk %s: %w", path, err)
	}
	if mode == os.O_RDWR {
		flags := mode | unix.O_CLOEXEC | unix.O_DSYNC
		if r.direct {
			flags |= unix.O_DIRECT
		}
		if r.dsync, err = os.OpenFile(path, flags, 0); err != nil {
			f.Close()
			return nil, fmt.Errorf("open disk for synchronous writes: %w", err)
		}
	}
	return r, nil
}

func (r *Real) measure() error {
	st, err := r.file.Stat()
	if err != nil {
		return err
	}
	switch {
	case st.Mode().IsRegular():
		r.sizeBytes = st.Size()
	case st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0:
		r.device = true
		var n uint64
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, r.file.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); e != 0 {
			return fmt.Errorf("size of the device: %w", e)
		}
		r.sizeBytes = int64(n)
	default:
		return fmt.Errorf("is neither a block device nor a regular file")
	}
	r.sizeBytes &^= PageSize - 1
	return nil
}

func (r *Real) check(p []byte, off int64) error {
	if off < 0 || off%PageSize != 0 || len(p)%PageSize != 0 || off+int64(len(p)) > r.sizeBytes {
		return fmt.Errorf("request of %d bytes at %d is not whole pages within the %d bytes of %s", len(p), off, r.sizeBytes, r.path)
	}
	return nil
}

// each calls do on p, or on aligned copies of its pieces where direct I/O needs them.
func (r *Real) each(p []byte, off int64, in bool, do func([]byte, int64) error) error {
	if err := r.check(p, off); err != nil {
		return err
	}
	if !r.direct || IsAligned(p) {
		return do(p, off)
	}
	b := r.bounce.Get().(*[]byte)
	defer r.bounce.Put(b)
	for len(p) > 0 {
		n := min(len(p), bounceBytes)
		if !in {
			copy((*b)[:n], p[:n])
		}
		if err := do((*b)[:n], off); err != nil {
			return err
		}
		if in {
			copy(p[:n], (*b)[:n])
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// ReadAt implements Disk.
func (r *Real) ReadAt(p []byte, off int64) error {
	if r.parks(p) {
		return r.async.one(p, off, waitRead)
	}
	if err := r.each(p, off, true, r.pread); err != nil {
		return fmt.Errorf("read %d bytes at %d of %s: %w", len(p), off, r.path, err)
	}
	return nil
}

// parks says that a request is done asynchronously, so that its goroutine waits in the scheduler and not in a system call. See Async.
func (r *Real) parks(p []byte) bool {
	return r.async != nil && r.dsync != nil && len(p) >= parkMin && IsAligned(p)
}

// parkMin is the length from which requests of a goroutine that waits are done asynchronously.
const parkMin = 4 << 10

func (r *Real) pread(p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pread(int(r.file.Fd()), p, off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// WriteAt implements Disk.
func (r *Real) WriteAt(p []byte, off int64) error {
	if r.parks(p) {
		return r.async.one(p, off, waitWrite)
	}
	if err := r.each(p, off, false, r.pwrite); err != nil {
		return fmt.Errorf("write %d bytes at %d of %s: %w", len(p), off, r.path, err)
	}
	return nil
}

// WriteDurable implements Disk.
func (r *Real) WriteDurable(p []byte, off int64) error {
	if r.parks(p) {
		return r.async.one(p, off, waitDurable)
	}
	if err := r.each(p, off, false, r.pwriteSync); err != nil {
		return fmt.Errorf("synchronous write of %d bytes at %d of %s: %w", len(p), off, r.path, err)
	}
	return nil
}

func (r *Real) pwrite(p []byte, off int64) error     { return pwrite(r.file, p, off) }
func (r *Real) pwriteSync(p []byte, off int64) error { return pwrite(r.dsync, p, off) }

func pwrite(f *os.File, p []byte, off int64) error {
	if f == nil {
		return unix.EBADF
	}
	for len(p) > 0 {
		n, err := unix.Pwrite(int(f.Fd()), p, off)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ENOSPC || err == unix.EDQUOT:
			return fmt.Errorf("%w: %w", ErrNoSpace, err)
		case err != nil:
			return err
		case n == 0:
			return io.ErrShortWrite
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Flush implements Disk.
func (r *Real) Flush() error {
	if r.async != nil && r.dsync != nil {
		if err := r.async.one(nil, 0, waitFlush); !errors.Is(err, unix.EINVAL) {
			return err
		}
		// A kernel or a filesystem that cannot flush asynchronously.
	}
	for {
		switch err := unix.Fdatasync(int(r.file.Fd())); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("flush %s: %w", r.path, err)
		}
	}
}

// Discard implements Disk. Files keep their blocks: a hole would cost a metadata commit at the next write.
func (r *Real) Discard(off, n int64) error {
	if !r.device || r.noDiscard.Load() || n == 0 {
		return nil
	}
	arg := [2]uint64{uint64(off), uint64(n)}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, r.file.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&arg)))
	if e == unix.EOPNOTSUPP || e == unix.ENOTTY || e == unix.EINVAL {
		r.noDiscard.Store(true)
		return nil
	}
	if e != 0 {
		return fmt.Errorf("discard %d bytes at %d of %s: %w", n, off, r.path, e)
	}
	return nil
}

// SizeBytes implements Disk.
func (r *Real) SizeBytes() int64 { return r.sizeBytes }

// Direct implements Disk.
func (r *Real) Direct() bool { return r.direct }

func (r *Real) String() string { return r.path }

// Close implements Disk.
func (r *Real) Close() error {
	if r.async != nil {
		r.async.close()
	}
	err := r.file.Close()
	if r.dsync != nil {
		err = errors.Join(err, r.dsync.Close())
	}
	return err
}

// Prewrite makes path a file of sizeBytes whose every block is written, not only allocated: on a file with unwritten
// extents each synchronous write also commits filesystem metadata, at half the speed. A file that already has the size is
// left as it is. progress may be nil. An unfinished file is removed.
func Prewrite(ctx context.Context, path string, sizeBytes int64, progress func(doneBytes, totalBytes int64)) (err error) {
	if st, err := os.Stat(path); err == nil && st.Size() == sizeBytes {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create disk file: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(path)
		}
	}()
	// A failure here (filesystems without fallocate) costs contiguity, nothing else; lack of space is found early.
	if e := unix.Fallocate(int(f.Fd()), 0, 0, sizeBytes); e == unix.ENOSPC {
		return fmt.Errorf("allocate %d bytes for %s: %w", sizeBytes, path, e)
	}
	if d, e := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0); e == nil {
		f.Close()
		f = d
	}
	buf := Aligned(4 << 20)
	for off := int64(0); off < sizeBytes; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("write disk file %s: %w", path, err)
		}
		n := min(int64(len(buf)), sizeBytes-off)
		if err := pwrite(f, buf[:n], off); err != nil {
			return fmt.Errorf("write disk file %s: %w", path, err)
		}
		off += n
		if progress != nil {
			progress(off, sizeBytes)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flush disk file %s: %w", path, err)
	}
	return f.Close()
}
