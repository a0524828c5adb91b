package scsi

import (
	"encoding/binary"
)

// Fixed identification, so that multipath rules and udev rules can name it.
const (
	Vendor  = "IOMESH  "
	Product = "VOLUME          "
)

// Geometry of every unit.
const (
	// BlockBytes is the logical block length.
	BlockBytes = 512
	// physicalExponent: 2^3 logical blocks per physical block (4096 bytes).
	physicalExponent = 3
	// RelativePort and PortGroup are the same at every owner, so that registrations and paths survive a move.
	RelativePort = 1
	PortGroup    = 1
)

// Limits are what VPD page B0h announces, in logical blocks unless said.
type Limits struct {
	Transfer, OptimalTransfer uint32
	Unmap, UnmapDescriptors   uint32
	UnmapGranularity          uint32
	WriteSame                 uint64
	CompareAndWrite           uint8
	Atomic, AtomicAlignment   uint32
}

// Unit is what identification and capacity commands tell about a logical unit. A value; build one per command.
type Unit struct {
	Revision string // product revision level, cut to 4 characters
	Serial   string
	NAA      [16]byte
	Target   string // IQN
	Blocks   uint64 // capacity
	Thin     bool
	// Physical512 makes the physical block one logical block instead of eight.
	Physical512 bool
	Limits      Limits
}

// padded appends s cut or filled with spaces to n bytes.
func padded(b []byte, s string, n int) []byte {
	for i := range n {
		if i < len(s) {
			b = append(b, s[i])
		} else {
			b = append(b, ' ')
		}
	}
	return b
}

// NoDevice values for the first byte of INQUIRY data of logical units that are not there.
const (
	// PeripheralCapable: qualifier 001b, a device may be connected here: LUN 0, which initiators scan first.
	PeripheralCapable = 0x3f
	// PeripheralNever: qualifier 011b.
	PeripheralNever = 0x7f
)

// Inquiry appends the standard INQUIRY data (SPC-4 6.4.2). peripheral is 0 for the unit itself or one of the NoDevice values.
func (u *Unit) Inquiry(b []byte, peripheral byte) []byte {
	b = append(b, peripheral, 0,
		0x06,      // SPC-4
		0x10|0x02, // HISUP, response data format 2
		0,         // additional length, below
		0x10,      // TPGS 01b: implicit asymmetric access
		0, 0x02,   // CMDQUE
	)
	start := len(b) - 8
	b = padded(b, Vendor, 8)
	b = padded(b, Product, 16)
	b = padded(b, u.Revision, 4)
	b = append(b, make([]byte, 22)...) // vendor specific and reserved, to byte 57
	for _, v := range []uint16{
		0x00a0, // SAM-5
		0x0960, // iSCSI
		0x0460, // SPC-4
		0x04c0, // SBC-3
	} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	b = append(b, make([]byte, 96-(len(b)-start))...)
	b[start+4] = byte(len(b) - start - 5)
	return b
}

// vpdPages lists the supported pages in ascending order.
var vpdPages = []byte{0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2}

// VPD appends a vital product data page, or returns the sense that refuses it.
func (u *Unit) VPD(b []byte, page, peripheral byte) ([]byte, Sense) {
	start := len(b)
	b = append(b, peripheral, page, 0, 0)
	switch page {
	case 0x00:
		b = append(b, vpdPages...)
	case 0x80:
		b = append(b, u.Serial...)
	case 0x83:
		b = u.identification(b)
	case 0x86:
		b = append(b, make([]byte, 60)...)
		b[start+5] = 0x07 // HEADSUP, ORDSUP, SIMPSUP
	case 0xb0:
		b = u.blockLimits(b)
	case 0xb1:
		b = append(b, make([]byte, 60)...)
		b[start+5] = 1 // medium rotation rate: does not rotate
	case 0xb2:
		flags, kind := byte(0), byte(0)
		if u.Thin {
			flags = 0x80 | 0x40 | 0x20 | 0x04 // LBPU, LBPWS, LBPWS10, LBPRZ
			kind = 2                          // thin provisioned
		}
		b = append(b, 0, flags, kind, 0)
	default:
		return b[:start], InvalidCDB(2)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start-4))
	return b, Sense{}
}

// identification appends the designators of VPD page 83h (SPC-4 7.8.6).
func (u *Unit) identification(b []byte) []byte {
	const (
		binarySet, ascii, utf8 = 1, 2, 3
		unit, port, device     = 0x00, 0x10, 0x20
		iscsi                  = 0x5
		hasProtocol            = 0x80
	)
	add := func(protocol, set, kind byte, id []byte) {
		b = append(b, protocol<<4|set, kind, 0, byte(len(id)))
		b = append(b, id...)
	}
	name := func(s string) []byte { // SCSI name strings end with zero bytes and have a length divisible by 4
		id := append([]byte(s), 0)
		for len(id)%4 != 0 {
			id = append(id, 0)
		}
		return id
	}
	add(0, binarySet, unit|3, u.NAA[:])
	add(0, ascii, unit|1, append([]byte(Vendor), u.Serial...))
	add(iscsi, binarySet, hasProtocol|port|4, []byte{0, 0, 0, RelativePort})
	add(iscsi, binarySet, hasProtocol|port|5, []byte{0, 0, 0, PortGroup})
	add(iscsi, utf8, hasProtocol|port|8, name(u.Target+",t,0x0001"))
	add(iscsi, utf8, hasProtocol|device|8, name(u.Target))
	return b
}

