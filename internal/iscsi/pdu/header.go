package pdu

import "encoding/binary"

// Size is the length of a basic header segment in bytes.
const Size = 48

// NoTag is the reserved value of initiator and target task tags.
const NoTag = 0xffffffff

// Opcode is the kind of a PDU (RFC 7143 §11.2.1.2), without the immediate bit.
type Opcode uint8

// Opcodes of initiators.
const (
	NopOut     Opcode = 0x00
	SCSICmd    Opcode = 0x01
	TaskReq    Opcode = 0x02
	LoginReq   Opcode = 0x03
	TextReq    Opcode = 0x04
	DataOut    Opcode = 0x05
	LogoutReq  Opcode = 0x06
	SNACK      Opcode = 0x10
	immediate         = 0x40
	opcodeMask        = 0x3f
)

// Opcodes of targets.
const (
	NopIn      Opcode = 0x20
	SCSIResp   Opcode = 0x21
	TaskResp   Opcode = 0x22
	LoginResp  Opcode = 0x23
	TextResp   Opcode = 0x24
	DataIn     Opcode = 0x25
	LogoutResp Opcode = 0x26
	R2T        Opcode = 0x31
	AsyncMsg   Opcode = 0x32
	Reject     Opcode = 0x3f
)

// Flags in byte 1.
const (
	// Final marks the last PDU of a sequence; in login it is Transit.
	Final = 0x80
	// Continue marks login and text parts that go on in the next PDU.
	Continue = 0x40
	// Read and Write are the directions of a SCSI command.
	Read  = 0x40
	Write = 0x20
	// Residual flags of SCSI responses and Data-In.
	Overflow  = 0x04
	Underflow = 0x02
	// HasStatus marks the Data-In that carries the status.
	HasStatus = 0x01
)

// Header is a basic header segment. Accessors name fields as RFC 7143 §11 does; those that exist only in some kinds of PDU say
// so. Reading a field of another kind gives other bytes, never a failure.
type Header [Size]byte

func (h *Header) u32(i int) uint32          { return binary.BigEndian.Uint32(h[i:]) }
func (h *Header) put32(i int, v uint32)     { binary.BigEndian.PutUint32(h[i:], v) }
func (h *Header) Opcode() Opcode            { return Opcode(h[0] & opcodeMask) }
func (h *Header) Immediate() bool           { return h[0]&immediate != 0 }
func (h *Header) Flags() byte               { return h[1] }
func (h *Header) Final() bool               { return h[1]&Final != 0 }
func (h *Header) AHSBytes() int             { return int(h[4]) * 4 }
func (h *Header) DataLen() int              { return int(h[5])<<16 | int(h[6])<<8 | int(h[7]) }
func (h *Header) LUN() uint64               { return binary.BigEndian.Uint64(h[8:]) }
func (h *Header) ITT() uint32               { return h.u32(16) }
func (h *Header) SetLUN(v uint64)           { binary.BigEndian.PutUint64(h[8:], v) }
func (h *Header) SetITT(v uint32)           { h.put32(16, v) }
func (h *Header) SetFlags(v byte)           { h[1] = v }
func (h *Header) SetOpcode(o Opcode)        { h[0] = byte(o) }
func (h *Header) SetImmediate(o Opcode)     { h[0] = byte(o) | immediate }
func (h *Header) SetDataLen(n int)          { h[5], h[6], h[7] = byte(n>>16), byte(n>>8), byte(n) }
func (h *Header) TTT() uint32               { return h.u32(20) } // NOP, Data-Out, Data-In, R2T, text
func (h *Header) SetTTT(v uint32)           { h.put32(20, v) }
func (h *Header) ExpectedLen() uint32       { return h.u32(20) } // SCSI command: expected data transfer length
func (h *Header) SetExpectedLen(v uint32)   { h.put32(20, v) }
func (h *Header) RefTag() uint32            { return h.u32(20) } // task management request: referenced task tag
func (h *Header) SetRefTag(v uint32)        { h.put32(20, v) }
func (h *Header) CmdSN() uint32             { return h.u32(24) } // of initiators
func (h *Header) SetCmdSN(v uint32)         { h.put32(24, v) }
func (h *Header) StatSN() uint32            { return h.u32(24) } // of targets
func (h *Header) SetStatSN(v uint32)        { h.put32(24, v) }
func (h *Header) ExpStatSN() uint32         { return h.u32(28) } // of initiators
func (h *Header) SetExpStatSN(v uint32)     { h.put32(28, v) }
func (h *Header) ExpCmdSN() uint32          { return h.u32(28) } // of targets
func (h *Header) SetExpCmdSN(v uint32)      { h.put32(28, v) }
func (h *Header) MaxCmdSN() uint32          { return h.u32(32) } // of targets
func (h *Header) SetMaxCmdSN(v uint32)      { h.put32(32, v) }
func (h *Header) CDB() []byte               { return h[32:48] }  // SCSI command
func (h *Header) RefCmdSN() uint32          { return h.u32(32) } // task management request
func (h *Header) SetRefCmdSN(v uint32)      { h.put32(32, v) }
func (h *Header) DataSN() uint32            { return h.u32(36) } // Data-Out, Data-In; R2TSN of R2T
func (h *Header) SetDataSN(v uint32)        { h.put32(36, v) }
func (h *Header) BufferOffset() uint32      { return h.u32(40) } // Data-Out, Data-In, R2T
func (h *Header) SetBufferOffset(v uint32)  { h.put32(40, v) }
func (h *Header) DesiredLen() uint32        { return h.u32(44) } // R2T
func (h *Header) SetDesiredLen(v uint32)    { h.put32(44, v) }
func (h *Header) ResidualCount() uint32     { return h.u32(44) } // SCSI response, Data-In
func (h *Header) SetResidualCount(v uint32) { h.put32(44, v) }

