package scsi

import "encoding/binary"

// Service actions of SANITIZE (SBC-3 5.24).
const (
	SanitizeOverwrite   = 0x01
	SanitizeBlockErase  = 0x02
	SanitizeExitFailure = 0x1f
)

// ParseOverwrite reads the parameter list of SANITIZE OVERWRITE (SBC-3 5.24.2) and returns the initialisation pattern.
func ParseOverwrite(data []byte) (pattern []byte, _ Sense) {
	if len(data) < 5 {
		return nil, InvalidCDB(7)
	}
	count := data[0] & 0x1f
	if count == 0 {
		return nil, InvalidParameter(0)
	}
	n := int(binary.BigEndian.Uint16(data[2:]))
	if n == 0 || n > BlockBytes || len(data) != 4+n {
		return nil, InvalidParameter(2)
	}
	return data[4:], Sense{}
}
