package scsi

import (
	"encoding/binary"
	"fmt"
)

// Status is a SAM-5 status code.
type Status byte

// Status codes.
const (
	Good                Status = 0x00
	CheckCondition      Status = 0x02
	ConditionMet        Status = 0x04
	Busy                Status = 0x08
	ReservationConflict Status = 0x18
	TaskSetFull         Status = 0x28
	ACAActive           Status = 0x30
	TaskAborted         Status = 0x40
)

// Sense keys (SPC-4 table 55).
const (
	NoSense        = 0x0
	RecoveredError = 0x1
	NotReady       = 0x2
	MediumError    = 0x3
	HardwareError  = 0x4
	IllegalRequest = 0x5
	UnitAttention  = 0x6
	DataProtect    = 0x7
	AbortedCommand = 0xb
	Miscompare     = 0xe
)

// Code is an additional sense code and its qualifier: ASC<<8 | ASCQ (SPC-4 annex F).
type Code uint16

// Codes in use.
const (
	NoAdditional              Code = 0x0000
	WriteError                Code = 0x0c00
	NotReadyCauseUnknown      Code = 0x0400
	BecomingReady             Code = 0x0401
	TargetPortStandby         Code = 0x040b
	UnrecoveredRead           Code = 0x1100
	ParameterListLength       Code = 0x1a00
	MiscompareDuringVerify    Code = 0x1d00
	InvalidOpcode             Code = 0x2000
	LBAOutOfRange             Code = 0x2100
	InvalidFieldInCDB         Code = 0x2400
	LUNNotSupported           Code = 0x2500
	InvalidFieldInParameters  Code = 0x2600
	InvalidRelease            Code = 0x2604
	TooManyTargets            Code = 0x2606
	WriteProtected            Code = 0x2700
	SpaceAllocationFailed     Code = 0x2707
	PowerOnOrReset            Code = 0x2900
	BusDeviceReset            Code = 0x2903
	NexusLoss                 Code = 0x2907
	ModeParametersChanged     Code = 0x2a01
	ReservationsPreempted     Code = 0x2a03
	ReservationsReleased      Code = 0x2a04
	RegistrationsPreempted    Code = 0x2a05
	CapacityChanged           Code = 0x2a09
	CommandsClearedByOther    Code = 0x2f00
	InvalidPreventRemoval     Code = 0x5302
	SavingNotSupported        Code = 0x3900
	InsufficientReservation   Code = 0x5502
	InsufficientRegistration  Code = 0x5504
	InternalTargetFailure     Code = 0x4400
	DataPhaseError            Code = 0x4b00
	ProtocolServiceCRC        Code = 0x4705
	UnexpectedUnsolicitedData Code = 0x0c0c
	NotEnoughUnsolicitedData  Code = 0x0c0d
	InvalidCopyOperation      Code = 0x0d03
)

// Sense is why a command ended with CHECK CONDITION. The zero value is NO SENSE.
type Sense struct {
	Key  byte
	Code Code
	// HasInfo marks Info as valid: the LBA of a medium error, the byte offset of a miscompare.
	HasInfo bool
	Info    uint64
	// HasField marks Field as the number of the byte at fault, in the CDB or (InData) in the parameter list.
	HasField, InData bool
	Field            uint16
}

// OK reports whether s says nothing is wrong.
func (s Sense) OK() bool { return s == Sense{} }

// Error makes a Sense usable as an error in tests and logs.
func (s Sense) Error() string {
	t := fmt.Sprintf("sense %x/%02x/%02x", s.Key, byte(s.Code>>8), byte(s.Code))
	if s.HasInfo {
		t += fmt.Sprintf(" information %d", s.Info)
	}
	if s.HasField {
		t += fmt.Sprintf(" field %d", s.Field)
	}
	return t
}

// Illegal is ILLEGAL REQUEST with a code.
func Illegal(c Code) Sense { return Sense{Key: IllegalRequest, Code: c} }

// InvalidCDB is INVALID FIELD IN CDB at a byte.
func InvalidCDB(field uint16) Sense {
	return Sense{Key: IllegalRequest, Code: InvalidFieldInCDB, HasField: true, Field: field}
}

// InvalidParameter is INVALID FIELD IN PARAMETER LIST at a byte.
func InvalidParameter(field uint16) Sense {
	return Sense{Key: IllegalRequest, Code: InvalidFieldInParameters, HasField: true, InData: true, Field: field}
}

// Append encodes s in the fixed format (70h) or, if descriptor, the descriptor format (72h), of current errors (SPC-4 4.5).
func (s Sense) Append(dst []byte, descriptor bool) []byte {
	var ks [3]byte
	if s.HasField {
		ks[0] = 0x80
		if !s.InData {
			ks[0] |= 0x40
		}
		binary.BigEndian.PutUint16(ks[1:], s.Field)
	}
	if !descriptor {
		var b [18]byte
		b[0] = 0x70
		b[2] = s.Key
		// The information field of the fixed format has 32 bits; a larger value cannot be given in it.
		if s.HasInfo && s.Info <= 0xffffffff {
			b[0] |= 0x80
			binary.BigEndian.PutUint32(b[3:], uint32(s.Info))
		}
		b[7] = 10
		b[12], b[13] = byte(s.Code>>8), byte(s.Code)
		copy(b[15:], ks[:])
		return append(dst, b[:]...)
	}
	start := len(dst)
	dst = append(dst, 0x72, s.Key, byte(s.Code>>8), byte(s.Code), 0, 0, 0, 0)
	if s.HasInfo {
		dst = append(dst, 0, 10, 0x80, 0)
		dst = binary.BigEndian.AppendUint64(dst, s.Info)
	}
	if s.HasField {
		dst = append(dst, 2, 6, 0, 0, ks[0], ks[1], ks[2], 0)
	}
	dst[start+7] = byte(len(dst) - start - 8)
	return dst
}

// ParseSense reads either format. ok is false if b is neither.
func ParseSense(b []byte) (s Sense, ok bool) {
	if len(b) < 1 {
		return s, false
	}
	field := func(ks []byte) {
		if ks[0]&0x80 != 0 {
			s.HasField, s.InData, s.Field = true, ks[0]&0x40 == 0, binary.BigEndian.Uint16(ks[1:])
		}
	}
	switch b[0] & 0x7f {
	case 0x70, 0x71:
		if len(b) < 14 {
			return s, false
		}
		s.Key = b[2] & 0xf
		s.Code = Code(binary.BigEndian.Uint16(b[12:]))
		if b[0]&0x80 != 0 {
			s.HasInfo, s.Info = true, uint64(binary.BigEndian.Uint32(b[3:]))
		}
		if len(b) >= 18 {
			field(b[15:])
		}
		return s, true
	case 0x72, 0x73:
		if len(b) < 8 {
			return s, false
		}
		s.Key = b[1] & 0xf
		s.Code = Code(binary.BigEndian.Uint16(b[2:]))
		for d := b[8:]; len(d) >= 2 && len(d) >= int(d[1])+2; d = d[int(d[1])+2:] {
			switch {
			case d[0] == 0 && d[1] == 10 && d[2]&0x80 != 0:
				s.HasInfo, s.Info = true, binary.BigEndian.Uint64(d[4:])
			case d[0] == 2 && d[1] == 6:
				field(d[4:])
			}
		}
		return s, true
	}
	return s, false
}
