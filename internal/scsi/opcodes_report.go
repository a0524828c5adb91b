package scsi

import "encoding/binary"

// ReportOpcodes appends REPORT SUPPORTED OPERATION CODES data (SPC-4 6.35).
func ReportOpcodes(b []byte, r *Request) ([]byte, Sense) {
	timeouts := r.CDB[2]&0x80 != 0
	options := r.CDB[2] & 7
	opcode := r.CDB[3]
	service := int(binary.BigEndian.Uint16(r.CDB[4:]))
	switch options {
	case 0:
		start := len(b)
		b = append(b, 0, 0, 0, 0)
		for i := range commands {
			b = appendDescriptor(b, &commands[i], timeouts)
		}
		binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
		return b, Sense{}
	case 1, 2, 3:
		rows := opcodeIndex[opcode]
		withService := len(rows) > 0 && rows[0].service != anyService
		if options == 1 && withService || options == 2 && len(rows) > 0 && !withService {
			return b, InvalidCDB(2)
		}
		var found *command
		for _, c := range rows {
			if c.service == anyService && (options != 3 || service == 0) || c.service == service {
				found = c
				break
			}
		}
		if found == nil {
			return append(b, 0, 1, 0, 0), Sense{} // SUPPORT 001b: not supported
		}
		support := byte(3)
		if timeouts {
			support |= 0x80
		}
		b = append(b, 0, support, 0, byte(len(found.usage)))
		b = append(b, found.usage...)
		if timeouts {
			b = appendTimeouts(b)
		}
		return b, Sense{}
	}
	return b, InvalidCDB(2)
}

func appendDescriptor(b []byte, c *command, timeouts bool) []byte {
	d := []byte{c.opcode, 0, 0, 0, 0, 0, 0, byte(len(c.usage))}
	if c.service != anyService {
		d[3] = byte(c.service)
		d[5] |= 1 // SERVACTV
	}
	if timeouts {
		d[5] |= 2 // CTDP
	}
	b = append(b, d...)
	if timeouts {
		b = appendTimeouts(b)
	}
	return b
}

// appendTimeouts appends a command timeouts descriptor that states no times.
func appendTimeouts(b []byte) []byte { return append(b, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) }
