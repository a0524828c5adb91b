package scsi

import "encoding/binary"

// Mode is the changeable part of the mode pages. It is shared by all initiators and not saved.
type Mode struct {
	// DescriptorSense is D_SENSE of the control mode page.
	DescriptorSense bool
	// SoftwareProtect is SWP of the control mode page: writes are refused.
	SoftwareProtect bool
}

// Mode pages (SPC-4 7.5, SBC-3 6.4).
const (
	pageErrorRecovery = 0x01
	pageCaching       = 0x08
	pageControl       = 0x0a
	pageExceptions    = 0x1c
	pageAll           = 0x3f
)

const (
	controlDSense = 0x04 // byte 2
	controlSWP    = 0x08 // byte 4
)

// page appends one mode page: its current values, or the mask of what can be changed.
func (m Mode) page(b []byte, code byte, changeable bool) []byte {
	var p [20]byte
	p[0] = code
	size := 12
	switch code {
	case pageErrorRecovery:
		if !changeable {
			p[2] = 0xc0 // AWRE, ARRE: a bad block is repaired from another replica
		}
	case pageCaching:
		// WCE 0: what is acknowledged is durable (I1). RCD 0.
		size = 20
	case pageControl:
		if changeable || m.DescriptorSense {
			p[2] |= controlDSense
		}
		if changeable || m.SoftwareProtect {
			p[4] |= controlSWP
		}
		if !changeable {
			p[3] = 0x10             // queue algorithm: unrestricted reordering, as overlapping commands are ordered below
			p[8], p[9] = 0xff, 0xff // busy timeout: unlimited
		}
	case pageExceptions:
	default:
		return b
	}
	p[1] = byte(size - 2)
	return append(b, p[:size]...)
}

var modePages = []byte{pageErrorRecovery, pageCaching, pageControl, pageExceptions}

// ModeSense appends MODE SENSE (6) or (10) data (SPC-4 6.13). protected is whether writes are refused for any reason.
func (u *Unit) ModeSense(b []byte, r *Request, m Mode, protected bool) ([]byte, Sense) {
	control, page, subpage := r.CDB[2]>>6, r.CDB[2]&0x3f, r.CDB[3]
	if control == 3 {
		return b, Illegal(SavingNotSupported)
	}
	if subpage != 0 && subpage != 0xff {
		return b, InvalidCDB(3)
	}
	if control == 2 {
		m = Mode{}
	}
	long := r.Opcode == OpModeSense10
	var descriptor []byte
	switch {
	case r.CDB[1]&0x08 != 0: // DBD
	case long && r.CDB[1]&0x10 != 0: // LLBAA
		descriptor = binary.BigEndian.AppendUint64(nil, u.Blocks)
		descriptor = append(descriptor, 0, 0, 0, 0)
		descriptor = binary.BigEndian.AppendUint32(descriptor, BlockBytes)
	default:
		n := uint32(min(u.Blocks, 0xffffffff))
		descriptor = binary.BigEndian.AppendUint32(nil, n)
		descriptor = append(descriptor, 0, byte(BlockBytes>>16), byte(BlockBytes>>8&0xff), byte(BlockBytes&0xff))
	}
	specific := byte(0x10) // DPOFUA
	if protected {
		specific |= 0x80
	}
	start := len(b)
	if long {
		b = append(b, 0, 0, 0, specific, 0, 0, 0, byte(len(descriptor)))
		if len(descriptor) == 16 {
			b[start+4] = 1 // LONGLBA
		}
	} else {
		b = append(b, 0, 0, specific, byte(len(descriptor)))
	}
	b = append(b, descriptor...)
	found := false
	for _, p := range modePages {
		if page == p || page == pageAll {
			b = m.page(b, p, control == 1)
			found = true
		}
	}
	if !found {
		return b[:start], InvalidCDB(2)
	}
	if long {
		binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start-2))
	} else {
		b[start] = byte(len(b) - start - 1)
	}
	return b, Sense{}
}

// ModeSelect applies a MODE SELECT parameter list (SPC-4 6.11) and returns the new state. Changing anything that cannot be
// changed is refused as a whole.
func (u *Unit) ModeSelect(r *Request, data []byte, m Mode) (Mode, Sense) {
	if len(data) == 0 {
		return m, Sense{}
	}
	at, descriptorBytes := 4, 0
	if r.Opcode == OpModeSelect10 {
		at = 8
	}
	if len(data) < at {
		return m, Illegal(ParameterListLength)
	}
	if at == 4 {
		descriptorBytes = int(data[3])
	} else {
		descriptorBytes = int(binary.BigEndian.Uint16(data[6:]))
	}
	if len(data) < at+descriptorBytes {
		return m, Illegal(ParameterListLength)
	}
	if descriptorBytes == 8 {
		d := data[at:]
		if length := uint32(d[5])<<16 | uint32(d[6])<<8 | uint32(d[7]); length != BlockBytes {
			return m, InvalidParameter(uint16(at + 5))
		}
	}
	at += descriptorBytes
	next := m
	for at < len(data) {
		p := data[at:]
		if len(p) < 2 || len(p) < int(p[1])+2 {
			return m, Illegal(ParameterListLength)
		}
		if p[0]&0x40 != 0 {
			return m, InvalidParameter(uint16(at)) // subpages: none
		}
		code := p[0] & 0x3f
		p = p[:int(p[1])+2]
		current := m.page(nil, code, false)
		mask := m.page(nil, code, true)
		if len(current) == 0 || len(current) != len(p) {
			return m, InvalidParameter(uint16(at))
		}
		for i := 2; i < len(p); i++ {
			if (p[i]^current[i])&^mask[i] != 0 {
				return m, InvalidParameter(uint16(at + i))
			}
		}
		if code == pageControl {
			next.DescriptorSense = p[2]&controlDSense != 0
			next.SoftwareProtect = p[4]&controlSWP != 0
		}
		at += len(p)
	}
	return next, Sense{}
}
