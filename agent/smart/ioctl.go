package smart

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// requestMillis bounds one request to a disk. It is the kernel's to keep; a dead controller may take longer.
const requestMillis = 10_000

// Device opens a disk of this machine. It implements Open.
func Device(path string) (Commands, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return device{f}, nil
}

type device struct{ f *os.File }

func (d device) Close() error { return d.f.Close() }

// adminCommand is struct nvme_admin_cmd of linux/nvme_ioctl.h.
type adminCommand struct {
	opcode, flags              uint8
	_                          uint16
	nsid, cdw2, cdw3           uint32
	metadata, addr             uint64
	metadataBytes, dataBytes   uint32
	cdw10, cdw11, cdw12, cdw13 uint32
	cdw14, cdw15               uint32
	timeoutMillis, result      uint32
}

// NVMeLog implements Commands by NVME_IOCTL_ADMIN_CMD.
func (d device) NVMeLog(page byte, data []byte) error {
	const (
		ioctlAdmin = 0xc0484e41 // _IOWR('N', 0x41, struct nvme_admin_cmd)
		getLogPage = 0x02
		allSpaces  = 0xffffffff
	)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&data[0])
	c := adminCommand{
		opcode: getLogPage, nsid: allSpaces, addr: uint64(uintptr(unsafe.Pointer(&data[0]))), dataBytes: uint32(len(data)),
		cdw10: uint32(page) | uint32(len(data)/4-1)<<16, timeoutMillis: requestMillis,
	}
	status, _, errno := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), ioctlAdmin, uintptr(unsafe.Pointer(&c)))
	switch {
	case errno != 0:
		return fmt.Errorf("admin command: %w", errno)
	case status != 0:
		return fmt.Errorf("admin command: status %#x of the controller", status)
	}
	return nil
}

// sgHeader is struct sg_io_hdr of scsi/sg.h.
type sgHeader struct {
	interfaceID, direction int32
	cdbBytes, maxSense     uint8
	iovecs                 uint16
	dataBytes              uint32
	data, cdb, sense       *byte
	timeoutMillis, flags   uint32
	packID                 int32
	user                   *byte
	status, masked, msg    uint8
	senseBytes             uint8
	hostStatus, driver     uint16
	residual               int32
	durationMillis, info   uint32
}

// SCSI implements Commands by SG_IO.
func (d device) SCSI(cdb []byte, data []byte) ([]byte, error) {
	const (
		ioctlSG        = 0x2285
		none, fromDisk = -1, -3
		checkCondition = 2
		driverSense    = 8
	)
	sense := make([]byte, 64)
	h := &sgHeader{interfaceID: 'S', direction: none, cdbBytes: uint8(len(cdb)), maxSense: uint8(len(sense)), timeoutMillis: requestMillis}
	// The kernel follows the pointers inside the header.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&cdb[0])
	pin.Pin(&sense[0])
	h.cdb, h.sense = &cdb[0], &sense[0]
	if len(data) > 0 {
		pin.Pin(&data[0])
		h.direction, h.data, h.dataBytes = fromDisk, &data[0], uint32(len(data))
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), ioctlSG, uintptr(unsafe.Pointer(h))); errno != 0 {
		return nil, fmt.Errorf("SG_IO: %w", errno)
	}
	sense = sense[:min(int(h.senseBytes), len(sense))]
	switch {
	case h.hostStatus != 0 || h.driver&^driverSense != 0:
		return sense, fmt.Errorf("SG_IO: host status %#x, driver status %#x", h.hostStatus, h.driver)
	case h.status == checkCondition:
		return sense, fmt.Errorf("the disk answers with sense data %x", sense[:min(len(sense), 18)])
	case h.status != 0:
		return sense, fmt.Errorf("SCSI status %#x", h.status)
	}
	return sense, nil
}
