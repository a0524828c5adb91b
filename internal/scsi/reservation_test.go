package scsi

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
)

func nexus(n byte) Nexus { return Nexus{Initiator: fmt.Sprintf("iqn.x:%d", n), ISID: [6]byte{5: n}} }

var na, nb, nc = nexus(1), nexus(2), nexus(3)

// script applies actions that must all be GOOD.
func script(t *testing.T, steps ...any) Reservations {
	t.Helper()
	var r Reservations
	for i := 0; i < len(steps); i += 2 {
		next, _, status, sense := r.Apply(steps[i].(Nexus), steps[i+1].(ReserveOut))
		if status != Good {
			t.Fatalf("step %d: status %#02x %v", i/2, byte(status), sense)
		}
		r = next
	}
	return r
}

func register(key uint64) ReserveOut { return ReserveOut{Action: PRRegister, ServiceKey: key} }
func reserve(key uint64, kind ReservationType) ReserveOut {
	return ReserveOut{Action: PRReserve, Key: key, Type: kind}
}

func TestWhoMayDoWhat(t *testing.T) {
	type may struct{ read, write bool }
	all, readOnly, none := may{true, true}, may{true, false}, may{}
	for _, c := range []struct {
		kind                         ReservationType
		holder, registered, stranger may
	}{
		{WriteExclusive, all, readOnly, readOnly},
		{ExclusiveAccess, all, none, none},
		{WriteExclusiveRegistrantsOnly, all, all, readOnly},
		{ExclusiveAccessRegistrantsOnly, all, all, none},
		{WriteExclusiveAllRegistrants, all, all, readOnly},
		{ExclusiveAccessAllRegistrants, all, all, none},
	} {
		r := script(t, na, register(1), nb, register(2), na, reserve(1, c.kind))
		for n, want := range map[Nexus]may{na: c.holder, nb: c.registered, nc: c.stranger} {
			got := may{!r.Conflict(n, ClassRead), !r.Conflict(n, ClassWrite)}
			if got != want {
				t.Errorf("type %d, %s: may %+v, want %+v", c.kind, n.Initiator, got, want)
			}
			if r.Conflict(n, ClassFree) {
				t.Errorf("type %d: INQUIRY conflicts", c.kind)
			}
		}
	}
}

func TestActions(t *testing.T) {
	held := func(kind ReservationType) Reservations {
		return script(t, na, register(1), nb, register(2), na, reserve(1, kind))
	}
	for _, c := range []struct {
		name   string
		from   Reservations
		by     Nexus
		do     ReserveOut
		status Status
		check  func(r Reservations, e Effect) bool
	}{
		{"a key is needed", held(1), nb, ReserveOut{Action: PRRelease, Key: 9, Type: 1}, ReservationConflict, nil},
		{"a stranger cannot reserve", Reservations{}, nc, reserve(1, 1), ReservationConflict, nil},
		{"another holds it", held(1), nb, reserve(2, 1), ReservationConflict, nil},
		{"reserving again is good", held(1), na, reserve(1, 1), Good, func(r Reservations, e Effect) bool { return !e.Changed }},
		{"reserving with another type conflicts", held(1), na, reserve(1, 3), ReservationConflict, nil},
		{"release of a type that is not held", held(1), na, ReserveOut{Action: PRRelease, Key: 1, Type: 3}, CheckCondition, nil},
		{"release by one who does not hold it has no effect", held(1), nb, ReserveOut{Action: PRRelease, Key: 2, Type: 1}, Good,
			func(r Reservations, e Effect) bool { return r.Type == 1 && !e.Changed }},
		{"release of a registrants type tells the others", held(5), na, ReserveOut{Action: PRRelease, Key: 1, Type: 5}, Good,
			func(r Reservations, e Effect) bool {
				return r.Type == 0 && reflect.DeepEqual(e.Attentions, []Attention{{nb, ReservationsReleased}})
			}},
		{"the holder's leaving releases", held(1), na, ReserveOut{Action: PRRegister, Key: 1}, Good,
			func(r Reservations, e Effect) bool { return r.Type == 0 && len(r.Registrations) == 1 }},
		{"one of all registrants leaves, the reservation stays", held(7), na, ReserveOut{Action: PRRegister, Key: 1}, Good,
			func(r Reservations, e Effect) bool { return r.Type == 7 && len(r.Registrations) == 1 }},
		{"clear", held(1), nb, ReserveOut{Action: PRClear, Key: 2}, Good,
			func(r Reservations, e Effect) bool {
				return r.Type == 0 && len(r.Registrations) == 0 && reflect.DeepEqual(e.Attentions, []Attention{{na, ReservationsPreempted}})
			}},
		{"preempt takes the reservation and the registration", held(1), nb, ReserveOut{Action: PRPreempt, Key: 2, ServiceKey: 1, Type: 3}, Good,
			func(r Reservations, e Effect) bool {
				return r.Type == 3 && r.Registrations[r.Holder].Nexus == nb && !r.Registered(na) && !e.Abort &&
					reflect.DeepEqual(e.Preempted, []Nexus{na}) && reflect.DeepEqual(e.Attentions, []Attention{{na, RegistrationsPreempted}})
			}},
		{"preempt of a key nobody has", held(1), na, ReserveOut{Action: PRPreempt, Key: 1, ServiceKey: 77, Type: 1}, ReservationConflict, nil},
		{"preempt of key 0 under a single holder", held(1), nb, ReserveOut{Action: PRPreempt, Key: 2, ServiceKey: 0, Type: 1}, CheckCondition, nil},
		{"preempt of key 0 under all registrants takes all", held(7), nb, ReserveOut{Action: PRPreemptAbort, Key: 2, ServiceKey: 0, Type: 1}, Good,
			func(r Reservations, e Effect) bool {
				return r.Type == 1 && len(r.Registrations) == 1 && r.Registrations[r.Holder].Nexus == nb && e.Abort
			}},
		{"preempt of one who does not hold it leaves the reservation", held(1), na, ReserveOut{Action: PRPreempt, Key: 1, ServiceKey: 2, Type: 3}, Good,
			func(r Reservations, e Effect) bool { return r.Type == 1 && len(r.Registrations) == 1 && r.holds(0) }},
		{"register and move", held(3), na, ReserveOut{Action: PRRegisterMove, Key: 1, ServiceKey: 9, To: nc, Unregister: true}, Good,
			func(r Reservations, e Effect) bool {
				return r.Type == 3 && r.Registrations[r.Holder] == Registration{nc, 9} && !r.Registered(na)
			}},
		{"only the holder moves", held(3), nb, ReserveOut{Action: PRRegisterMove, Key: 2, ServiceKey: 9, To: nc}, ReservationConflict, nil},
		{"register and ignore needs no key", held(1), na, ReserveOut{Action: PRRegisterIgnore, Key: 55, ServiceKey: 9}, Good,
			func(r Reservations, e Effect) bool { return r.Registrations[0].Key == 9 && r.Type == 1 }},
		{"an unregistered nexus registers with key 0 only", held(1), nc, ReserveOut{Action: PRRegister, Key: 5, ServiceKey: 9}, ReservationConflict, nil},
		{"an unknown type", script(t, na, register(1)), na, reserve(1, 2), CheckCondition, nil},
	} {
		next, e, status, _ := c.from.Apply(c.by, c.do)
		if status != c.status {
			t.Errorf("%s: status %#02x, want %#02x", c.name, byte(status), byte(c.status))
			continue
		}
		if status != Good && !reflect.DeepEqual(next, c.from) {
			t.Errorf("%s: refused, yet the state changed", c.name)
		}
		if c.check != nil && !c.check(next, e) {
			t.Errorf("%s: %+v, %+v", c.name, next, e)
		}
	}
}

