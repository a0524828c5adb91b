package fsops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"

	"github.com/iomesh/iomesh/csi/code"
)

// Ops works on filesystems with the tools of the container (mkfs.*, fsck, resize2fs, xfs_growfs, mount).
type Ops struct {
	mounter *mount.SafeFormatAndMount
	log     *slog.Logger
}

// New makes an Ops.
func New(log *slog.Logger) *Ops {
	return &Ops{mounter: mount.NewSafeFormatAndMount(mount.NewWithoutSystemd(""), utilexec.New()), log: log}
}

// Request says what Mount makes of a device.
type Request struct {
	Device string
	Target string // existing directory
	FSType string
	Flags  []string
	// ReadOnly: the device refuses writes. No journal is replayed then.
	ReadOnly bool
	// Interrupted: an earlier format of this device on this node did not come to its end.
	Interrupted bool
	// Formatting is called before the first byte is written to a blank device.
	Formatting func() error
}

var formatOptions = map[string][]string{
	"ext2": {"-F", "-q", "-b", "4096", "-E", "nodiscard"},
	"ext3": {"-q", "-b", "4096", "-E", "nodiscard"},
	"ext4": {"-q", "-b", "4096", "-E", "nodiscard"},
	"xfs":  {"-q", "-K", "-s", "size=4096"},
}

// Mount formats a blank device, checks and grows the filesystem of another one, and mounts it.
func (o *Ops) Mount(ctx context.Context, r Request) error {
	found, err := o.mounter.GetDiskFormat(r.Device)
	if err != nil {
		return code.New(code.Internal, "look for a filesystem on %s: %w", r.Device, err)
	}
	if found == "xfs" && r.FSType == "xfs" && !r.ReadOnly {
		// Some versions of blkid know it by its magic number; the kernel never mounts it.
		if cleared, err := clearUnfinishedXFS(r.Device); err != nil {
			return code.New(code.Internal, "%s: %w", r.Device, err)
		} else if cleared {
			o.log.Info("an earlier format was cut off and is repeated", "device", r.Device)
			found, r.Interrupted = "", true
		}
	}
	switch {
	case found == "":
		if err := o.mayFormat(r); err != nil {
			return err
		}
		if r.ReadOnly {
			return code.New(code.InUse, "the volume is blank and published read-only: there is no filesystem to mount; write it first with a ReadWriteOnce claim")
		}
		if err := r.Formatting(); err != nil {
			return err
		}
		o.log.Info("formatting", "device", r.Device, "fstype", r.FSType)
	case found != r.FSType:
		return code.New(code.InUse, "the volume holds %q, but %s is asked for: nothing was changed; use a StorageClass with fstype %s, or another volume", found, r.FSType, found)
	case !r.ReadOnly && strings.HasPrefix(r.FSType, "ext"):
		if err := o.growUnmounted(ctx, r); err != nil {
			return err
		}
	}
	if err := o.mounter.FormatAndMountSensitiveWithFormatOptions(r.Device, r.Target, r.FSType, mountOptions(r), nil, formatOptions[r.FSType]); err != nil {
		var me mount.MountError
		if errors.As(err, &me) && me.Type == mount.HasFilesystemErrors {
			return code.New(code.Internal, "the filesystem on %s is damaged beyond automatic repair: %w; take a snapshot, then run fsck by hand", r.Device, err)
		}
		return code.New(code.Internal, "mount %s at %s: %w", r.Device, r.Target, err)
	}
	if r.FSType == "xfs" && !r.ReadOnly {
		return o.growXFS(ctx, r.Device, r.Target)
	}
	return nil
}

func (o *Ops) mayFormat(r Request) error {
	if r.Interrupted {
		return nil
	}
	f, err := os.Open(r.Device)
	if err != nil {
		return code.New(code.Internal, "open %s: %w", r.Device, err)
	}
	defer f.Close()
	ok, what, err := blank(f)
	if err != nil {
		return code.New(code.Internal, "%s: %w", r.Device, err)
	}
	if !ok {
		return code.New(code.InUse, "the volume holds data of an unknown kind (%s) and is not formatted over it; if the data is worthless, empty it with blkdiscard", what)
	}
	return nil
}

// mountOptions adds ours to the class's. The class's win.
func mountOptions(r Request) []string {
	opts := slices.Clone(r.Flags)
	has := func(prefix string) bool {
		return slices.ContainsFunc(opts, func(s string) bool { return strings.HasPrefix(s, prefix) })
	}
	switch r.FSType {
	case "xfs":
		opts = append(opts, "nouuid")
		if r.ReadOnly {
			opts = append(opts, "norecovery")
		}
	case "ext3", "ext4":
		if r.ReadOnly {
			opts = append(opts, "noload")
		}
		fallthrough
	case "ext2":
		if !has("errors=") {
			opts = append(opts, "errors=remount-ro")
		}
	}
	if r.ReadOnly && !slices.Contains(opts, "ro") {
		opts = append(opts, "ro")
	}
	return opts
}

// extGrowMin is the least growth that is worth the check that resize2fs demands. A shorter tail may be too small for a block
// group, and would be checked at every mount for nothing.
const extGrowMin = 16 << 20

