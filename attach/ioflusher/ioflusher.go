// Package ioflusher puts the process into the kernel's IO_FLUSHER state (prctl(2), PR_SET_IO_FLUSHER, Linux 5.6).
//
// The process is on the way of writes: memory is freed by writing dirty pages to its devices. If it had to wait for free memory itself, it
// could wait for its own devices. In this state its allocations do not wait for writeback, and it is not throttled as a writer.
//
// The state belongs to a thread and is inherited by threads and kept over execve. The Go runtime starts threads before main, so the state is
// set on one thread and the process image is replaced by itself, once.
package ioflusher

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Of linux/prctl.h.
const (
	prSetIOFlusher = 57
	prGetIOFlusher = 58
)

// onceEnv is set in the environment of the replaced image, so that it does not replace itself again.
const onceEnv = "IOMESH_IO_FLUSHER_PID"

// On says whether the calling thread is in the state.
func On() (bool, error) {
	v, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, prGetIOFlusher, 0, 0, 0, 0, 0)
	if errno != 0 {
		return false, fmt.Errorf("prctl(PR_GET_IO_FLUSHER): %w", errno)
	}
	return v == 1, nil
}

// ErrNotAllowed: the process lacks CAP_SYS_RESOURCE, or the kernel is older than 5.6. It works on, with the small risk that the package
// documentation describes; a memory limit well above its use keeps it away.
var ErrNotAllowed = errors.New("IO_FLUSHER state is not allowed here (needs CAP_SYS_RESOURCE and Linux 5.6)")

// Enter enters the state. On success it either returns nil with the state set in all threads, or does not return but starts the process image
// anew. Call it first in main.
func Enter() error {
	if on, err := On(); err != nil {
		return errors.Join(ErrNotAllowed, err)
	} else if on {
		return nil
	}
	if os.Getenv(onceEnv) == strconv.Itoa(os.Getpid()) {
		return errors.New("IO_FLUSHER state was lost while the process image was replaced")
	}
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, prSetIOFlusher, 1, 0, 0, 0, 0); errno != 0 {
		runtime.UnlockOSThread()
		return errors.Join(ErrNotAllowed, errno)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find our own executable: %w", err)
	}
	env := append(os.Environ(), onceEnv+"="+strconv.Itoa(os.Getpid()))
	return fmt.Errorf("replace the process image: %w", unix.Exec(self, os.Args, env))
}
