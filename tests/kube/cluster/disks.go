package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/tests/kube/loopdev"
)

// diskRecord is a file on a node's disk that stands for a disk of its own.
type diskRecord struct {
	File      string `json:"file"` // path on the node
	SizeBytes int64  `json:"sizeBytes"`
}

// Disk is an attached disk of a node.
type Disk struct {
	File      string `json:"file"`   // backing file, on the node
	Device    string `json:"device"` // "/dev/loopN" in its present boot; empty if off
	SizeBytes int64  `json:"sizeBytes"`
}

// diskDir is where a node keeps the files behind its disks.
const diskDir = "/data/disks"

// MakeDisks gives a node count more disks of sizeBytes each and returns them:
// loop devices with direct I/O and 512-byte sectors over pre-allocated files
// /data/disks/NODE-disk0.img and so on. The files survive PowerOff; Boot
// attaches them again, maybe under other device names.
func (c *Cluster) MakeDisks(ctx context.Context, nodeName string, count int, sizeBytes int64) ([]Disk, error) {
	if count < 1 || sizeBytes < 1<<20 || sizeBytes%4096 != 0 {
		return nil, fmt.Errorf("make %d disks of %d bytes: at least one disk of at least 1 MiB, in whole 4 KiB blocks", count, sizeBytes)
	}
	var made []Disk
	err := c.locked(ctx, nodeName, func(n *node) error {
		if !n.running() {
			return fmt.Errorf("make disks on node %s: it is off", n.Name)
		}
		first := len(n.Disks)
		for i := range count {
			d := diskRecord{File: fmt.Sprintf("%s/%s-disk%d.img", diskDir, n.Name, first+i), SizeBytes: sizeBytes}
			if err := allocate(n.root(d.File), d.SizeBytes); err != nil {
				return fmt.Errorf("make disk %s of node %s: %w", d.File, n.Name, err)
			}
			n.Disks = append(n.Disks, d)
		}
		if err := n.save(); err != nil {
			return err
		}
		if err := n.attachDisks(ctx); err != nil {
			return err
		}
		all, err := n.disks()
		if err != nil {
			return err
		}
		made = all[first:]
		return nil
	})
	return made, err
}

// Disks returns the disks of a node that MakeDisks made.
func (c *Cluster) Disks(nodeName string) ([]Disk, error) {
	n, err := c.node(nodeName)
	if err != nil {
		return nil, err
	}
	return n.disks()
}

// allocate makes a file of zeros whose blocks are all reserved.
func allocate(file string, sizeBytes int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, sizeBytes); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return f.Sync()
}

// attachDisks attaches the node's disks that are not attached.
func (n *node) attachDisks(ctx context.Context) error {
	disks, err := n.disks()
	if err != nil {
		return err
	}
	for _, d := range disks {
		if d.Device != "" {
			continue
		}
		if err := n.run(ctx, "losetup", "--find", "--direct-io=on", "--sector-size", "512", d.File); err != nil {
			return fmt.Errorf("attach disk %s: %w", d.File, err)
		}
	}
	return nil
}

func (n *node) disks() ([]Disk, error) {
	devices, err := loopdev.List()
	if err != nil {
		return nil, err
	}
	disks := make([]Disk, 0, len(n.Disks))
	for _, r := range n.Disks {
		d := Disk{File: r.File, SizeBytes: r.SizeBytes}
		var st unix.Stat_t
		if err := unix.Stat(n.root(r.File), &st); err != nil {
			return nil, fmt.Errorf("disk %s of node %s: %w", r.File, n.Name, err)
		}
		for _, dev := range devices {
			if dev.Known && dev.Backing == (loopdev.FileID{Dev: st.Dev, Inode: st.Ino}) {
				d.Device = dev.Path
			}
		}
		disks = append(disks, d)
	}
	return disks, nil
}

// ReplaceDisk puts an empty disk in the place of one of a node's disks, as
// when a broken one is pulled and a new one put in: same file name, new file.
// The old one must not be in use.
func (c *Cluster) ReplaceDisk(ctx context.Context, nodeName, file string) (Disk, error) {
	var fresh Disk
	err := c.locked(ctx, nodeName, func(n *node) error {
		disks, err := n.disks()
		if err != nil {
			return err
		}
		for i, d := range disks {
			if d.File != path.Clean(file) {
				continue
			}
			if err := n.pull(ctx, d); err != nil {
				return err
			}
			if err := allocate(n.root(d.File), d.SizeBytes); err != nil {
				return fmt.Errorf("make disk %s of node %s: %w", d.File, n.Name, err)
			}
			if !n.running() {
				fresh = Disk{File: d.File, SizeBytes: d.SizeBytes}
				return nil
			}
			if err := n.attachDisks(ctx); err != nil {
				return err
			}
			all, err := n.disks()
			if err == nil {
				fresh = all[i]
			}
			return err
		}
		var have []string
		for _, d := range disks {
			have = append(have, d.File)
		}
		return fmt.Errorf("node %s has no disk %s; it has: %s", n.Name, file, strings.Join(have, ", "))
	})
	return fresh, err
}

// pull detaches a disk and removes its file.
func (n *node) pull(ctx context.Context, d Disk) error {
	devices, err := loopdev.List()
	if err != nil {
		return err
	}
	own := func(dev loopdev.Device) bool { return dev.Path == d.Device }
	if d.Device != "" {
		if err := loopdev.Detach(ctx, loopdev.Select(devices, own)); err != nil {
			return fmt.Errorf("pull disk %s of node %s: %w", d.File, n.Name, err)
		}
	}
	if err := os.Remove(filepath.Clean(n.root(d.File))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pull disk %s of node %s: %w", d.File, n.Name, err)
	}
	return nil
}
