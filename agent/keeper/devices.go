package keeper

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/agent/blockdev"
)

// Machine opens the devices of this machine.
type Machine struct{ Scanner *blockdev.Scanner }

// OpenExclusive opens with O_EXCL, which for a block device means: fail if it, or a partition of it, is mounted, swapped to, part of an
// array or opened so by somebody else (open(2)).
func (m Machine) OpenExclusive(d *blockdev.Device) (Disk, error) {
	f, err := os.OpenFile(m.Scanner.DevPath(d), os.O_RDWR|unix.O_EXCL|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("stat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(st.Rdev) != d.Major || unix.Minor(st.Rdev) != d.Minor {
		f.Close()
		return nil, fmt.Errorf("it is not the block device %d:%d", d.Major, d.Minor)
	}
	return disk{f}, nil
}

// Lookup scans again.
func (m Machine) Lookup(ctx context.Context, kernelName string) (*blockdev.Device, error) {
	devices, err := m.Scanner.Scan(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		if d.KernelName == kernelName {
			return d, nil
		}
	}
	return nil, fmt.Errorf("block device %s: %w", kernelName, fs.ErrNotExist)
}

type disk struct{ *os.File }

// RereadPartitions asks the kernel by BLKRRPART.
func (d disk) RereadPartitions() error {
	return unix.IoctlSetInt(int(d.Fd()), unix.BLKRRPART, 0)
}
