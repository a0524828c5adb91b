package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Scanner reads the block devices of one machine. The zero value of each root means the usual place. Fields are not changed after first use.
type Scanner struct {
	SysDir  string // /sys
	DevDir  string // /dev
	UdevDir string // /run/udev; need not exist
	ProcDir string // /proc, of the machine and not of the container (hostPID)
	// Node is the name of this machine; it qualifies identities that hold on one machine only.
	Node string
	// ReadTimeout bounds the look at one device's content; 0 means 10 seconds.
	ReadTimeout time.Duration

	mu      sync.Mutex
	reading map[string]bool // devices on which a look is under way, perhaps hanging
}

func root(dir, usual string) string {
	if dir == "" {
		return usual
	}
	return dir
}

func (s *Scanner) sys(parts ...string) string {
	return filepath.Join(append([]string{root(s.SysDir, "/sys")}, parts...)...)
}

// Scan returns all block devices, ordered by kernel name with numbers in order. A device that disappears meanwhile is left out; a device
// of which something could not be read carries ReadError. The error is for sysfs or the mount table being unreadable.
func (s *Scanner) Scan(ctx context.Context) ([]*Device, error) {
	entries, err := os.ReadDir(s.sys("class", "block"))
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w (is the machine's /sys mounted into the container?)", err)
	}
	use, err := s.readUse()
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*Device, len(entries))
	var devices []*Device
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := s.device(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone between the listing and the look
		}
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", e.Name(), err)
		}
		byName[d.KernelName] = d
		devices = append(devices, d)
	}
	for _, d := range devices {
		if parent := byName[d.Parent]; parent != nil {
			parent.Partitions = append(parent.Partitions, d)
			d.inherit(parent)
		}
	}
	for _, d := range devices {
		slices.SortFunc(d.Partitions, func(a, b *Device) int { return int(a.Key.PartitionNumber) - int(b.Key.PartitionNumber) })
		d.Mounts, d.Swap = use.of(d)
		if d.SizeBytes > 0 && wantsContent(d) {
			s.readContent(ctx, d)
		}
	}
	slices.SortFunc(devices, func(a, b *Device) int { return natural(a.KernelName, b.KernelName) })
	return devices, nil
}

// wantsContent leaves out devices whose content does not matter. A volume of ours that is not served now would hold a reader for minutes.
func wantsContent(d *Device) bool {
	if d.OwnVolume() {
		return false
	}
	switch d.Type {
	case Memory, Optical, Network:
		return false
	case Loop:
		return d.Key.BackingFile != ""
	}
	return true
}

// device reads one entry of /sys/class/block.
func (s *Scanner) device(name string) (*Device, error) {
	dir := s.sys("class", "block", name)
	a := attrs{dir}
	sectors, err := a.number("size")
	if err != nil {
		return nil, err
	}
	d := &Device{
		KernelName: name,
		// A slash in a device's name is an exclamation mark in sysfs (cciss!c0d0).
		Path:      filepath.Join("/dev", strings.ReplaceAll(name, "!", "/")),
		SizeBytes: sectors * 512,
		ReadOnly:  a.flag("ro"),
		Removable: a.flag("removable"),
		Holders:   a.list("holders"),
		Slaves:    a.list("slaves"),
	}
	majorText, minorText, ok := strings.Cut(a.text("dev"), ":")
	major, err1 := strconv.ParseUint(majorText, 10, 32)
	minor, err2 := strconv.ParseUint(minorText, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return nil, fmt.Errorf("file dev holds no device number: %q", a.text("dev"))
	}
	d.Major, d.Minor = uint32(major), uint32(minor)
	d.DiskSeq, _ = a.number("diskseq")
	d.LogicalBlockBytes = a.number32("queue/logical_block_size", 512)
	d.PhysicalBlockBytes = a.number32("queue/physical_block_size", d.LogicalBlockBytes)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	udev := s.udev(d.Major, d.Minor)
	if number, err := a.number("partition"); err == nil {
		d.Type = Partition
		d.Parent = filepath.Base(filepath.Dir(real))
		uuid := a.uevent("PARTUUID")
		if uuid == "" {
			uuid = udev["ID_PART_ENTRY_UUID"]
		}
		d.Key.PartitionNumber, d.Key.PartitionUUID = uint32(number), uuid
		return d, nil
	}
	d.Type = diskType(name, a)
	d.Drive = driveOf(name, d.Type, a)
	d.Transport = transport(real, name)
	d.Firmware = cleanWords(firstOf(a.text("device/firmware_rev"), a.text("device/rev")))
	d.Key = s.identity(d, a, udev, real)
	return d, nil
}

// inherit gives a partition what only its disk has.
func (d *Device) inherit(disk *Device) {
	own := d.Key
	d.Key = disk.Key
	d.Key.PartitionNumber, d.Key.PartitionUUID = own.PartitionNumber, own.PartitionUUID
	d.Drive, d.Transport, d.Firmware = disk.Drive, disk.Transport, disk.Firmware
	d.Removable, d.DiskSeq = disk.Removable, disk.DiskSeq
	d.LogicalBlockBytes, d.PhysicalBlockBytes = disk.LogicalBlockBytes, disk.PhysicalBlockBytes
}

func diskType(name string, a attrs) Type {
	if uuid := a.text("dm/uuid"); uuid != "" {
		switch {
		case strings.HasPrefix(uuid, "LVM-"):
			return LVM
		case strings.HasPrefix(uuid, "CRYPT-"):
			return Crypt
		case strings.HasPrefix(uuid, "mpath-"):
			return MPath
		}
		return DM
	}
	for _, p := range []struct {
		prefix string
		t      Type
	}{{"loop", Loop}, {"dm-", DM}, {"md", RAID}, {"zram", Memory}, {"ram", Memory}, {"sr", Optical}, {"fd", Optical},
		{"nbd", Network}, {"rbd", Network}, {"drbd", Network}} {
		rest, ok := strings.CutPrefix(name, p.prefix)
		if ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return p.t
		}
	}
	return Disk
}

func driveOf(name string, t Type, a attrs) v1alpha1.DriveType {
	switch {
	case t == Loop:
		return v1alpha1.DriveLoop
	case t == Memory || t == Optical || t == Network:
		return v1alpha1.DriveUnknown
	case strings.HasPrefix(name, "nvme"):
		return v1alpha1.DriveNVMe
	}
	switch a.text("queue/rotational") {
	case "0":
		return v1alpha1.DriveSSD
	case "1":
		return v1alpha1.DriveHDD
	}
	return v1alpha1.DriveUnknown
}

// transport reads the kind of connection from the device's place in sysfs.
func transport(real, name string) string {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.Contains(real, "/usb"):
		return "usb"
	case strings.Contains(real, "/session"):
		return "iscsi"
	case strings.Contains(real, "/virtio"):
		return "virtio"
	case strings.Contains(real, "/ata"):
		return "sata"
	case strings.Contains(real, "/end_device-"):
		return "sas"
	}
	return ""
}

// natural orders names with their numbers: sda9 before sda10.
func natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, _ := strconv.ParseUint(a[:na], 10, 64)
			y, _ := strconv.ParseUint(b[:nb], 10, 64)
			if x != y {
				if x < y {
					return -1
				}
				return 1
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && n < 18 && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
