package fusefile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Backend is the content of the file. All methods may be called at once from many goroutines; they return when the request is
// done at the backend. Offsets and lengths are multiples of SectorBytes and lie within the size.
type Backend interface {
	// ReadAt fills p from the offset.
	ReadAt(ctx context.Context, p []byte, offsetBytes int64) error
	// WriteAt writes p; it does not keep p.
	WriteAt(ctx context.Context, p []byte, offsetBytes int64) error
	// Flush returns when every write that was done before it is stable.
	Flush(ctx context.Context) error
	// Unmap frees a range. It reads as zeros afterwards.
	Unmap(ctx context.Context, offsetBytes, lengthBytes int64) error
	// WriteZeroes makes a range zero without freeing it.
	WriteZeroes(ctx context.Context, offsetBytes, lengthBytes int64) error
}

const (
	// SectorBytes is the unit of requests.
	SectorBytes = 512
	// BlockBytes is the unit in which backends free space.
	BlockBytes = 4096
	// Name is the name of the file in the mount.
	Name = "vol"

	// requestBytesMax is the longest read or write. The kernel's own limit is the same.
	requestBytesMax = 1 << 20
	// requestsMax is how many requests the kernel keeps outstanding: the depth of the loop device's queue, and some for flushes.
	requestsMax = 192
	// bufferBytesMax bounds the input buffers of one mount. Beyond it the kernel queues.
	bufferBytesMax = 64 << 20

	rootInode = fuse.FUSE_ROOT_ID
	fileInode = 2
	// forever is the lifetime of cached attributes and names.
	forever = 365 * 24 * time.Hour
)

// Options of Mount.
type Options struct {
	// Dir is an existing, empty directory to mount on.
	Dir string
	// Source is shown in the mount table.
	Source string
	// SizeBytes is the size of the file, a multiple of SectorBytes.
	SizeBytes int64
	// ReadOnly refuses writes with EROFS.
	ReadOnly bool
	Log      *slog.Logger
}

// File is a mounted file. Its methods are safe for concurrent use.
type File struct {
	fs     *filesystem
	server *fuse.Server
	dir    string
	done   chan struct{} // closed when the serving loop has ended
}

// Mount mounts the file and serves it until Unmount. Root only: the mount is made by mount(2), no helper is run.
func Mount(backend Backend, opts Options) (*File, error) {
	if opts.SizeBytes <= 0 || opts.SizeBytes%SectorBytes != 0 {
		return nil, fmt.Errorf("mount %s: size %d is not a positive multiple of %d", opts.Dir, opts.SizeBytes, SectorBytes)
	}
	ctx, cancel := context.WithCancel(context.Background())
	fs := &filesystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		backend:       backend,
		readOnly:      opts.ReadOnly,
		log:           opts.Log,
		ctx:           ctx,
		cancel:        cancel,
	}
	fs.size.Store(opts.SizeBytes)
	server, err := fuse.NewServer(fs, opts.Dir, &fuse.MountOptions{
		DirectMountStrict:       true,
		DirectMountFlags:        syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC,
		FsName:                  opts.Source,
		Name:                    "iomesh",
		MaxWrite:                requestBytesMax,
		MaxBackground:           requestsMax,
		CongestionThreshold:     requestsMax,
		MaxInflightRequestBytes: bufferBytesMax,
		// Without it the loop driver's asynchronous requests would be served one by one.
		ExtraCapabilities:    fuse.CAP_ASYNC_DIO,
		DisabledCapabilities: fuse.CAP_AUTO_INVAL_DATA,
		DisableXAttrs:        true,
		DisableSplice:        true,
		Logger:               slog.NewLogLogger(opts.Log.Handler(), slog.LevelWarn),
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("mount FUSE on %s (needs root and /dev/fuse): %w", opts.Dir, err)
	}
	f := &File{fs: fs, server: server, dir: opts.Dir, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		server.Serve()
	}()
	return f, nil
}

// Path is the path of the file.
func (f *File) Path() string { return f.dir + "/" + Name }

// Open opens the file with O_DIRECT. It is a plain descriptor outside Go's poller, which would have to ask our own server.
func (f *File) Open() (fd int, err error) {
	flags := unix.O_RDWR
	if f.fs.readOnly {
		flags = unix.O_RDONLY
	}
	for {
		fd, err = unix.Open(f.Path(), flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", f.Path(), err)
	}
	return fd, nil
}

// Resize sets the size and returns when the kernel has taken it over.
func (f *File) Resize(sizeBytes int64) error {
	if sizeBytes <= 0 || sizeBytes%SectorBytes != 0 {
		return fmt.Errorf("resize %s: size %d is not a positive multiple of %d", f.Path(), sizeBytes, SectorBytes)
	}
	f.fs.size.Store(sizeBytes)
	if st := f.server.InodeNotify(fileInode, 0, 0); !st.Ok() && st != fuse.ENOENT {
		return fmt.Errorf("announce size of %s: %w", f.Path(), syscall.Errno(st))
	}
	// Kernels before 6.14 take a loop device's size from the cached inode, which only a stat brings up to date.
	var st unix.Stat_t
	if err := unix.Stat(f.Path(), &st); err != nil {
		return fmt.Errorf("stat %s: %w", f.Path(), err)
	}
	if st.Size != sizeBytes {
		return fmt.Errorf("resize %s: the kernel still sees %d bytes instead of %d", f.Path(), st.Size, sizeBytes)
	}
	return nil
}

// SizeBytes returns the size of the file.
func (f *File) SizeBytes() int64 { return f.fs.size.Load() }

// Errors returns how many requests were answered with an error, and the last of these errors ("" if none).
func (f *File) Errors() (count uint64, last string) {
	f.fs.errMu.Lock()
	defer f.fs.errMu.Unlock()
	return f.fs.errCount, f.fs.errLast
}

// Done is closed when the file is no longer served: after Unmount, or when somebody else unmounted it.
func (f *File) Done() <-chan struct{} { return f.done }

// Abort cancels the requests in flight at the backend and makes later ones fail.
func (f *File) Abort() { f.fs.cancel() }

// Unmount removes the mount and waits until the last user of the file has gone, or ctx ends. It is idempotent. A directory that
// somebody works in is detached lazily: it vanishes with its last user, requests are then answered with errors.
func (f *File) Unmount(ctx context.Context) error {
	err := unix.Unmount(f.dir, 0)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(f.dir, unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", f.dir, err)
	}
	select {
	case <-f.done:
		f.fs.cancel()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("unmount %s: the file is still open in another process: %w", f.dir, ctx.Err())
	}
}

// filesystem answers the kernel. go-fuse calls it from one goroutine per request.
type filesystem struct {
	fuse.RawFileSystem
	backend  Backend
	readOnly bool
	log      *slog.Logger
	size     atomic.Int64

	// ctx ends with Abort or Unmount. The kernel's interrupts are ignored: a request of a loop device is never withdrawn, and
	// a write that was sent must be waited for, because it may be applied.
	ctx    context.Context
	cancel context.CancelFunc

	errMu    sync.Mutex
	errCount uint64
	errLast  string
}
