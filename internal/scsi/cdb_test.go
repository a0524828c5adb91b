package scsi

import (
	"bytes"
	"testing"
)

func cdb(b ...byte) []byte { return append(b, make([]byte, 16-len(b))...) }

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name string
		cdb  []byte
		want Request
		err  Sense
	}{
		{"READ (6) of 0 blocks means 256", cdb(0x08, 0x1f, 0xff, 0xff, 0), Request{Verb: VerbRead, LBA: 0x1fffff, Blocks: 256}, Sense{}},
		{"READ (10)", cdb(0x28, 0, 1, 2, 3, 4, 0, 5, 6), Request{Verb: VerbRead, LBA: 0x01020304, Blocks: 0x0506}, Sense{}},
		{"WRITE (12)", cdb(0xaa, 0, 1, 2, 3, 4, 5, 6, 7, 8), Request{Verb: VerbWrite, LBA: 0x01020304, Blocks: 0x05060708}, Sense{}},
		{"READ (16)", cdb(0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), Request{Verb: VerbRead, LBA: 0x0102030405060708, Blocks: 0x090a0b0c}, Sense{}},
		{"COMPARE AND WRITE counts in one byte", cdb(0x89, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4), Request{Verb: VerbCompareAndWrite, LBA: 9, Blocks: 4}, Sense{}},
		{"WRITE ATOMIC counts in two bytes", cdb(0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16), Request{Verb: VerbWrite, LBA: 8, Blocks: 16, Atomic: true}, Sense{}},
		{"WRITE SAME (16) with NDOB and UNMAP", cdb(0x93, 9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16), Request{Verb: VerbWriteSame, LBA: 8, Blocks: 16, Unmap: true, NoData: true}, Sense{}},
		{"protection is refused", cdb(0x28, 0x20), Request{}, InvalidCDB(1)},
		{"an unknown command", cdb(0xff), Request{}, Illegal(InvalidOpcode)},
		{"an unknown service action", cdb(0x9e, 0x1f), Request{}, InvalidCDB(1)},
		{"NACA is refused", cdb(0x00, 0, 0, 0, 0, 4), Request{}, InvalidCDB(5)},
		{"a page code without EVPD", cdb(0x12, 0, 0x80, 0, 96), Request{}, InvalidCDB(2)},
		{"a short CDB", []byte{0x28}, Request{}, Illegal(InvalidOpcode)},
	} {
		r, err := Decode(c.cdb)
		if err != c.err {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
			continue
		}
		if err.OK() && (r.Verb != c.want.Verb || r.LBA != c.want.LBA || r.Blocks != c.want.Blocks || r.Unmap != c.want.Unmap || r.NoData != c.want.NoData || r.Atomic != c.want.Atomic) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestEveryCommandOfTheTableIsDecodedAndReported(t *testing.T) {
	for i := range commands {
		c := &commands[i]
		if c.usage[0] != c.opcode {
			t.Errorf("opcode %#02x: usage map begins with %#02x", c.opcode, c.usage[0])
		}
		b := cdb(c.opcode)
		if c.service != anyService {
			b[1] = byte(c.service)
		}
		r, _ := Decode(b)
		if r.Verb != c.verb {
			t.Errorf("opcode %#02x service %d: verb %d, want %d", c.opcode, c.service, r.Verb, c.verb)
		}
		ask := cdb(0xa3, 0x0c, 3, c.opcode, 0, 0, 0, 0, 1, 0)
		if c.service != anyService {
			ask[5] = byte(c.service)
		}
		req, _ := Decode(ask)
		data, sense := ReportOpcodes(nil, &req)
		if !sense.OK() || data[1]&7 != 3 || !bytes.Equal(data[4:], c.usage) {
			t.Errorf("opcode %#02x is reported as %x (%v)", c.opcode, data, sense)
		}
	}
}

func TestSenseSurvivesBothFormats(t *testing.T) {
	for _, s := range []Sense{
		Illegal(InvalidOpcode), InvalidCDB(7), InvalidParameter(300),
		{Key: MediumError, Code: UnrecoveredRead, HasInfo: true, Info: 12345},
		{Key: UnitAttention, Code: CapacityChanged},
	} {
		for _, descriptor := range []bool{false, true} {
			got, ok := ParseSense(s.Append(nil, descriptor))
			if !ok || got != s {
				t.Errorf("descriptor %v: %+v became %+v", descriptor, s, got)
			}
		}
	}
	far := Sense{Key: MediumError, Code: UnrecoveredRead, HasInfo: true, Info: 1 << 40}
	if got, _ := ParseSense(far.Append(nil, false)); got.HasInfo {
		t.Error("a block number beyond 32 bits was cut in the fixed format")
	}
	if got, _ := ParseSense(far.Append(nil, true)); got != far {
		t.Error("descriptor format loses a large block number")
	}
}

func TestModeSelectChangesOnlyWhatItMay(t *testing.T) {
	var u Unit
	sense6 := func(page byte, m Mode) []byte {
		r, _ := Decode(cdb(0x1a, 8, page, 0, 255))
		b, s := u.ModeSense(nil, &r, m, false)
		if !s.OK() {
			t.Fatal(s)
		}
		b[0] = 0
		return b
	}
	r, s := Decode(cdb(0x15, 0x10, 0, 0, 16))
	if !s.OK() {
		t.Fatal(s)
	}
	b := sense6(pageControl, Mode{})
	b[4+2] |= controlDSense
	b[4+4] |= controlSWP
	m, s := u.ModeSelect(&r, b, Mode{})
	if !s.OK() || !m.DescriptorSense || !m.SoftwareProtect {
		t.Errorf("%+v, %v", m, s)
	}
	b[4+4] |= 1
	if _, s := u.ModeSelect(&r, b, Mode{}); s.OK() {
		t.Error("a bit that cannot be changed was changed")
	}
	b = sense6(pageCaching, Mode{})
	b[4+2] |= 4 // WCE
	if _, s := u.ModeSelect(&r, b, Mode{}); s.OK() {
		t.Error("the write cache was switched on")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, []byte{})
	f.Add([]byte{0x5f, 7, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 48))
	f.Add([]byte{0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 24))
	u := Unit{Serial: "s", Target: "iqn.x:t", Blocks: 1000, Thin: true}
	f.Fuzz(func(t *testing.T, cdb, data []byte) {
		r, sense := Decode(cdb)
		if !sense.OK() {
			sense.Append(nil, true)
			return
		}
		switch r.Verb {
		case VerbUnmap:
			ParseUnmap(data, 256)
		case VerbPROut:
			o, s := ParseReserveOut(&r, data)
			if s.OK() {
				var res Reservations
				next, _, _, _ := res.Apply(Nexus{Initiator: "i"}, o)
				if _, err := UnmarshalReservations(next.Marshal()); err != nil {
					t.Fatal(err)
				}
			}
		case VerbModeSelect:
			_, _ = u.ModeSelect(&r, data, Mode{})
		case VerbModeSense:
			_, _ = u.ModeSense(nil, &r, Mode{}, false)
		case VerbInquiry:
			_, _ = u.VPD(nil, r.CDB[2], 0)
		case VerbReportOpcodes:
			ReportOpcodes(nil, &r)
		case VerbReportTPG:
			ReportTargetPortGroups(nil, r.CDB[1])
		}
	})
}

func FuzzUnmarshalReservations(f *testing.F) {
	r := Reservations{Type: 1, Registrations: []Registration{{Nexus{Initiator: "iqn.x:i"}, 1}}}
	f.Add(r.Marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := UnmarshalReservations(data)
		if err != nil {
			return
		}
		_, _ = r.In(nil, PRReadFullStatus)
		_, _ = r.In(nil, PRReadReservation)
		r.Conflict(Nexus{}, ClassWrite)
	})
}

func FuzzParseSense(f *testing.F) {
	f.Add(InvalidCDB(1).Append(nil, true))
	f.Fuzz(func(_ *testing.T, data []byte) { ParseSense(data) })
}

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	c := cdb(0x88, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8)
	for b.Loop() {
		Decode(c)
	}
}
