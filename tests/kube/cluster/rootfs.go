package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/iomesh/iomesh/tests/kube/command"
)

// rootDirs are the directories every node's root has.
var rootDirs = []string{
	"data/disks", "dev", "etc", "home", "media", "mnt", "opt/iomesh", "opt/kube/bin", "proc", "root", "run", "srv", "sys", "tmp",
	"usr", "var/cache", "var/lib/cni", "var/lib/containerd", "var/lib/iomesh", "var/lib/kubelet", "var/log/containers", "var/log/pods", "var/tmp",
}

// systemDirs are the machine's directories with programs; nodes see them
// read-only. On most systems all but usr are links into it.
var systemDirs = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// makeRoot lays out the node's own part of its root. On a root that exists it
// only renews what the cluster itself owns.
func (n *node) makeRoot(ctx context.Context) error {
	for _, d := range rootDirs {
		if err := os.MkdirAll(n.root(d), 0o755); err != nil {
			return fmt.Errorf("lay out root: %w", err)
		}
	}
	if err := os.Chmod(n.root("var/tmp"), 0o1777); err != nil {
		return fmt.Errorf("lay out root: %w", err)
	}
	for link, target := range map[string]string{"var/run": "/run", "var/lock": "/run/lock"} {
		if err := symlink(target, n.root(link)); err != nil {
			return err
		}
	}
	for _, d := range systemDirs {
		info, err := os.Lstat("/" + d)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("lay out root: %w", err)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink("/" + d)
			if err != nil {
				return fmt.Errorf("lay out root: %w", err)
			}
			if err := symlink(target, n.root(d)); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(n.root(d), 0o755); err != nil {
			return fmt.Errorf("lay out root: %w", err)
		}
	}
	if _, err := os.Stat(n.root("etc/.complete")); errors.Is(err, fs.ErrNotExist) {
		if err := command.Run(ctx, "cp", "-a", "/etc/.", n.root("etc")); err != nil {
			return err
		}
		machineID := strings.ReplaceAll(newBootID(), "-", "")
		for file, text := range map[string]string{
			"etc/hostname": n.Name + "\n", "etc/machine-id": machineID + "\n",
			"etc/hosts":       "127.0.0.1 localhost\n127.0.1.1 " + n.Name + "\n",
			"etc/resolv.conf": "", // there is nobody to ask
			"etc/.complete":   "",
		} {
			if err := n.writeFile(file, text, 0o644); err != nil {
				return err
			}
		}
	}
	return n.writeFile("etc/boot_id", n.BootID+"\n", 0o444)
}

// writeFile replaces a file on the node's disk, also if it is a link.
func (n *node) writeFile(file, text string, mode fs.FileMode) error {
	p := n.root(file)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(p+".new", []byte(text), mode); err != nil {
		return err
	}
	return os.Rename(p+".new", p)
}

// symlink makes link point to target, whatever it was before.
func symlink(target, link string) error {
	if old, err := os.Readlink(link); err == nil && old == target {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link %s: %w", link, err)
	}
	if err := os.Symlink(target, link); err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	return nil
}

// mountAll mounts the node's root in its mount namespace and moves into it.
func (n *node) mountAll(ctx context.Context) error {
	r, err := n.c.load()
	if err != nil {
		return err
	}
	root := n.root()
	argvs := [][]string{{"mount", "--bind", root, root}}
	for _, d := range systemDirs {
		if info, err := os.Lstat("/" + d); err == nil && info.IsDir() {
			argvs = append(argvs, []string{"mount", "-o", "bind,ro", "/" + d, n.root(d)})
		}
	}
	argvs = append(argvs,
		[]string{"mount", "-o", "bind,ro", r.Bin, n.root("opt/kube/bin")},
		[]string{"mount", "-t", "proc", "proc", n.root("proc")},
		[]string{"mount", "-t", "sysfs", "sysfs", n.root("sys")},
		[]string{"mount", "--rbind", "/dev", n.root("dev")},
		[]string{"mount", "-t", "tmpfs", "-o", "mode=755", "run", n.root("run")},
		[]string{"mount", "-t", "tmpfs", "-o", "mode=1777", "tmp", n.root("tmp")},
	)
	argvs = append(argvs, n.cgroupMounts()...)
	argvs = append(argvs,
		[]string{"mkdir", "-p", n.root("run/lock"), n.root("run/netns"), n.root("run/old")},
		[]string{"pivot_root", root, n.root("run/old")},
		[]string{"umount", "--lazy", "/run/old"},
		[]string{"rmdir", "/run/old"},
		// After all mounts: each becomes a peer group of its own. The other way
		// round every CSI mount shows twice in the node's mount table, and
		// kubelet's count of references sees it.
		[]string{"mount", "--make-rshared", "/"},
		[]string{"mount", "--bind", "/etc/boot_id", "/proc/sys/kernel/random/boot_id"},
		[]string{"hostname", n.Name},
	)
	for _, argv := range argvs {
		if err := n.run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// cgroupMounts mounts the node's control groups where kubelet expects them.
// The node's cgroup namespace makes its own group their root.
func (n *node) cgroupMounts() [][]string {
	top := n.root("sys/fs/cgroup")
	if n.Group.Version == 2 {
		return [][]string{{"mount", "-t", "cgroup2", "cgroup2", top}}
	}
	argvs := [][]string{{"mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", top}}
	for _, h := range n.Group.Hierarchies {
		options, dir := h.Controllers, h.Controllers
		if name, ok := strings.CutPrefix(h.Controllers, "name="); ok {
			options, dir = "none,"+h.Controllers, name
		}
		point := filepath.Join(top, dir)
		argvs = append(argvs, []string{"mkdir", point}, []string{"mount", "-t", "cgroup", "-o", options, "cgroup", point})
		if parts := strings.Split(dir, ","); len(parts) > 1 {
			for _, p := range parts {
				argvs = append(argvs, []string{"ln", "-s", dir, filepath.Join(top, p)})
			}
		}
	}
	return argvs
}
