// Package uevent hears from the kernel that block devices come, go or change (netlink, NETLINK_KOBJECT_UEVENT).
//
// An event is a hint to scan again, nothing more: events can be lost (ENOBUFS), and formatting a disk makes none at all. So what it says
// is not kept, and whoever listens also scans by the clock.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// kernelGroup is the multicast group on which the kernel itself speaks; udevd's is 2.
const kernelGroup = 1

// Listen calls changed for each event of the block subsystem, and after lost events, until ctx ends. It returns nil then. An error means
// that the kernel cannot be heard; scanning by the clock is what is left.
func Listen(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("open uevent socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return fmt.Errorf("join the kernel's uevents: %w", err)
	}
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		// A poll with a time-out, so that the end of ctx is noticed without a second descriptor to wake it.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 500)
		if errors.Is(err, unix.EINTR) || (err == nil && n == 0) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for uevents: %w", err)
		}
		n, _, err = unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			changed()
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read uevent: %w", err)
		case IsBlock(buf[:n]):
			changed()
		}
	}
	return nil
}

// IsBlock reports whether a message of the kernel ("add@/devices/…", then NUL-separated KEY=value) is about a block device.
func IsBlock(message []byte) bool {
	for _, field := range bytes.Split(message, []byte{0}) {
		if string(field) == "SUBSYSTEM=block" {
			return true
		}
	}
	return false
}
