package scsi

// Operation codes (SPC-4 annex E.3, SBC-3).
const (
	OpTestUnitReady   = 0x00
	OpRequestSense    = 0x03
	OpRead6           = 0x08
	OpWrite6          = 0x0a
	OpInquiry         = 0x12
	OpModeSelect6     = 0x15
	OpReserve6        = 0x16
	OpRelease6        = 0x17
	OpModeSense6      = 0x1a
	OpStartStop       = 0x1b
	OpPreventAllow    = 0x1e
	OpReadCapacity10  = 0x25
	OpRead10          = 0x28
	OpWrite10         = 0x2a
	OpWriteVerify10   = 0x2e
	OpVerify10        = 0x2f
	OpPrefetch10      = 0x34
	OpSync10          = 0x35
	OpReadDefect10    = 0x37
	OpWriteSame10     = 0x41
	OpUnmap           = 0x42
	OpModeSelect10    = 0x55
	OpReserve10       = 0x56
	OpRelease10       = 0x57
	OpModeSense10     = 0x5a
	OpPRIn            = 0x5e
	OpPROut           = 0x5f
	OpRead16          = 0x88
	OpCompareAndWrite = 0x89
	OpWrite16         = 0x8a
	OpOrWrite         = 0x8b
	OpWriteVerify16   = 0x8e
	OpVerify16        = 0x8f
	OpPrefetch16      = 0x90
	OpSync16          = 0x91
	OpWriteSame16     = 0x93
	OpWriteAtomic16   = 0x9c
	OpServiceIn16     = 0x9e
	OpReportLUNs      = 0xa0
	OpMaintenanceIn   = 0xa3
	OpRead12          = 0xa8
	OpWrite12         = 0xaa
	OpWriteVerify12   = 0xae
	OpVerify12        = 0xaf
	OpReadDefect12    = 0xb7
)

// Service actions.
const (
	saReadCapacity16 = 0x10
	saGetLBAStatus   = 0x12
	saReportTPG      = 0x0a
	saReportOpcodes  = 0x0c
)

// Verb is what a command asks, over all its sizes.
type Verb uint8

// Verbs.
const (
	VerbTestUnitReady Verb = iota + 1
	VerbRequestSense
	VerbInquiry
	VerbModeSelect
	VerbModeSense
	VerbReserve
	VerbRelease
	VerbStartStop
	VerbPreventAllow
	VerbReadCapacity10
	VerbReadCapacity16
	VerbRead
	VerbWrite
	VerbWriteVerify
	VerbVerify
	VerbPrefetch
	VerbSync
	VerbReadDefect
	VerbWriteSame
	VerbUnmap
	VerbPRIn
	VerbPROut
	VerbCompareAndWrite
	VerbOrWrite
	VerbGetLBAStatus
	VerbReportLUNs
	VerbReportTPG
	VerbReportOpcodes
)

// Class says how reservations treat a command (SPC-4 tables 65 and 66, SBC-3 table 13).
type Class uint8

// Classes.
const (
	// ClassFree commands are allowed always.
	ClassFree Class = iota
	// ClassRead commands are refused to others under exclusive access only.
	ClassRead
	// ClassWrite commands are refused to others under every reservation.
	ClassWrite
	// ClassReservation commands check for themselves.
	ClassReservation
)

const anyService = -1

// command is a row of the table of supported commands. usage is the CDB usage map of REPORT SUPPORTED OPERATION CODES (SPC-4
// 6.35.3): its length is that of the CDB.
type command struct {
	opcode  byte
	service int
	verb    Verb
	class   Class
	writes  bool // refused on a write protected unit
	usage   []byte
}

// serviceMask is where in the CDB a service action is.
const serviceMask = 0x1f

var (
	usage6rw  = []byte{0xff, 0x1f, 0xff, 0xff, 0xff, 0x07}
	usage10rw = []byte{0xff, 0xfa, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x07}
	usage12rw = []byte{0xff, 0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x07}
	usage16rw = []byte{0xff, 0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x07}
)

