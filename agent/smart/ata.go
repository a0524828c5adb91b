package smart

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	ataSectorBytes = 512
	ataAttributes  = 30
	ataAttrBytes   = 12
)

// Numbers of attributes that nearly all makers use alike.
const (
	attrReallocated  = 5
	attrPowerOn      = 9
	attrAirflow      = 190
	attrTemperature  = 194
	attrPending      = 197
	attrLifeLeft     = 231
	attrMediaWearout = 233
	attrLifeRemains  = 202
	attrRemaining    = 169
	attrWearLeveling = 177
)

// lifeAttributes are those whose normalised value is the life left of an SSD, the most telling first.
var lifeAttributes = []byte{attrLifeLeft, attrMediaWearout, attrLifeRemains, attrRemaining, attrWearLeveling}

// errNoSMART is a disk that does not answer.
var errNoSMART = errors.New("the disk does not answer")

// attribute is one of SMART READ DATA.
type attribute struct {
	value byte
	raw   uint64 // 48 bits
}

// decodeATA decodes the answer to SMART READ DATA. ssd says that the numbers of solid state disks hold.
func decodeATA(p []byte, ssd bool) (Report, error) {
	if len(p) < ataSectorBytes {
		return Report{}, fmt.Errorf("SMART data of %d bytes, want %d", len(p), ataSectorBytes)
	}
	p = p[:ataSectorBytes]
	var sum byte
	for _, b := range p {
		sum += b
	}
	if sum != 0 {
		return Report{}, errors.New("SMART data with a wrong checksum")
	}
	attrs := map[byte]attribute{}
	for i := range ataAttributes {
		a := p[2+i*ataAttrBytes:][:ataAttrBytes]
		if a[0] != 0 {
			attrs[a[0]] = attribute{a[3], uint64(binary.LittleEndian.Uint32(a[5:])) | uint64(binary.LittleEndian.Uint16(a[9:]))<<32}
		}
	}
	var r Report
	// The upper half of the self-test execution status: 0 passed or never run, 1 and 2 interrupted, 3 to 8 failed, 15 running (ACS-3 table 136).
	switch status := p[363] >> 4; {
	case status >= 3 && status <= 8:
		r.SelfTest = Failed
		r.because("its last self-test failed with status %d", status)
	case status == 0:
		r.SelfTest = Passed
	}
	if a, ok := attrs[attrReallocated]; ok {
		r.ReallocatedSectors = of(int64(a.raw))
	}
	if a, ok := attrs[attrPending]; ok {
		r.PendingSectors = of(int64(a.raw))
	}
	if a, ok := attrs[attrPowerOn]; ok {
		// Some put minutes or milliseconds into the upper half.
		r.PowerOnHours = of(int64(a.raw & 0xffffffff))
	}
	for _, id := range []byte{attrTemperature, attrAirflow} {
		// The lowest byte is the temperature now, what follows its extremes.
		if a, ok := attrs[id]; ok {
			r.Temperature = of(int32(int8(a.raw)))
			break
		}
	}
	if ssd {
		for _, id := range lifeAttributes {
			if a, ok := attrs[id]; ok && a.value > 0 {
				r.LifeLeft = of(min(100, int32(a.value)))
				break
			}
		}
	}
	return r, nil
}

// decodeStatistics finds the percentage used in page 07h of the Device Statistics log; nil if the disk does not fill it in.
func decodeStatistics(p []byte) *int32 {
	const page, supported, valid = 7, 1 << 7, 1 << 6
	if len(p) < ataSectorBytes || p[2] != page || p[15]&(supported|valid) != supported|valid {
		return nil
	}
	return left(p[8])
}

// decodeStatus takes the disk's verdict out of the sense data of SMART RETURN STATUS, an ATA Status Return descriptor (SAT-4 12.2.7).
func decodeStatus(sense []byte) (Verdict, error) {
	const format, descriptor, length = 0x72, 0x09, 14
	if len(sense) < 8 || sense[0]&0x7f != format {
		return Unknown, errNoSMART
	}
	for d := sense[8:min(len(sense), 8+int(sense[7]))]; len(d) >= 2; d = d[min(len(d), 2+int(d[1])):] {
		if d[0] != descriptor || len(d) < length {
			continue
		}
		switch mid, high := d[9], d[11]; {
		case mid == 0x4f && high == 0xc2:
			return Passed, nil
		case mid == 0xf4 && high == 0x2c:
			return Failed, nil
		}
	}
	return Unknown, errNoSMART
}
