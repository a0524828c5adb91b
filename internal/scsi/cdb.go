package scsi

import "encoding/binary"

// Request is a decoded command.
type Request struct {
	Verb    Verb
	Class   Class
	Writes  bool // refused on a write protected unit
	Opcode  byte
	Service byte
	// LBA and Blocks are the range of a medium command, in logical blocks.
	LBA    uint64
	Blocks uint64
	// AllocBytes is the longest answer wanted; ParameterBytes the length of the parameter list that comes with the command.
	AllocBytes, ParameterBytes uint32
	// Unmap, Anchor and NoData belong to WRITE SAME (and Anchor to UNMAP); ByteCheck to VERIFY and WRITE AND VERIFY;
	// Atomic to WRITE ATOMIC.
	Unmap, Anchor, NoData, ByteCheck, Atomic bool
	// CDB is kept for the verbs whose remaining fields are read where they are used.
	CDB [16]byte
}

// Decode reads a CDB. cdb has at least 16 bytes (iSCSI pads); what lies beyond the command's length is ignored.
func Decode(cdb []byte) (Request, Sense) {
	var r Request
	if len(cdb) < 16 {
		return r, Illegal(InvalidOpcode)
	}
	copy(r.CDB[:], cdb)
	c := lookup(cdb[0], int(cdb[1]&serviceMask))
	if c == nil {
		if len(opcodeIndex[cdb[0]]) > 0 {
			return r, InvalidCDB(1) // the service action
		}
		return r, Illegal(InvalidOpcode)
	}
	r.Verb, r.Class, r.Writes, r.Opcode = c.verb, c.class, c.writes, c.opcode
	if c.service != anyService {
		r.Service = byte(c.service)
	}
	if cdb[len(c.usage)-1]&0x04 != 0 {
		return r, InvalidCDB(uint16(len(c.usage) - 1)) // NACA: not supported, NORMACA is 0
	}
	switch r.Verb {
	case VerbRead, VerbWrite, VerbWriteVerify, VerbVerify, VerbPrefetch, VerbSync, VerbWriteSame, VerbCompareAndWrite, VerbOrWrite:
		return r, r.medium()
	}
	return r, r.other()
}

// medium decodes the commands that name a range of blocks.
func (r *Request) medium() Sense {
	b := &r.CDB
	switch r.Opcode >> 5 {
	case 0:
		r.LBA = uint64(b[1]&0x1f)<<16 | uint64(b[2])<<8 | uint64(b[3])
		r.Blocks = uint64(b[4])
		if r.Blocks == 0 {
			r.Blocks = 256
		}
		return Sense{}
	case 1, 2:
		r.LBA = uint64(binary.BigEndian.Uint32(b[2:]))
		r.Blocks = uint64(binary.BigEndian.Uint16(b[7:]))
	case 5:
		r.LBA = uint64(binary.BigEndian.Uint32(b[2:]))
		r.Blocks = uint64(binary.BigEndian.Uint32(b[6:]))
	default:
		r.LBA = binary.BigEndian.Uint64(b[2:])
		r.Blocks = uint64(binary.BigEndian.Uint32(b[10:]))
		switch r.Opcode {
		case OpCompareAndWrite:
			r.Blocks = uint64(b[13])
		case OpWriteAtomic16:
			r.Blocks = uint64(binary.BigEndian.Uint16(b[12:]))
			r.Atomic = true
			if b[10] != 0 || b[11] != 0 {
				return InvalidCDB(10) // ATOMIC BOUNDARY: none is supported
			}
		}
	}
	// RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT: there is no protection information.
	if r.Verb != VerbPrefetch && r.Verb != VerbSync && b[1]&0xe0 != 0 {
		return InvalidCDB(1)
	}
	switch r.Verb {
	case VerbVerify, VerbWriteVerify:
		switch b[1] >> 1 & 3 {
		case 1:
			r.ByteCheck = true
		case 2:
			return InvalidCDB(1) // reserved
		case 3:
			// BYTCHK 11b: one block, compared with each block of the range. Only VERIFY has it.
			return InvalidCDB(1)
		}
	case VerbWriteSame:
		r.Unmap, r.Anchor = b[1]&8 != 0, b[1]&0x10 != 0
		r.NoData = r.Opcode == OpWriteSame16 && b[1]&1 != 0
		if r.Anchor {
			return InvalidCDB(1) // ANC_SUP is 0
		}
	}
	return Sense{}
}

// other decodes the remaining commands as far as their lengths and the checks that need no state.
func (r *Request) other() Sense {
	b := &r.CDB
	switch r.Verb {
	case VerbInquiry:
		r.AllocBytes = uint32(binary.BigEndian.Uint16(b[3:]))
		if b[1]&2 != 0 {
			return InvalidCDB(1) // CMDDT, obsolete
		}
		if b[1]&1 == 0 && b[2] != 0 {
			return InvalidCDB(2)
		}
	case VerbRequestSense:
		r.AllocBytes = uint32(b[4])
	case VerbModeSense, VerbModeSelect:
		n := uint32(b[4])
		if r.Opcode >= 0x40 {
			n = uint32(binary.BigEndian.Uint16(b[7:]))
		}
		if r.Verb == VerbModeSense {
			r.AllocBytes = n
		} else {
			r.ParameterBytes = n
			if b[1]&1 != 0 {
				return InvalidCDB(1) // SP: no saved pages
			}
			if b[1]&0x10 == 0 {
				return InvalidCDB(1) // PF=0: vendor specific format
			}
		}
	case VerbReserve, VerbRelease:
		if b[1]&0x1f != 0 {
			return InvalidCDB(1) // third-party and extent reservations are obsolete
		}
		if r.Opcode >= 0x40 {
			r.ParameterBytes = uint32(binary.BigEndian.Uint16(b[7:]))
		}
	case VerbReadCapacity10:
		r.AllocBytes = 8
		if lba := binary.BigEndian.Uint32(b[2:]); b[8]&1 == 0 && lba != 0 {
			return InvalidCDB(2)
		}
	case VerbReadCapacity16:
		r.AllocBytes = binary.BigEndian.Uint32(b[10:])
	case VerbGetLBAStatus:
		r.LBA = binary.BigEndian.Uint64(b[2:])
		r.AllocBytes = binary.BigEndian.Uint32(b[10:])
	case VerbReadDefect:
		r.AllocBytes = uint32(binary.BigEndian.Uint16(b[7:]))
		if r.Opcode == OpReadDefect12 {
			r.AllocBytes = binary.BigEndian.Uint32(b[6:])
		}
	case VerbUnmap:
		r.ParameterBytes = uint32(binary.BigEndian.Uint16(b[7:]))
		if b[1]&1 != 0 {
			return InvalidCDB(1) // ANCHOR
		}
	case VerbPRIn:
		r.AllocBytes = uint32(binary.BigEndian.Uint16(b[7:]))
	case VerbPROut:
		r.ParameterBytes = binary.BigEndian.Uint32(b[5:])
	case VerbReportLUNs, VerbReportTPG, VerbReportOpcodes:
		r.AllocBytes = binary.BigEndian.Uint32(b[6:])
		if r.Verb == VerbReportLUNs && r.AllocBytes < 16 {
			return InvalidCDB(6)
		}
	}
	return Sense{}
}

// ServiceActionOf returns the service action of commands that have one.
func ServiceActionOf(cdb []byte) byte { return cdb[1] & serviceMask }
