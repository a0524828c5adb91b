package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned by Detach while a mount or another process holds the device.
var ErrInUse = errors.New("device is in use")

// LogicalBlockBytes is the sector size of every device made here: 512e, as on every attach path, so that a filesystem
// made on one host is usable on another.
const LogicalBlockBytes = 512

// attachAttempts bounds the retries when another process takes the free device that the kernel offered.
const attachAttempts = 64

// Backing is the identity of a backing file as the kernel knows it.
type Backing struct {
	Device uint64 // st_dev of the file
	Inode  uint64 // st_ino of the file
}

// BackingOf returns the identity of an open file.
func BackingOf(fd int) (Backing, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Backing{}, fmt.Errorf("stat backing file: %w", err)
	}
	return Backing{Device: st.Dev, Inode: st.Ino}, nil
}

// Device is a loop device that this process made and holds open. Not for concurrent use.
type Device struct {
	// Path is the device node, /dev/loopN.
	Path string
	// Backing is the identity of the file beneath.
	Backing Backing

	fd int
}

// Config says how a device is made.
type Config struct {
	// FD is the backing file, open with O_DIRECT and for writing unless ReadOnly. The kernel takes a reference of its own.
	FD int
	// Name is shown by losetup -l; at most 63 bytes are kept.
	Name string
	// ReadOnly makes a device that refuses writes.
	ReadOnly bool
}

// Supported returns nil if this process can make loop devices, else what is missing.
func Supported() error {
	fd, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/loop-control (needs root and the loop driver, CONFIG_BLK_DEV_LOOP): %w", err)
	}
	return unix.Close(fd)
}

// Attach makes a device over a file, with direct I/O: the page cache between device and file is left out, and a flush of the
// device becomes an fsync of the file. A kernel that refuses direct I/O is an error, because a second cache would make a
// volume shared by two nodes incoherent.
func Attach(cfg Config) (*Device, error) {
	backing, err := BackingOf(cfg.FD)
	if err != nil {
		return nil, err
	}
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer unix.Close(control)

	for range attachAttempts {
		number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("ask the kernel for a free loop device: %w", err)
		}
		d, err := configure(cfg, number, backing)
		if errors.Is(err, unix.EBUSY) {
			continue // taken by another process between the two calls
		}
		return d, err
	}
	return nil, fmt.Errorf("no free loop device after %d attempts: other processes are taking them", attachAttempts)
}

func configure(cfg Config, number int, backing Backing) (*Device, error) {
	path, err := node(number)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	lc := unix.LoopConfig{Fd: uint32(cfg.FD), Size: LogicalBlockBytes}
	lc.Info.Flags = unix.LO_FLAGS_DIRECT_IO | unix.LO_FLAGS_AUTOCLEAR
	if cfg.ReadOnly {
		lc.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(lc.Info.File_name[:len(lc.Info.File_name)-1], cfg.Name)
	if err := unix.IoctlLoopConfigure(fd, &lc); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("configure %s: %w", path, err)
	}
	d := &Device{Path: path, Backing: backing, fd: fd}
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("read back %s: %w", path, err)
	}
	if info.Flags&unix.LO_FLAGS_DIRECT_IO == 0 {
		d.Close()
		return nil, fmt.Errorf("%s: this kernel refuses direct I/O on the backing file; use the kernel's iSCSI initiator on this node", path)
	}
	return d, nil
}

// node returns the device node of a number and makes it if /dev is not kept by devtmpfs.
func node(number int) (string, error) {
	path := "/dev/loop" + strconv.Itoa(number)
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if err == nil {
		if st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(st.Rdev) != loopMajor || unix.Minor(st.Rdev) != uint32(number) {
			return "", fmt.Errorf("%s is not the loop device %d:%d", path, loopMajor, number)
		}
		return path, nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(number)))); err != nil && !errors.Is(err, unix.EEXIST) {
		return "", fmt.Errorf("make device node %s: %w", path, err)
	}
	return path, nil
}

const loopMajor = 7

// Number returns major and minor of the device node.
func (d *Device) Number() (major, minor uint32, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", d.Path, err)
	}
	return unix.Major(st.Rdev), unix.Minor(st.Rdev), nil
}