// Response is byte 2: the response code of SCSI, task management and logout responses, the reason of a Reject.
func (h *Header) Response() byte     { return h[2] }
func (h *Header) SetResponse(v byte) { h[2] = v }

// SCSIStatus is byte 3 of a SCSI response or of a Data-In with HasStatus.
func (h *Header) SCSIStatus() byte     { return h[3] }
func (h *Header) SetSCSIStatus(v byte) { h[3] = v }

// Function is the function of a task management request or the reason of a logout request.
func (h *Header) Function() byte { return h[1] & 0x7f }

// ISID, TSIH and CID are fields of login requests and responses.
func (h *Header) ISID() (id [6]byte) { copy(id[:], h[8:14]); return id }
func (h *Header) SetISID(id [6]byte) { copy(h[8:14], id[:]) }
func (h *Header) TSIH() uint16       { return binary.BigEndian.Uint16(h[14:]) }
func (h *Header) SetTSIH(v uint16)   { binary.BigEndian.PutUint16(h[14:], v) }
func (h *Header) CID() uint16        { return binary.BigEndian.Uint16(h[20:]) }
func (h *Header) SetCID(v uint16)    { binary.BigEndian.PutUint16(h[20:], v) }

// LoginStatus is class<<8 | detail of a login response.
func (h *Header) LoginStatus() uint16     { return binary.BigEndian.Uint16(h[36:]) }
func (h *Header) SetLoginStatus(v uint16) { binary.BigEndian.PutUint16(h[36:], v) }

// CSG and NSG are the current and next stage of a login PDU.
func (h *Header) CSG() byte { return h[1] >> 2 & 3 }
func (h *Header) NSG() byte { return h[1] & 3 }

// AsyncEvent and Parameters are fields of an asynchronous message.
func (h *Header) AsyncEvent() byte     { return h[36] }
func (h *Header) SetAsyncEvent(v byte) { h[36] = v }
func (h *Header) SetParameters(a, b, c uint16) {
	binary.BigEndian.PutUint16(h[38:], a)
	binary.BigEndian.PutUint16(h[40:], b)
	binary.BigEndian.PutUint16(h[42:], c)
}

// LUNOf encodes a small logical unit number (below 256) in the peripheral device addressing of SAM-5 4.7.
func LUNOf(n uint8) uint64 { return uint64(n) << 48 }

// After reports whether sequence number a comes after b (RFC 1982 serial arithmetic, RFC 7143 §4.2.2).
func After(a, b uint32) bool { return int32(a-b) > 0 }
