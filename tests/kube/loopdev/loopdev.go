// Package loopdev finds and detaches loop devices by what lies behind them.
//
// Loop devices belong to the machine, not to a namespace: when a node of the
// test cluster is switched off, its loop devices stay, as those of a real
// machine would not. The kernel's backing path is of little use then, as it is
// printed relative to a mount namespace that is gone; the device and inode
// number of the backing file are what counts.
package loopdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FileID names a file on this machine, whatever its path.
type FileID struct{ Dev, Inode uint64 }

// Device is one attached loop device.
type Device struct {
	Path        string // /dev/loopN
	Number      uint64 // its own device number
	BackingPath string // as the kernel prints it; see above
	// Known says that the two fields below are valid. They are not if the
	// backing file's server is gone or does not answer (FUSE on a frozen node).
	Known   bool
	Backing FileID // the backing file
	// BackingDevice is the device number behind Backing if that is a device
	// special file, as with the loop kubelet puts over each raw block volume;
	// else 0.
	BackingDevice uint64
}

// answerMax is how long a backing file's server may take to tell its inode.
const answerMax = 500 * time.Millisecond

// List returns all attached loop devices.
func List() ([]Device, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, file := range files {
		backing, err := os.ReadFile(file)
		if err != nil {
			continue // detached meanwhile
		}
		d := Device{
			Path:        "/dev/" + strings.Split(file, "/")[3],
			BackingPath: strings.TrimSuffix(string(backing), "\n"),
		}
		var st unix.Stat_t
		if err := unix.Stat(d.Path, &st); err != nil {
			return nil, fmt.Errorf("stat %s: %w", d.Path, err)
		}
		d.Number = st.Rdev
		if info, err := status(d.Path); err == nil {
			d.Known = true
			d.Backing = FileID{Dev: info.Device, Inode: info.Inode}
			d.BackingDevice = info.Rdevice
		}
		devices = append(devices, d)
	}
	return devices, nil
}

var errNoAnswer = errors.New("backing file does not answer")

// status asks the kernel about a device. The kernel asks the file system
// behind it, which may never answer: then the asking thread is left behind
// until the file system's server ends.
func status(path string) (*unix.LoopInfo64, error) {
	type answer struct {
		info *unix.LoopInfo64
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		f, err := os.Open(path)
		if err != nil {
			answers <- answer{err: err}
			return
		}
		defer f.Close()
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		answers <- answer{info, err}
	}()
	t := time.NewTimer(answerMax)
	defer t.Stop()
	select {
	case a := <-answers:
		return a.info, a.err
	case <-t.C:
		return nil, errNoAnswer
	}
}

// Select returns the devices that own approves, and those stacked on them.
func Select(devices []Device, own func(Device) bool) []Device {
	chosen := map[uint64]bool{}
	for {
		before := len(chosen)
		for _, d := range devices {
			if own(d) || d.BackingDevice != 0 && chosen[d.BackingDevice] {
				chosen[d.Number] = true
			}
		}
		if len(chosen) == before {
			break
		}
	}
	return slices.DeleteFunc(slices.Clone(devices), func(d Device) bool { return !chosen[d.Number] })
}

// Detach detaches the devices and returns when each is free. A device that
// is still in use, by another of them or by somebody else, detaches itself
// with its last user, for which this waits.
func Detach(ctx context.Context, devices []Device) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		// All in each round: one may be the last user of another.
		var busy []string
		for _, d := range devices {
			free, err := detach(d)
			if err != nil {
				return fmt.Errorf("detach %s: %w", d.Path, err)
			}
			if !free {
				busy = append(busy, d.Path)
			}
		}
		if len(busy) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("detach %s: still in use: %w", strings.Join(busy, ", "), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// detach asks for a device to be detached and reports whether it is free, or
// was freed and taken by somebody else meanwhile.
func detach(d Device) (bool, error) {
	now, err := status(d.Path)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	// Other errors come from the backing file's server, which may be dead.
	if err == nil && d.Known && (FileID{now.Device, now.Inode}) != d.Backing {
		return true, nil
	}
	return false, clear(d.Path)
}

func clear(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CLR_FD)
	if err != nil && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}