// blockLimits appends the body of VPD page B0h (SBC-3 6.5.3, atomic fields of SBC-4).
func (u *Unit) blockLimits(b []byte) []byte {
	l := &u.Limits
	p := make([]byte, 60)
	p[0] = 1 // WSNZ: WRITE SAME of zero blocks is refused
	p[1] = l.CompareAndWrite
	binary.BigEndian.PutUint16(p[2:], 1<<physicalExponent)
	binary.BigEndian.PutUint32(p[4:], l.Transfer)
	binary.BigEndian.PutUint32(p[8:], l.OptimalTransfer)
	if u.Thin {
		binary.BigEndian.PutUint32(p[16:], l.Unmap)
		binary.BigEndian.PutUint32(p[20:], l.UnmapDescriptors)
		binary.BigEndian.PutUint32(p[24:], l.UnmapGranularity)
		p[28] = 0x80 // UGAVALID, alignment 0
	}
	binary.BigEndian.PutUint64(p[32:], l.WriteSame)
	binary.BigEndian.PutUint32(p[40:], l.Atomic)
	if l.Atomic > 0 {
		binary.BigEndian.PutUint32(p[44:], l.AtomicAlignment)
		binary.BigEndian.PutUint32(p[48:], l.AtomicAlignment)
	}
	return append(b, p...)
}

// ReadCapacity10 appends READ CAPACITY (10) data (SBC-3 5.15).
func (u *Unit) ReadCapacity10(b []byte) []byte {
	last := uint32(0xffffffff)
	if u.Blocks-1 < uint64(last) {
		last = uint32(u.Blocks - 1)
	}
	b = binary.BigEndian.AppendUint32(b, last)
	return binary.BigEndian.AppendUint32(b, BlockBytes)
}

// ReadCapacity16 appends READ CAPACITY (16) data (SBC-3 5.16).
func (u *Unit) ReadCapacity16(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, u.Blocks-1)
	b = binary.BigEndian.AppendUint32(b, BlockBytes)
	p := make([]byte, 20)
	if !u.Physical512 {
		p[1] = physicalExponent
	}
	if u.Thin {
		p[2] = 0xc0 // LBPME, LBPRZ
	}
	return append(b, p...)
}

// ReportLUNs appends REPORT LUNS data with one unit (SPC-4 6.33). selection is byte 2 of the CDB.
func ReportLUNs(b []byte, lun uint64, selection byte) ([]byte, Sense) {
	switch selection {
	case 0, 2: // all, or all without well known
		b = binary.BigEndian.AppendUint32(b, 8)
		b = append(b, 0, 0, 0, 0)
		return binary.BigEndian.AppendUint64(b, lun), Sense{}
	case 1: // well known units only: none
		return append(b, make([]byte, 8)...), Sense{}
	}
	return b, InvalidCDB(2)
}

// ReportTargetPortGroups appends REPORT TARGET PORT GROUPS data (SPC-4 6.36): one group, active/optimized, of one port. cdb1 is
// byte 1 of the CDB, which selects the format.
func ReportTargetPortGroups(b []byte, cdb1 byte) ([]byte, Sense) {
	group := []byte{
		0x00, // active/optimized
		0x01, // AO_SUP
		0, PortGroup, 0,
		0,    // status: no change by command or implicit behaviour
		0, 1, // vendor specific, port count
		0, 0, 0, RelativePort,
	}
	switch cdb1 >> 5 {
	case 0:
		b = binary.BigEndian.AppendUint32(b, uint32(len(group)))
	case 1:
		b = binary.BigEndian.AppendUint32(b, uint32(len(group)+4))
		b = append(b, 0x10, 0, 0, 0)
	default:
		return b, InvalidCDB(1)
	}
	return append(b, group...), Sense{}
}

// ReadDefectData appends an empty defect list (SBC-3 5.17, 5.18).
func ReadDefectData(b []byte, r *Request) []byte {
	if r.Opcode == OpReadDefect12 {
		return append(b, 0, r.CDB[1]&0x1f, 0, 0, 0, 0, 0, 0)
	}
	return append(b, 0, r.CDB[2]&0x1f, 0, 0)
}

// LBAStatus is a run of blocks in one state.
type LBAStatus struct {
	LBA    uint64
	Blocks uint32
	Mapped bool
}

// AppendLBAStatus appends GET LBA STATUS data (SBC-3 5.5).
func AppendLBAStatus(b []byte, runs []LBAStatus) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(4+16*len(runs)))
	b = append(b, 0, 0, 0, 0)
	for _, r := range runs {
		b = binary.BigEndian.AppendUint64(b, r.LBA)
		b = binary.BigEndian.AppendUint32(b, r.Blocks)
		state := byte(1) // deallocated
		if r.Mapped {
			state = 0
		}
		b = append(b, state, 0, 0, 0)
	}
	return b
}

// Extent is one descriptor of an UNMAP parameter list.
type Extent struct {
	LBA    uint64
	Blocks uint32
}

// ParseUnmap reads an UNMAP parameter list (SBC-3 5.28.2). A list shorter than its header unmaps nothing; a descriptor cut off at
// the end is ignored.
func ParseUnmap(data []byte, descriptorsMax uint32) ([]Extent, Sense) {
	if len(data) == 0 {
		return nil, Sense{}
	}
	if len(data) < 8 {
		return nil, Illegal(ParameterListLength)
	}
	n := min(int(binary.BigEndian.Uint16(data[2:])), len(data)-8) / 16
	if n > int(descriptorsMax) {
		return nil, InvalidParameter(2)
	}
	list := make([]Extent, 0, n)
	for i := range n {
		d := data[8+16*i:]
		if e := (Extent{LBA: binary.BigEndian.Uint64(d), Blocks: binary.BigEndian.Uint32(d[8:])}); e.Blocks > 0 {
			list = append(list, e)
		}
	}
	return list, Sense{}
}