// SizeBytes returns the size of the device as its users see it.
func (d *Device) SizeBytes() (uint64, error) {
	end, err := unix.Seek(d.fd, 0, unix.SEEK_END)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", d.Path, err)
	}
	return uint64(end), nil
}

// Refresh takes the size of the backing file over to the device. The caller has made the kernel see the new size of the file.
func (d *Device) Refresh() error {
	if _, err := unix.IoctlRetInt(d.fd, unix.LOOP_SET_CAPACITY); err != nil {
		return fmt.Errorf("set capacity of %s: %w", d.Path, err)
	}
	return nil
}

// Sync writes what the device's own page cache holds (of processes that used it without O_DIRECT) and flushes.
func (d *Device) Sync() error {
	if err := unix.Fsync(d.fd); err != nil {
		return fmt.Errorf("flush %s: %w", d.Path, err)
	}
	return nil
}

// Close gives up the descriptor. Without other users the kernel removes the device.
func (d *Device) Close() error {
	if d.fd < 0 {
		return nil
	}
	fd := d.fd
	d.fd = -1
	return unix.Close(fd)
}

// Claimed returns ErrInUse if a filesystem, device-mapper or another exclusive user holds the device, in whatever mount namespace.
func (d *Device) Claimed() error { return claimed(d.Path) }

func claimed(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s is mounted or claimed: %w", path, ErrInUse)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return unix.Close(fd)
}

// Remove takes the file away from the device and waits until it is free. A device that others hold open stays until the last of
// them closes it: ErrInUse, if that takes longer than ctx. Device is closed in either case; call [Release] to go on waiting.
func (d *Device) Remove(ctx context.Context) error {
	if d.fd >= 0 {
		_, err := unix.IoctlRetInt(d.fd, unix.LOOP_CLR_FD)
		if err != nil && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("clear %s: %w", d.Path, err)
		}
		d.Close()
	}
	return waitFree(ctx, d.Path, d.Backing)
}

// Release asks the kernel to remove the device at path if, and only if, its backing file is the given one, and waits like Remove.
func Release(ctx context.Context, path string, want Backing) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	got, bound, err := status(fd)
	if err != nil || !bound || got != want {
		unix.Close(fd)
		return err
	}
	_, err = unix.IoctlRetInt(fd, unix.LOOP_CLR_FD)
	unix.Close(fd)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("clear %s: %w", path, err)
	}
	return waitFree(ctx, path, want)
}

// waitFree polls, because the kernel tells nobody when the last user of a device has gone.
func waitFree(ctx context.Context, path string, want Backing) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		got, bound, err := identify(path)
		if err != nil {
			return err
		}
		if !bound || got != want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is still open in another process: %w", path, ErrInUse)
		case <-tick.C:
		}
	}
}

func identify(path string) (Backing, bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) {
		return Backing{}, false, nil
	}
	if err != nil {
		return Backing{}, false, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	return status(fd)
}

func status(fd int) (Backing, bool, error) {
	info, err := unix.IoctlLoopGetStatus64(fd)
	if errors.Is(err, unix.ENXIO) {
		return Backing{}, false, nil
	}
	if err != nil {
		// The call stats the backing file. On a FUSE file whose server has gone that works only while the kernel has the inode
		// number cached, which package fusefile arranges for.
		return Backing{}, true, fmt.Errorf("read loop status: %w", err)
	}
	return Backing{Device: info.Device, Inode: info.Inode}, true, nil
}

// Find returns the device nodes that stand on the backing file, in any namespace.
func Find(want Backing) ([]string, error) {
	dirs, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	var found []string
	for _, dir := range dirs {
		path := filepath.Join("/dev", filepath.Base(filepath.Dir(dir)))
		got, bound, err := identify(path)
		if err != nil || !bound {
			continue // not readable here, or freed meanwhile: not ours to judge
		}
		if got == want {
			found = append(found, path)
		}
	}
	return found, nil
}

// BackingPath returns the path the kernel shows for the device's file, as seen from the namespace it was opened in, or "" if
// the device is free.
func BackingPath(path string) string {
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(path), "loop/backing_file"))
	if err != nil || len(b) == 0 {
		return ""
	}
	return string(b[:len(b)-1])
}
