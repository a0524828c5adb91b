package smart

import (
	"errors"
	"fmt"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Commands sends requests to one disk. Data is filled as far as the disk answered.
type Commands interface {
	// NVMeLog reads a log page of the controller.
	NVMeLog(page byte, data []byte) error
	// SCSI sends a command that reads data, or none if data is empty. Sense data comes back whether or not the command succeeded.
	SCSI(cdb []byte, data []byte) (sense []byte, err error)
	Close() error
}

// Open opens a device for requests.
type Open func(path string) (Commands, error)

// Asked reports whether there is anything to ask of a device: a whole disk that is no virtual one.
func Asked(d *blockdev.Device) bool {
	return d.Type == blockdev.Disk && d.Transport != "virtio" && d.Transport != "iscsi"
}

// Read asks one disk. An error means that the disk says nothing, which is usual for disks behind controllers.
func Read(open Open, d *blockdev.Device) (Report, error) {
	c, err := open(d.Path)
	if err != nil {
		return Report{}, err
	}
	defer func() { _ = c.Close() }()
	ssd := d.Drive != v1alpha1.DriveHDD
	switch {
	case d.Transport == "nvme" || d.Drive == v1alpha1.DriveNVMe:
		return readNVMe(c)
	case d.Transport == "sata" || d.Transport == "usb":
		return readATA(c, ssd)
	}
	// A disk of a SAS controller may be either.
	r, err := readATA(c, ssd)
	if err == nil {
		return r, nil
	}
	r, serr := readSCSI(c)
	if serr != nil {
		return Report{}, errors.Join(err, serr)
	}
	return r, nil
}

func readNVMe(c Commands) (Report, error) {
	p := make([]byte, nvmeLogBytes)
	if err := c.NVMeLog(2, p); err != nil {
		return Report{}, fmt.Errorf("NVMe health log: %w", err)
	}
	return decodeNVMe(p)
}

// ATA commands and features.
const (
	ataSMART       = 0xb0
	ataReadLogExt  = 0x2f
	smartReadData  = 0xd0
	smartStatus    = 0xda
	logStatistics  = 0x04
	pageStatistics = 0x07
)

// passThrough is an ATA PASS-THROUGH (16) command (SAT-4 12.2.2) that reads one sector, or nothing.
func passThrough(command, features, low, mid, high byte, reads bool) []byte {
	const (
		nonData, pioIn    = 3 << 1, 4 << 1
		check, fromDevice = 1 << 5, 1<<3 | 1<<2 | 2 // CK_COND; T_DIR, BYT_BLOK and the length in the count
	)
	cdb := make([]byte, 16)
	cdb[0], cdb[4], cdb[8], cdb[10], cdb[12], cdb[14] = 0x85, features, low, mid, high, command
	if reads {
		cdb[1], cdb[2], cdb[6] = pioIn, fromDevice, 1
		if command == ataReadLogExt {
			cdb[1] |= 1 // a 48-bit command
		}
	} else {
		cdb[1], cdb[2] = nonData, check
	}
	return cdb
}

func readATA(c Commands, ssd bool) (Report, error) {
	p := make([]byte, ataSectorBytes)
	if _, err := c.SCSI(passThrough(ataSMART, smartReadData, 0, 0x4f, 0xc2, true), p); err != nil {
		return Report{}, fmt.Errorf("SMART READ DATA: %w", err)
	}
	r, err := decodeATA(p, ssd)
	if err != nil {
		return Report{}, err
	}
	sense, _ := c.SCSI(passThrough(ataSMART, smartStatus, 0, 0x4f, 0xc2, false), nil)
	if r.Verdict, err = decodeStatus(sense); err == nil && r.Verdict == Failed {
		r.because("a S.M.A.R.T. attribute of the disk has fallen below its threshold")
	}
	clear(p)
	// A disk without this log still has said all the rest.
	if _, err := c.SCSI(passThrough(ataReadLogExt, 0, logStatistics, pageStatistics, 0, true), p); err == nil {
		if life := decodeStatistics(p); life != nil {
			r.LifeLeft = life
		}
	}
	return r, nil
}

// logSense is a LOG SENSE command (SPC-5 6.8) for the cumulative values of a page.
func logSense(page byte, n uint16) []byte {
	return []byte{0x4d, 0, 1<<6 | page, 0, 0, 0, 0, byte(n >> 8), byte(n), 0}
}

func readSCSI(c Commands) (Report, error) {
	var r Report
	p := make([]byte, 252)
	if _, err := c.SCSI(logSense(pageExceptions, uint16(len(p))), p); err != nil {
		return Report{}, fmt.Errorf("informational exceptions: %w", err)
	}
	if err := decodeExceptions(p, &r); err != nil {
		return Report{}, err
	}
	clear(p)
	if _, err := c.SCSI(logSense(pageSolidState, uint16(len(p))), p); err == nil {
		// Optional, as the page is for media that wear.
		_ = decodeSolidState(p, &r)
	}
	return r, nil
}