func TestRandomActionsKeepTheInvariants(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var r Reservations
	for range 20000 {
		o := ReserveOut{Action: byte(rng.IntN(8)), Type: ReservationType(rng.IntN(9)), Key: rng.Uint64N(4), ServiceKey: rng.Uint64N(4),
			To: nexus(byte(rng.IntN(4))), Unregister: rng.IntN(2) == 0, Persist: rng.IntN(2) == 0}
		before, marshalled := r, string(r.Marshal())
		next, e, status, _ := r.Apply(nexus(byte(rng.IntN(4))), o)
		if string(before.Marshal()) != marshalled {
			t.Fatal("Apply changed the state it was given")
		}
		if (status != Good || !e.Changed) && string(next.Marshal()) != marshalled {
			t.Fatalf("%+v: changed without saying so", o)
		}
		if next.Type != 0 && (len(next.Registrations) == 0 || next.Holder >= len(next.Registrations)) {
			t.Fatalf("%+v: a reservation without a holder: %+v", o, next)
		}
		seen := map[Nexus]bool{}
		for _, g := range next.Registrations {
			if seen[g.Nexus] || g.Key == 0 {
				t.Fatalf("%+v: %+v", o, next)
			}
			seen[g.Nexus] = true
		}
		again, err := UnmarshalReservations(next.Marshal())
		if err != nil || string(again.Marshal()) != string(next.Marshal()) {
			t.Fatalf("stored form: %v", err)
		}
		r = next
	}
}

func TestStoredFormIsGolden(t *testing.T) {
	r := Reservations{Generation: 7, Persist: true, Type: 5, Holder: 0, Registrations: []Registration{{Nexus{"iqn.x:i", [6]byte{1, 2, 3, 4, 5, 6}}, 0x1122334455667788}}}
	const want = "\x01\x01\x05\x00\x00\x00\x00\x07\x00\x00\x00\x01\x11\x22\x33\x44\x55\x66\x77\x88\x01\x02\x03\x04\x05\x06\x07iqn.x:i"
	if got := string(r.Marshal()); got != want {
		t.Errorf("%x", got)
	}
}

func TestTransportIDIsReadBack(t *testing.T) {
	n := Nexus{"iqn.2026-01.x:abc", [6]byte{0x80, 1, 2, 3, 4, 5}}
	if got, ok := parseTransportID(TransportID(n)); !ok || got != n {
		t.Errorf("%+v %v", got, ok)
	}
}
