package smart

import (
	"encoding/binary"
	"fmt"
)

// Log pages.
const (
	pageSolidState = 0x11 // SBC-4 6.4.11
	pageExceptions = 0x2f // SPC-5 7.3.9
)

// parameters calls f with each parameter of a log page: its code and its value.
func parameters(p []byte, page byte, f func(code uint16, value []byte)) error {
	if len(p) < 4 || p[0]&0x3f != page {
		return fmt.Errorf("no log page %#02x in the answer", page)
	}
	body := p[4:min(len(p), 4+int(binary.BigEndian.Uint16(p[2:])))]
	for len(body) >= 4 {
		n := int(body[3])
		if len(body) < 4+n {
			return fmt.Errorf("log page %#02x ends within a parameter", page)
		}
		f(binary.BigEndian.Uint16(body), body[4:4+n])
		body = body[4+n:]
	}
	return nil
}

// decodeExceptions decodes the Informational Exceptions log page.
func decodeExceptions(p []byte, r *Report) error {
	const prediction = 0x5d
	return parameters(p, pageExceptions, func(code uint16, v []byte) {
		if code != 0 || len(v) < 3 {
			return
		}
		r.Verdict = Passed
		if v[0] == prediction {
			r.Verdict = Failed
			r.because("the disk predicts its failure (additional sense %02xh/%02xh)", v[0], v[1])
		}
		if v[2] != 0 && v[2] != 0xff {
			r.Temperature = of(int32(v[2]))
		}
	})
}

// decodeSolidState decodes the Solid State Media log page.
func decodeSolidState(p []byte, r *Report) error {
	return parameters(p, pageSolidState, func(code uint16, v []byte) {
		if code == 1 && len(v) >= 4 {
			r.LifeLeft = left(v[3])
		}
	})
}
