package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/iomesh/iomesh/attach/fusefile"
	"github.com/iomesh/iomesh/attach/loop"
	"golang.org/x/sys/unix"
)

// volume is an attached volume. Its parts are made in the order session, file, device and removed in the opposite one, so that a
// part never stands on something that has gone. The caller serialises the calls (see calls in daemon.go), but status.
type volume struct {
	rec    record
	target Target
	dirs   records
	log    *slog.Logger

	lun    LUN
	file   *fusefile.File
	device *loop.Device

	major, minor uint32

	stop    chan struct{} // ends watch
	watched sync.WaitGroup

	mu        sync.Mutex // of the fields below, read by status
	sizeBytes int64
	detaching string // why the device is still there after Detach, or ""
}

// attach makes a volume. On an error nothing is left.
func attach(ctx context.Context, dialer Dialer, target Target, dirs records, log *slog.Logger) (_ *volume, err error) {
	v := &volume{target: target, dirs: dirs, log: log, stop: make(chan struct{})}
	v.rec = record{VolumeID: target.VolumeID, IQN: target.IQN, Initiator: target.Initiator, ReadOnly: target.ReadOnly, Since: time.Now().UTC()}
	defer func() {
		if err != nil {
			// The caller's context may have ended; what was made is removed all the same.
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
			defer cancel()
			if cerr := v.undo(clean); cerr != nil {
				err = errors.Join(err, cerr)
			}
		}
	}()

	if v.lun, err = dialer.Dial(ctx, target); err != nil {
		return nil, fmt.Errorf("log in to %s: %w", target.IQN, err)
	}
	v.sizeBytes = v.lun.SizeBytes()
	v.rec.SizeBytes = v.sizeBytes
	// The record comes before the mount, or a crash between them would leave a mount that nobody knows of.
	if err = dirs.save(v.rec); err != nil {
		return nil, err
	}
	dir := dirs.mountDir(target.VolumeID)
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make mount point: %w", err)
	}
	v.file, err = fusefile.Mount(v.lun, fusefile.Options{
		Dir: dir, Source: "iomesh:" + target.VolumeID, SizeBytes: v.sizeBytes, ReadOnly: target.ReadOnly, Log: log,
	})
	if err != nil {
		return nil, err
	}
	fd, err := v.file.Open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if v.rec.Backing, err = loop.BackingOf(fd); err != nil {
		return nil, err
	}
	if err = dirs.save(v.rec); err != nil {
		return nil, err
	}
	if v.device, err = loop.Attach(loop.Config{FD: fd, Name: "iomesh:" + target.VolumeID, ReadOnly: target.ReadOnly}); err != nil {
		return nil, err
	}
	v.rec.Device = v.device.Path
	if v.major, v.minor, err = v.device.Number(); err != nil {
		return nil, err
	}
	if err = dirs.save(v.rec); err != nil {
		return nil, err
	}
	stop, resized := v.stop, v.lun.Resized()
	v.watched.Go(func() { v.watch(stop, resized) })
	return v, nil
}

// watch follows changes of size that the target announces.
func (v *volume) watch(stop, resized <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-resized:
			ctx, cancel := context.WithTimeout(context.Background(), refreshTimeout)
			if err := v.resize(ctx); err != nil {
				v.log.Warn("the target announced another size, which could not be taken over", "error", err)
			}
			cancel()
		}
	}
}

func (v *volume) unwatch() {
	if v.stop != nil {
		close(v.stop)
		v.watched.Wait()
		v.stop = nil
	}
}

