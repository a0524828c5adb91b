package stacksim

import (
	"encoding/binary"
	"fmt"
)

const sectorBytes = 512

const magic = 0x494f4d53

// fill writes the content of a value into whole sectors, the first of which has the given number. Every sector says what it is: whose volume, which
// place, which write. Value 0 is zeroes.
func fill(p []byte, volume uint32, sector uint64, value uint32) {
	if value == 0 {
		clear(p)
		return
	}
	for len(p) > 0 {
		s := p[:sectorBytes]
		binary.LittleEndian.PutUint32(s, magic)
		binary.LittleEndian.PutUint32(s[4:], volume)
		binary.LittleEndian.PutUint64(s[8:], sector)
		binary.LittleEndian.PutUint32(s[16:], value)
		x := uint64(value)*0x9e3779b97f4a7c15 + sector
		for i := 20; i+8 <= sectorBytes; i += 8 {
			x = x*6364136223846793005 + 1442695040888963407
			binary.LittleEndian.PutUint64(s[i:], x)
		}
		binary.LittleEndian.PutUint32(s[sectorBytes-4:], uint32(x))
		p, sector = p[sectorBytes:], sector+1
	}
}

// value reads what whole sectors hold: all of them must be of one write, and nothing in them changed.
func value(p []byte, volume uint32, sector uint64) (uint32, error) {
	v := binary.LittleEndian.Uint32(p[16:])
	if binary.LittleEndian.Uint32(p) == 0 {
		v = 0
	}
	var want [sectorBytes]byte
	for i := 0; i < len(p); i += sectorBytes {
		at := sector + uint64(i/sectorBytes)
		fill(want[:], volume, at, v)
		if got := p[i : i+sectorBytes]; string(got) != string(want[:]) {
			return 0, fmt.Errorf("sector %d: holds %s, expected value %d of volume %d", at, describe(got), v, volume)
		}
	}
	return v, nil
}

func describe(s []byte) string {
	if binary.LittleEndian.Uint32(s) != magic {
		return fmt.Sprintf("% x…", s[:24])
	}
	return fmt.Sprintf("value %d of sector %d of volume %d", binary.LittleEndian.Uint32(s[16:]), binary.LittleEndian.Uint64(s[8:]), binary.LittleEndian.Uint32(s[4:]))
}
