package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/iomesh/iomesh/attach/loop"
	"golang.org/x/sys/unix"
)

// recover clears what an earlier process left in the state directory. Nothing of it can be used: its devices fail every request.
func (d *Daemon) recover(ctx context.Context) {
	recs, bad := d.dirs.load()
	for _, err := range bad {
		d.log.Warn("a record of an earlier run cannot be read; what it stood for is not cleared", "error", err)
	}
	for _, rec := range recs {
		rec.Orphaned = true
		d.broken[rec.VolumeID] = rec
		if err := d.clear(ctx, rec.VolumeID); err != nil {
			d.log.Warn("a device of an earlier run is still used: its I/O fails until its users have gone",
				"volume", rec.VolumeID, "device", rec.Device, "error", err)
		} else {
			d.log.Info("cleared what an earlier run left", "volume", rec.VolumeID, "device", rec.Device)
		}
	}
	// Directories without a record: the process died between making the mount point and, at the end, removing it.
	entries, err := os.ReadDir(d.dirs.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if _, known := d.broken[e.Name()]; known || !e.IsDir() || checkVolumeID(e.Name()) != nil {
			continue
		}
		dir := d.dirs.mountDir(e.Name())
		if isMounted(dir) {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
		_ = os.Remove(dir)
	}
}

// clear removes the leftovers of a volume that an earlier process served. loop.ErrInUse while somebody holds its device.
func (d *Daemon) clear(ctx context.Context, id string) error {
	d.mu.Lock()
	rec, ok := d.broken[id]
	d.mu.Unlock()
	if !ok {
		return nil
	}
	// The dead mount first: it is of no use to anybody, and a new attachment needs its place.
	dir := d.dirs.mountDir(id)
	if d.get(id) == nil && isMounted(dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount dead %s: %w", dir, err)
		}
	}
	if rec.Backing != (loop.Backing{}) {
		// By identity, not by name: the number may belong to somebody else by now.
		paths, err := loop.Find(rec.Backing)
		if err != nil {
			return err
		}
		for _, path := range paths {
			wait, cancel := context.WithTimeout(ctx, time.Second)
			err := loop.Release(wait, path, rec.Backing)
			cancel()
			if err != nil {
				return err
			}
		}
	}
	d.mu.Lock()
	delete(d.broken, id)
	d.mu.Unlock()
	if d.get(id) == nil {
		return d.dirs.forget(id)
	}
	return nil
}
