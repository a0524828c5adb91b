package scsi

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// ParseReserveOut decodes a PERSISTENT RESERVE OUT with its parameter list (SPC-4 6.17).
func ParseReserveOut(r *Request, data []byte) (ReserveOut, Sense) {
	o := ReserveOut{Action: r.Service, Type: ReservationType(r.CDB[2] & 0xf)}
	scoped := o.Action == PRReserve || o.Action == PRRelease || o.Action == PRPreempt || o.Action == PRPreemptAbort
	if scoped && r.CDB[2]>>4 != 0 {
		return o, InvalidCDB(2) // only the scope of the logical unit exists
	}
	if o.Action != PRRegisterMove && r.ParameterBytes != 24 || len(data) < 24 || len(data) != int(r.ParameterBytes) {
		return o, Illegal(ParameterListLength)
	}
	o.Key = binary.BigEndian.Uint64(data)
	o.ServiceKey = binary.BigEndian.Uint64(data[8:])
	if o.Action != PRRegisterMove {
		if data[20]&0x08 != 0 {
			return o, InvalidParameter(20) // SPEC_I_PT: not supported (SIP_C 0)
		}
		o.Persist = data[20]&1 != 0
		return o, Sense{}
	}
	o.Unregister, o.Persist = data[17]&2 != 0, data[17]&1 != 0
	if binary.BigEndian.Uint16(data[18:]) != RelativePort {
		return o, InvalidParameter(18)
	}
	n := binary.BigEndian.Uint32(data[20:])
	if uint64(n) != uint64(len(data)-24) || n < 24 || n%4 != 0 {
		return o, InvalidParameter(20)
	}
	to, ok := parseTransportID(data[24:])
	if !ok {
		return o, InvalidParameter(24)
	}
	o.To = to
	return o, Sense{}
}

// parseTransportID reads an iSCSI TransportID of format 01b, "name,i,0xISID" (SPC-4 7.6.4.6).
func parseTransportID(b []byte) (n Nexus, ok bool) {
	if len(b) < 4 || b[0] != 0x45 {
		return n, false
	}
	size := int(binary.BigEndian.Uint16(b[2:]))
	if size > len(b)-4 {
		return n, false
	}
	s, _, _ := strings.Cut(string(b[4:4+size]), "\x00")
	name, isid, found := strings.Cut(s, ",i,0x")
	if !found || name == "" || len(name) > 223 {
		return n, false
	}
	id, err := hex.DecodeString(isid)
	if err != nil || len(id) != 6 {
		return n, false
	}
	n.Initiator = strings.ToLower(name)
	copy(n.ISID[:], id)
	return n, true
}

func appendTransportID(b []byte, n Nexus) []byte {
	s := append([]byte(n.Initiator+",i,0x"+hex.EncodeToString(n.ISID[:])), 0)
	for len(s)%4 != 0 {
		s = append(s, 0)
	}
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// TransportID returns the TransportID of a nexus, for REGISTER AND MOVE.
func TransportID(n Nexus) []byte { return appendTransportID(nil, n) }

// In appends the data of a PERSISTENT RESERVE IN (SPC-4 6.16).
func (r *Reservations) In(b []byte, action byte) ([]byte, Sense) {
	start := len(b)
	switch action {
	case PRReadKeys:
		b = r.preface(b)
		for _, g := range r.Registrations {
			b = binary.BigEndian.AppendUint64(b, g.Key)
		}
	case PRReadReservation:
		b = r.preface(b)
		if r.Type != 0 {
			var key uint64
			if !r.Type.all() {
				key = r.Registrations[r.Holder].Key
			}
			b = binary.BigEndian.AppendUint64(b, key)
			b = append(b, 0, 0, 0, 0, 0, byte(r.Type), 0, 0)
		}
	case PRReportCapability:
		active := byte(0)
		if r.Persist {
			active = 1
		}
		return append(b, 0, 8,
			0x04|0x01,   // ATP_C, PTPL_C
			0x80|active, // TMV, PTPL_A
			0xea, 0x01,  // every type
			0, 0), Sense{}
	case PRReadFullStatus:
		b = r.preface(b)
		for i, g := range r.Registrations {
			b = binary.BigEndian.AppendUint64(b, g.Key)
			b = append(b, 0, 0, 0, 0)
			flags, kind := byte(0), byte(0)
			if r.holds(i) {
				flags, kind = 1, byte(r.Type)
			}
			b = append(b, flags, kind, 0, 0, 0, 0, 0, RelativePort)
			id := TransportID(g.Nexus)
			b = binary.BigEndian.AppendUint32(b, uint32(len(id)))
			b = append(b, id...)
		}
	default:
		return b, InvalidCDB(1)
	}
	binary.BigEndian.PutUint32(b[start+4:], uint32(len(b)-start-8))
	return b, Sense{}
}

func (r *Reservations) preface(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, r.Generation)
	return append(b, 0, 0, 0, 0)
}

// formatVersion is the first byte of stored reservations.
const formatVersion = 1

// Marshal returns the stored form:
//
//	offset bytes
//	     0     1  version, 1
//	     1     1  flags: 1 = APTPL
//	     2     1  type of the reservation, 0 = none
//	     3     1  0
//	     4     4  generation
//	     8     2  holder: index of a registration
//	    10     2  number of registrations
//	    12        each: key (8), ISID (6), length of name (1), name
//
// Big endian.
func (r *Reservations) Marshal() []byte {
	flags := byte(0)
	if r.Persist {
		flags = 1
	}
	b := []byte{formatVersion, flags, byte(r.Type), 0}
	b = binary.BigEndian.AppendUint32(b, r.Generation)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Holder))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Registrations)))
	for _, g := range r.Registrations {
		b = binary.BigEndian.AppendUint64(b, g.Key)
		b = append(b, g.Nexus.ISID[:]...)
		b = append(b, byte(len(g.Nexus.Initiator)))
		b = append(b, g.Nexus.Initiator...)
	}
	return b
}

// UnmarshalReservations reads the stored form; nil data are no reservations.
func UnmarshalReservations(data []byte) (Reservations, error) {
	var r Reservations
	if len(data) == 0 {
		return r, nil
	}
	if len(data) < 12 || data[0] != formatVersion {
		return r, fmt.Errorf("stored reservations: %d bytes of version %d, this build reads version %d", len(data), data[0], formatVersion)
	}
	r.Persist = data[1]&1 != 0
	r.Type = ReservationType(data[2])
	r.Generation = binary.BigEndian.Uint32(data[4:])
	r.Holder = int(binary.BigEndian.Uint16(data[8:]))
	count := int(binary.BigEndian.Uint16(data[10:]))
	data = data[12:]
	for range count {
		if len(data) < 15 || len(data) < 15+int(data[14]) {
			return Reservations{}, fmt.Errorf("stored reservations end within registration %d of %d", len(r.Registrations), count)
		}
		g := Registration{Key: binary.BigEndian.Uint64(data)}
		copy(g.Nexus.ISID[:], data[8:14])
		end := 15 + int(data[14])
		g.Nexus.Initiator = string(data[15:end])
		r.Registrations = append(r.Registrations, g)
		data = data[end:]
	}
	if len(data) != 0 || count > RegistrationsMax {
		return Reservations{}, fmt.Errorf("stored reservations: %d registrations and %d bytes behind them", count, len(data))
	}
	if r.Type != 0 && (!r.Type.valid() || r.Holder >= count) {
		return Reservations{}, fmt.Errorf("stored reservations: type %d held by registration %d of %d", r.Type, r.Holder, count)
	}
	return r, nil
}
