package smart

import (
	"encoding/binary"
	"fmt"
	"math"
)

// nvmeLogBytes is the size of the SMART / Health Information log.
const nvmeLogBytes = 512

// Bits of the critical warning (NVM Express Base Specification 2.0, figure 207).
const (
	nvmeSpare       = 1 << 0
	nvmeTemperature = 1 << 1
	nvmeReliability = 1 << 2
	nvmeReadOnly    = 1 << 3
	nvmeBackup      = 1 << 4
	nvmeMemory      = 1 << 5
)

// decodeNVMe decodes the log of a whole controller.
func decodeNVMe(p []byte) (Report, error) {
	if len(p) < nvmeLogBytes {
		return Report{}, fmt.Errorf("health log of %d bytes, want %d", len(p), nvmeLogBytes)
	}
	r := Report{Verdict: Passed}
	warning := p[0]
	for _, w := range []struct {
		bit  byte
		says string
	}{
		{nvmeSpare, fmt.Sprintf("spare blocks are down to %d %%, below the disk's threshold of %d %%", p[3], p[4])},
		{nvmeReliability, "the disk's reliability is degraded by media or internal errors"},
		{nvmeReadOnly, "the disk has made itself read-only"},
		{nvmeBackup, "the backup of the disk's volatile memory has failed"},
		{nvmeMemory, "the disk's persistent memory region has become unreliable"},
	} {
		if warning&w.bit != 0 {
			r.Verdict = Failed
			r.because("%s", w.says)
		}
	}
	if kelvin := int32(binary.LittleEndian.Uint16(p[1:])); kelvin != 0 {
		r.Temperature = of(kelvin - 273)
		if warning&nvmeTemperature != 0 {
			r.because("its temperature of %d °C is outside the disk's limits", kelvin-273)
		}
	}
	r.LifeLeft = left(p[5])
	r.PowerOnHours = counter128(p[128:])
	r.MediaErrors = counter128(p[160:])
	return r, nil
}

// counter128 is a counter of 16 bytes, little endian, capped.
func counter128(p []byte) *int64 {
	lo, hi := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
	if hi != 0 || lo > math.MaxInt64 {
		return of(int64(math.MaxInt64))
	}
	return of(int64(lo))
}
