package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// enodev is what reading cgroup.procs says when the group was just removed.
const enodev = syscall.ENODEV

// ErrFrozen says that nothing can be started in a frozen group: the thread
// that tries would be frozen too.
var ErrFrozen = errors.New("frozen; thaw it first")

// Start starts cmd as a member of the group. The caller waits for it. In a
// frozen group it fails with ErrFrozen.
func (g Group) Start(cmd *exec.Cmd) error {
	if g.Frozen() {
		return ErrFrozen
	}
	if g.Version == 2 {
		dir := g.leaf()
		if delegated, err := os.ReadFile(filepath.Join(g.Dirs[0], "cgroup.subtree_control")); err == nil && len(delegated) <= 1 {
			dir = g.Dirs[0] // not delegated yet: its first process makes it a namespace's root
		}
		return startV2(cmd, dir)
	}
	started := make(chan error, 1)
	go func() { started <- g.startV1(cmd) }()
	return <-started
}

func startV2(cmd *exec.Cmd, dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer f.Close()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	return cmd.Start()
}

// startV1 moves only this thread: cgroup v1 allows that, and a clone made by
// it starts out in its group. The thread goes back before any other goroutine
// can run on it; if that fails it is given up with its goroutine.
func (g Group) startV1(cmd *exec.Cmd) (err error) {
	runtime.LockOSThread()
	home, err := threadHome()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	tid := []byte(strconv.Itoa(unix.Gettid()))
	defer func() {
		for _, dir := range home {
			if back := os.WriteFile(filepath.Join(dir, "tasks"), tid, 0); back != nil {
				err = errors.Join(err, fmt.Errorf("leave cgroup: %w", back))
				return
			}
		}
		runtime.UnlockOSThread()
	}()
	for _, dir := range g.Dirs {
		if err := os.WriteFile(filepath.Join(dir, "tasks"), tid, 0); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return cmd.Start()
}

// threadHome returns the v1 groups that the calling thread is in now. They
// need not be those of the process that planned the group.
func threadHome() ([]string, error) {
	self, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find own cgroup: %w", err)
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup mounts: %w", err)
	}
	hs, _, err := Parse(string(self), string(info))
	if err != nil {
		return nil, err
	}
	dirs := make([]string, len(hs))
	for i, h := range hs {
		dirs[i] = filepath.Join(h.Mount, h.Path)
	}
	return dirs, nil
}