// growUnmounted grows an ext filesystem to its device.
func (o *Ops) growUnmounted(ctx context.Context, r Request) error {
	f, err := os.Open(r.Device)
	if err != nil {
		return code.New(code.Internal, "open %s: %w", r.Device, err)
	}
	have, err := filesystemBytes(f, r.FSType)
	var size uint64
	if err == nil {
		size, err = deviceBytes(f)
	}
	f.Close()
	if err != nil {
		return code.New(code.Internal, "size of the filesystem on %s: %w", r.Device, err)
	}
	if size < have+extGrowMin {
		return nil
	}
	o.log.Info("growing before the mount", "device", r.Device, "fromBytes", have, "toBytes", size)
	// resize2fs wants a full check first. Exit status 1: errors were corrected (e2fsck(8)).
	if out, err := o.run(ctx, "e2fsck", "-f", "-p", r.Device); err != nil && exitStatus(err) != 1 {
		return code.New(code.Internal, "check %s before growing: %w: %s", r.Device, err, out)
	}
	if out, err := o.run(ctx, "resize2fs", r.Device); err != nil {
		return code.New(code.Internal, "grow %s: %w: %s", r.Device, err, out)
	}
	return nil
}

func (o *Ops) growXFS(ctx context.Context, dev, target string) error {
	if out, err := o.run(ctx, "xfs_growfs", "-d", target); err != nil {
		return code.New(code.Internal, "grow the filesystem of %s at %s: %w: %s", dev, target, err, out)
	}
	return nil
}

// Grow grows a mounted filesystem to its device.
func (o *Ops) Grow(ctx context.Context, dev, target string) error {
	fstype, err := o.mounter.GetDiskFormat(dev)
	if err != nil {
		return code.New(code.Internal, "look for the filesystem on %s: %w", dev, err)
	}
	switch fstype {
	case "xfs":
		return o.growXFS(ctx, dev, target)
	case "ext2", "ext3", "ext4":
		out, err := o.run(ctx, "resize2fs", dev)
		if err == nil {
			return nil
		}
		if f, oerr := os.Open(dev); oerr == nil {
			have, herr := filesystemBytes(f, fstype)
			size, serr := deviceBytes(f)
			f.Close()
			if herr == nil && serr == nil && size < have+extGrowMin {
				return nil // there is nothing (worth it) to grow
			}
		}
		return code.New(code.InUse, "%s cannot be grown while it is mounted here (%s): it grows when the volume is mounted next; stop the pods that use it and start them again", fstype, strings.TrimSpace(out))
	}
	return code.New(code.InUse, "%s holds %q, which cannot be grown", dev, fstype)
}

// Bind mounts source, a directory or a device node, at target.
func (o *Ops) Bind(source, target string, readOnly bool) error {
	opts := []string{"bind"}
	if readOnly {
		opts = append(opts, "ro")
	}
	if err := o.mounter.Mount(source, target, "", opts); err != nil {
		return code.New(code.Internal, "bind %s at %s: %w", source, target, err)
	}
	return nil
}

// Mounted describes what is mounted at a path.
type Mounted struct {
	// Dev is the device of the mounted filesystem; Rdev is the device a bound device node stands for.
	Dev, Rdev uint64
	FSType    string
	ReadOnly  bool
	// Dead: the filesystem can no longer be asked (its device has gone).
	Dead bool
}

// At returns what is mounted at path, or false. A path that does not exist has nothing mounted.
func (o *Ops) At(path string) (Mounted, bool, error) {
	points, err := o.mounter.List()
	if err != nil {
		return Mounted{}, false, code.New(code.Internal, "read the mount table: %w", err)
	}
	var m Mounted
	found := false
	for _, p := range points {
		if p.Path == path { // the last one is on top
			found = true
			m.FSType, m.ReadOnly = p.Type, slices.Contains(p.Opts, "ro")
		}
	}
	if !found {
		return Mounted{}, false, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		m.Dead = true
		return m, true, nil
	}
	m.Dev, m.Rdev = st.Dev, st.Rdev
	return m, true, nil
}

// Unmount removes everything mounted at path. A path without a mount is a success. A dead filesystem is detached lazily.
func (o *Ops) Unmount(path string) error {
	for range mountsMax {
		m, ok, err := o.At(path)
		if err != nil || !ok {
			return err
		}
		if m.Dead {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				return code.New(code.Internal, "unmount dead %s: %w", path, err)
			}
			continue
		}
		if err := o.mounter.Unmount(path); err != nil {
			return code.New(code.Internal, "unmount %s: %w", path, err)
		}
	}
	return code.New(code.Internal, "unmount %s: there are more than %d mounts", path, mountsMax)
}

// Drop removes everything mounted at path at once, users or not. For filesystems whose device is dead.
func (o *Ops) Drop(path string) error {
	for range mountsMax {
		_, ok, err := o.At(path)
		if err != nil || !ok {
			return err
		}
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return code.New(code.Internal, "detach the mount %s: %w", path, err)
		}
	}
	return nil
}

// mountsMax bounds the layers that repeated, half-done calls can have put on one path.
const mountsMax = 64

// run runs a tool and returns its output, cut to what fits an event.
func (o *Ops) run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := o.mounter.Exec.CommandContext(ctx, name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if len(text) > 512 {
		text = text[:512] + "…"
	}
	if err != nil {
		return text, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

func exitStatus(err error) int {
	var e utilexec.ExitError
	if errors.As(err, &e) {
		return e.ExitStatus()
	}
	return -1
}