// resize reads the size of the LUN and gives it to file and device. A volume never shrinks.
func (v *volume) resize(ctx context.Context) error {
	size, err := v.lun.Refresh(ctx)
	if err != nil {
		return fmt.Errorf("read the size of %s: %w", v.target.IQN, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock() // one at a time: RPC and announcement may meet
	if size < v.sizeBytes {
		return fmt.Errorf("%s has become smaller, %d instead of %d bytes: not taken over", v.target.IQN, size, v.sizeBytes)
	}
	if v.device == nil || v.file == nil {
		return errors.New("the device is being removed")
	}
	if err := v.file.Resize(size); err != nil {
		return err
	}
	if err := v.device.Refresh(); err != nil {
		return err
	}
	got, err := v.device.SizeBytes()
	if err != nil {
		return err
	}
	if got != uint64(size) {
		return fmt.Errorf("%s has %d bytes after the resize, the LUN has %d", v.device.Path, got, size)
	}
	if size != v.sizeBytes {
		v.log.Info("device resized", "device", v.device.Path, "fromBytes", v.sizeBytes, "toBytes", size)
	}
	v.sizeBytes = size
	return nil
}

// detach removes a volume. On ErrInUse it stays as it is, or, if the device is only held open, goes on being removed: call
// again. Every other error also leaves a state from which detach goes on.
func (v *volume) detach(ctx context.Context) error {
	if v.device != nil {
		if err := v.device.Claimed(); err != nil && v.detaching == "" {
			return err
		}
		// Our descriptor keeps the kernel from flushing at the last user's close, so we do it. An error is not a reason to
		// stay: the data is lost already, and its writers were told or chose not to ask.
		if err := v.device.Sync(); err != nil && v.detaching == "" {
			v.log.Warn("flush before detach failed: writes that were not synced by their program may be lost", "error", err)
		}
		v.unwatch() // it uses the device
		wait, cancel := context.WithTimeout(ctx, freeTimeout)
		err := v.device.Remove(wait)
		cancel()
		if err != nil {
			v.setDetaching(err.Error())
			return err
		}
		v.mu.Lock()
		v.device = nil
		v.mu.Unlock()
	}
	return v.undo(ctx)
}

func (v *volume) setDetaching(why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.detaching = why
}

// undo removes what stands beneath the device (and the device, when attach failed half-way).
func (v *volume) undo(ctx context.Context) error {
	v.unwatch()
	if v.device != nil {
		if err := v.device.Remove(ctx); err != nil {
			return err
		}
		v.device = nil
	}
	if v.file != nil {
		wait, cancel := context.WithTimeout(ctx, unmountTimeout)
		err := v.file.Unmount(wait)
		cancel()
		if err != nil {
			// Somebody has the FUSE file itself open. The device has gone; that one gets errors from here on.
			v.log.Warn("the FUSE file is still open in another process; its requests fail from now on", "error", err)
			v.file.Abort()
		}
		v.mu.Lock()
		v.file = nil
		v.mu.Unlock()
	}
	if v.lun != nil {
		if err := v.lun.Close(ctx); err != nil {
			// The target ends a silent session by itself, and unpublish closes it at the owner.
			v.log.Warn("log out failed", "error", err)
		}
		v.lun = nil
	}
	return v.dirs.forget(v.rec.VolumeID)
}

// forget removes directory and record. The record goes last: while it is there, a later run looks for leftovers.
func (r records) forget(volume string) error {
	if err := os.Remove(r.mountDir(volume)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mount point of %s: %w", volume, err)
	}
	return r.remove(volume)
}

// alive says whether the device is being served.
func (v *volume) alive() error {
	if v.file == nil {
		return errors.New("the device is being removed")
	}
	select {
	case <-v.file.Done():
		return errors.New("the FUSE file was unmounted by somebody else: delete the pods that use the volume, then it is attached anew")
	default:
		return nil
	}
}

const (
	// cleanTimeout bounds the removal of a half-made volume.
	cleanTimeout = 20 * time.Second
	// refreshTimeout bounds reading a size, logins in between included.
	refreshTimeout = 30 * time.Second
	// freeTimeout is how long Detach waits for short-lived users of a device (udev's probes, a process that is just ending).
	freeTimeout = 5 * time.Second
	// unmountTimeout is how long Detach waits for users of the FUSE file.
	unmountTimeout = 5 * time.Second
)