// with returns a copy of a usage map with another opcode and second byte.
func with(usage []byte, opcode, second byte) []byte {
	u := append([]byte(nil), usage...)
	u[0], u[1] = opcode, second
	return u
}

func opened(usage []byte, opcode byte) []byte { return with(usage, opcode, usage[1]) }

func prUsage(opcode, service byte) []byte {
	if opcode == OpPRIn {
		return []byte{opcode, service, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07}
	}
	return []byte{opcode, service, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07}
}

var commands = buildCommands()

func buildCommands() []command {
	c := []command{
		{OpTestUnitReady, anyService, VerbTestUnitReady, ClassFree, false, []byte{OpTestUnitReady, 0, 0, 0, 0, 0x07}},
		{OpRequestSense, anyService, VerbRequestSense, ClassFree, false, []byte{OpRequestSense, 1, 0, 0, 0xff, 0x07}},
		{OpRead6, anyService, VerbRead, ClassRead, false, opened(usage6rw, OpRead6)},
		{OpWrite6, anyService, VerbWrite, ClassWrite, true, opened(usage6rw, OpWrite6)},
		{OpInquiry, anyService, VerbInquiry, ClassFree, false, []byte{OpInquiry, 1, 0xff, 0xff, 0xff, 0x07}},
		{OpModeSelect6, anyService, VerbModeSelect, ClassWrite, false, []byte{OpModeSelect6, 0x11, 0, 0, 0xff, 0x07}},
		{OpReserve6, anyService, VerbReserve, ClassReservation, false, []byte{OpReserve6, 0, 0, 0, 0, 0x07}},
		{OpRelease6, anyService, VerbRelease, ClassReservation, false, []byte{OpRelease6, 0, 0, 0, 0, 0x07}},
		{OpModeSense6, anyService, VerbModeSense, ClassRead, false, []byte{OpModeSense6, 0x08, 0xff, 0xff, 0xff, 0x07}},
		{OpStartStop, anyService, VerbStartStop, ClassWrite, false, []byte{OpStartStop, 1, 0, 0x0f, 0xf7, 0x07}},
		{OpPreventAllow, anyService, VerbPreventAllow, ClassFree, false, []byte{OpPreventAllow, 0, 0, 0, 3, 0x07}},
		{OpReadCapacity10, anyService, VerbReadCapacity10, ClassFree, false, []byte{OpReadCapacity10, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0x07}},
		{OpRead10, anyService, VerbRead, ClassRead, false, opened(usage10rw, OpRead10)},
		{OpWrite10, anyService, VerbWrite, ClassWrite, true, opened(usage10rw, OpWrite10)},
		{OpWriteVerify10, anyService, VerbWriteVerify, ClassWrite, true, with(usage10rw, OpWriteVerify10, 0xf6)},
		{OpVerify10, anyService, VerbVerify, ClassRead, false, with(usage10rw, OpVerify10, 0xf6)},
		{OpPrefetch10, anyService, VerbPrefetch, ClassRead, false, with(usage10rw, OpPrefetch10, 2)},
		{OpSync10, anyService, VerbSync, ClassWrite, false, with(usage10rw, OpSync10, 6)},
		{OpReadDefect10, anyService, VerbReadDefect, ClassRead, false, []byte{OpReadDefect10, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0x07}},
		{OpWriteSame10, anyService, VerbWriteSame, ClassWrite, true, with(usage10rw, OpWriteSame10, 0xf8)},
		{OpUnmap, anyService, VerbUnmap, ClassWrite, true, []byte{OpUnmap, 1, 0, 0, 0, 0, 0x1f, 0xff, 0xff, 0x07}},
		{OpModeSelect10, anyService, VerbModeSelect, ClassWrite, false, []byte{OpModeSelect10, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07}},
		{OpReserve10, anyService, VerbReserve, ClassReservation, false, []byte{OpReserve10, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07}},
		{OpRelease10, anyService, VerbRelease, ClassReservation, false, []byte{OpRelease10, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07}},
		{OpModeSense10, anyService, VerbModeSense, ClassRead, false, []byte{OpModeSense10, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x07}},
		{OpRead16, anyService, VerbRead, ClassRead, false, opened(usage16rw, OpRead16)},
		{OpCompareAndWrite, anyService, VerbCompareAndWrite, ClassWrite, true,
			[]byte{OpCompareAndWrite, 0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x1f, 0x07}},
		{OpWrite16, anyService, VerbWrite, ClassWrite, true, opened(usage16rw, OpWrite16)},
		{OpOrWrite, anyService, VerbOrWrite, ClassWrite, true, opened(usage16rw, OpOrWrite)},
		{OpWriteVerify16, anyService, VerbWriteVerify, ClassWrite, true, with(usage16rw, OpWriteVerify16, 0xf6)},
		{OpVerify16, anyService, VerbVerify, ClassRead, false, with(usage16rw, OpVerify16, 0xf6)},
		{OpPrefetch16, anyService, VerbPrefetch, ClassRead, false, with(usage16rw, OpPrefetch16, 2)},
		{OpSync16, anyService, VerbSync, ClassWrite, false, with(usage16rw, OpSync16, 6)},
		{OpWriteSame16, anyService, VerbWriteSame, ClassWrite, true, with(usage16rw, OpWriteSame16, 0xf9)},
		{OpWriteAtomic16, anyService, VerbWrite, ClassWrite, true,
			[]byte{OpWriteAtomic16, 0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0x1f, 0x07}},
		{OpServiceIn16, saReadCapacity16, VerbReadCapacity16, ClassFree, false,
			[]byte{OpServiceIn16, saReadCapacity16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0x07}},
		{OpServiceIn16, saGetLBAStatus, VerbGetLBAStatus, ClassRead, false,
			[]byte{OpServiceIn16, saGetLBAStatus, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
		{OpReportLUNs, anyService, VerbReportLUNs, ClassFree, false, []byte{OpReportLUNs, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
		{OpMaintenanceIn, saReportTPG, VerbReportTPG, ClassFree, false,
			[]byte{OpMaintenanceIn, 0xe0 | saReportTPG, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
		{OpMaintenanceIn, saReportOpcodes, VerbReportOpcodes, ClassFree, false,
			[]byte{OpMaintenanceIn, saReportOpcodes, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
		{OpRead12, anyService, VerbRead, ClassRead, false, opened(usage12rw, OpRead12)},
		{OpWrite12, anyService, VerbWrite, ClassWrite, true, opened(usage12rw, OpWrite12)},
		{OpWriteVerify12, anyService, VerbWriteVerify, ClassWrite, true, with(usage12rw, OpWriteVerify12, 0xf6)},
		{OpVerify12, anyService, VerbVerify, ClassRead, false, with(usage12rw, OpVerify12, 0xf6)},
		{OpReadDefect12, anyService, VerbReadDefect, ClassRead, false, []byte{OpReadDefect12, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	}
	for sa := range byte(4) {
		c = append(c, command{OpPRIn, int(sa), VerbPRIn, ClassFree, false, prUsage(OpPRIn, sa)})
	}
	for sa := range byte(8) {
		c = append(c, command{OpPROut, int(sa), VerbPROut, ClassReservation, false, prUsage(OpPROut, sa)})
	}
	return c
}

// opcodeIndex maps an opcode to its rows of the table.
var opcodeIndex = func() (ix [256][]*command) {
	for i := range commands {
		c := &commands[i]
		ix[c.opcode] = append(ix[c.opcode], c)
	}
	return ix
}()

func lookup(opcode byte, service int) *command {
	for _, c := range opcodeIndex[opcode] {
		if c.service == anyService || c.service == service {
			return c
		}
	}
	return nil
}
