package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fuseConnections are the FUSE file systems that only the node's processes have mounted, by the number of their connection, which is the minor number of
// their device.
func (n *node) fuseConnections() ([]uint32, error) {
	ours, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	seen := map[uint64]bool{}
	for _, m := range parseMountinfo(string(ours)) {
		seen[m.dev] = true
	}
	pids, err := n.Group.Pids()
	if err != nil {
		return nil, err
	}
	var out []uint32
	for _, pid := range pids {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
		if err != nil {
			continue // ended meanwhile
		}
		for _, m := range parseMountinfo(string(text)) {
			if strings.HasPrefix(m.fsType, "fuse") && !seen[m.dev] {
				seen[m.dev] = true
				out = append(out, unix.Minor(m.dev))
			}
		}
	}
	return out, nil
}

// abortFUSE ends connections whatever their server does. A server that is killed while one of its threads waits, in the kernel, for a loop device over
// its own file system keeps the connection open, and the two wait for each other.
func (n *node) abortFUSE(connections []uint32) (err error) {
	if len(connections) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp(n.c.dir, "fusectl-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.Mount("fusectl", dir, "fusectl", 0, ""); err != nil {
		return fmt.Errorf("mount fusectl: %w", err)
	}
	defer func() { err = errors.Join(unix.Unmount(dir, 0), err) }()
	for _, c := range connections {
		werr := os.WriteFile(filepath.Join(dir, strconv.Itoa(int(c)), "abort"), []byte("1"), 0)
		if werr != nil && !errors.Is(werr, fs.ErrNotExist) {
			return fmt.Errorf("abort FUSE connection %d: %w", c, werr)
		}
	}
	return nil
}
