package scsi

import (
	"slices"
)

// Nexus is an initiator port, the identity reservations belong to. The target has one port, so that it names the I_T nexus.
// In iSCSI the port is the initiator's name with its ISID (RFC 7143 §3.4.3): a session that logs in again is the same nexus.
type Nexus struct {
	Initiator string
	ISID      [6]byte
}

// ReservationType is the type of a persistent reservation (SPC-4 table 211). 0 is none.
type ReservationType uint8

// Types.
const (
	WriteExclusive                 ReservationType = 1
	ExclusiveAccess                ReservationType = 3
	WriteExclusiveRegistrantsOnly  ReservationType = 5
	ExclusiveAccessRegistrantsOnly ReservationType = 6
	WriteExclusiveAllRegistrants   ReservationType = 7
	ExclusiveAccessAllRegistrants  ReservationType = 8
)

func (t ReservationType) valid() bool {
	switch t {
	case 1, 3, 5, 6, 7, 8:
		return true
	}
	return false
}

func (t ReservationType) exclusiveAccess() bool { return t == 3 || t == 6 || t == 8 }
func (t ReservationType) registrants() bool     { return t >= 5 }
func (t ReservationType) all() bool             { return t >= 7 }

// Registration is one registered nexus.
type Registration struct {
	Nexus Nexus
	Key   uint64
}

// RegistrationsMax bounds the registrations of a unit.
const RegistrationsMax = 256

// Reservations is the whole state of persistent reservations of a unit (SPC-4 5.12). Values are immutable: Apply returns a new
// one. The zero value has no registrations.
type Reservations struct {
	Generation uint32
	// Persist is the APTPL of the last registration. The state is stored in any case, since an owner change is no power loss.
	Persist       bool
	Registrations []Registration
	Type          ReservationType
	// Holder indexes Registrations unless Type is 0 or of all registrants.
	Holder int
}

func (r *Reservations) find(n Nexus) int {
	return slices.IndexFunc(r.Registrations, func(g Registration) bool { return g.Nexus == n })
}

// Registered reports whether a nexus is registered.
func (r *Reservations) Registered(n Nexus) bool { return r.find(n) >= 0 }

func (r *Reservations) holds(i int) bool {
	return i >= 0 && r.Type != 0 && (r.Type.all() || r.Holder == i)
}

// Conflict reports whether a command of a class is refused to a nexus.
func (r *Reservations) Conflict(n Nexus, c Class) bool {
	if r.Type == 0 || c == ClassFree || c == ClassReservation {
		return false
	}
	i := r.find(n)
	if r.holds(i) || (i >= 0 && r.Type.registrants()) {
		return false
	}
	return c == ClassWrite || r.Type.exclusiveAccess()
}

// Service actions of PERSISTENT RESERVE OUT.
const (
	PRRegister         = 0
	PRReserve          = 1
	PRRelease          = 2
	PRClear            = 3
	PRPreempt          = 4
	PRPreemptAbort     = 5
	PRRegisterIgnore   = 6
	PRRegisterMove     = 7
	PRReadKeys         = 0
	PRReadReservation  = 1
	PRReportCapability = 2
	PRReadFullStatus   = 3
)

// ReserveOut is a decoded PERSISTENT RESERVE OUT.
type ReserveOut struct {
	Action          byte
	Type            ReservationType
	Key, ServiceKey uint64
	Persist         bool
	Unregister      bool  // REGISTER AND MOVE
	To              Nexus // REGISTER AND MOVE
}

// Attention is a unit attention a nexus is to get.
type Attention struct {
	Nexus Nexus
	Code  Code
}

// Effect is what an action did to others.
type Effect struct {
	// Changed says that the new state differs and must be stored before the command is answered.
	Changed    bool
	Attentions []Attention
	// Preempted lists the nexuses that lost their registration to PREEMPT or PREEMPT AND ABORT. Their commands in progress must have
	// ended, or (Abort) be aborted, before the command is answered (I14).
	Preempted []Nexus
	Abort     bool
}

func (r *Reservations) clone() Reservations {
	next := *r
	next.Registrations = slices.Clone(r.Registrations)
	return next
}

// remove drops registration i and keeps Holder in step. It does not touch Type.
func (r *Reservations) remove(i int) {
	r.Registrations = slices.Delete(r.Registrations, i, i+1)
	if r.Holder > i {
		r.Holder--
	}
}

// release ends the reservation and tells the other registrants, if the type concerns them (SPC-4 5.12.11.1).
func (r *Reservations) release(self Nexus, e *Effect) {
	if r.Type.registrants() {
		for _, g := range r.Registrations {
			if g.Nexus != self {
				e.Attentions = append(e.Attentions, Attention{g.Nexus, ReservationsReleased})
			}
		}
	}
	r.Type, r.Holder = 0, 0
}

// Apply carries out a PERSISTENT RESERVE OUT of a nexus. Status is Good, ReservationConflict, or CheckCondition with the sense.
func (r *Reservations) Apply(n Nexus, o ReserveOut) (Reservations, Effect, Status, Sense) {
	next, e, status, sense := r.apply(n, o)
	if next.Type == 0 || next.Type.all() {
		next.Holder = 0 // nobody in particular
	}
	return next, e, status, sense
}

func (r *Reservations) apply(n Nexus, o ReserveOut) (Reservations, Effect, Status, Sense) {
	next := r.clone()
	me := next.find(n)
	refuse := func(s Status, sense Sense) (Reservations, Effect, Status, Sense) { return *r, Effect{}, s, sense }
	conflict := func() (Reservations, Effect, Status, Sense) { return refuse(ReservationConflict, Sense{}) }
	illegal := func(s Sense) (Reservations, Effect, Status, Sense) { return refuse(CheckCondition, s) }

	if o.Action == PRRegister || o.Action == PRRegisterIgnore {
		return r.register(n, o)
	}
	// Every other action needs a registration and its key (SPC-4 table 68).
	if me < 0 || next.Registrations[me].Key != o.Key {
		return conflict()
	}
	var e Effect
	switch o.Action {
	case PRReserve:
		if !o.Type.valid() {
			return illegal(InvalidCDB(2))
		}
		if next.Type != 0 {
			if next.holds(me) && next.Type == o.Type {
				return next, e, Good, Sense{}
			}
			return conflict()
		}
		next.Type, next.Holder = o.Type, me
		e.Changed = true
	case PRRelease:
		if !next.holds(me) {
			return next, e, Good, Sense{}
		}
		if next.Type != o.Type {
			return illegal(Illegal(InvalidRelease))
		}
		next.release(n, &e)
		e.Changed = true
	case PRClear:
		for _, g := range next.Registrations {
			if g.Nexus != n {
				e.Attentions = append(e.Attentions, Attention{g.Nexus, ReservationsPreempted})
			}
		}
		next.Registrations, next.Type, next.Holder = nil, 0, 0
		next.Generation++
		e.Changed = true
	case PRPreempt, PRPreemptAbort:
		return r.preempt(n, o)
	case PRRegisterMove:
		return r.move(n, o)
	default:
		return illegal(InvalidCDB(1))
	}
	return next, e, Good, Sense{}
}

func (r *Reservations) register(n Nexus, o ReserveOut) (Reservations, Effect, Status, Sense) {
	next := r.clone()
	me := next.find(n)
	e := Effect{Changed: true}
	if o.Action == PRRegister {
		var key uint64
		if me >= 0 {
			key = next.Registrations[me].Key
		}
		if o.Key != key {
			return *r, Effect{}, ReservationConflict, Sense{}
		}
	}
	switch {
	case me < 0 && o.ServiceKey == 0:
		return *r, Effect{}, Good, Sense{}
	case me < 0:
		if len(next.Registrations) >= RegistrationsMax {
			return *r, Effect{}, CheckCondition, Illegal(InsufficientRegistration)
		}
		next.Registrations = append(next.Registrations, Registration{n, o.ServiceKey})
	case o.ServiceKey == 0:
		next.unregister(me, &e)
	default:
		next.Registrations[me].Key = o.ServiceKey
	}
	next.Persist = o.Persist
	next.Generation++
	return next, e, Good, Sense{}
}

// unregister removes registration i; a reservation it holds alone is released (SPC-4 5.12.11.3).
func (r *Reservations) unregister(i int, e *Effect) {
	n := r.Registrations[i].Nexus
	ends := r.holds(i) && (!r.Type.all() || len(r.Registrations) == 1)
	if ends {
		r.release(n, e)
	}
	r.remove(i)
}

func (r *Reservations) preempt(n Nexus, o ReserveOut) (Reservations, Effect, Status, Sense) {
	next := r.clone()
	e := Effect{Changed: true, Abort: o.Action == PRPreemptAbort}
	takes := false // the reservation goes to n
	switch {
	case next.Type == 0:
	case next.Type.all():
		takes = o.ServiceKey == 0
	default:
		takes = o.ServiceKey == next.Registrations[next.Holder].Key
	}
	if !takes && o.ServiceKey == 0 {
		return *r, Effect{}, CheckCondition, InvalidParameter(8)
	}
	if takes && !o.Type.valid() {
		return *r, Effect{}, CheckCondition, InvalidCDB(2)
	}
	everyone := takes && o.ServiceKey == 0
	was := next.Type
	found := false
	for i := len(next.Registrations) - 1; i >= 0; i-- {
		g := next.Registrations[i]
		if !everyone && g.Key != o.ServiceKey {
			continue
		}
		found = true
		if g.Nexus == n {
			if !takes {
				// One's own registration falls with the key it has.
				next.unregister(i, &e)
			}
			continue
		}
		e.Preempted = append(e.Preempted, g.Nexus)
		e.Attentions = append(e.Attentions, Attention{g.Nexus, RegistrationsPreempted})
		if !takes && next.Type.all() && len(next.Registrations) == 1 {
			next.Type = 0
		}
		next.remove(i)
	}
	if !found && !takes {
		return *r, Effect{}, ReservationConflict, Sense{}
	}
	if takes {
		next.Type, next.Holder = o.Type, next.find(n)
		if was != o.Type && was.registrants() {
			for _, g := range next.Registrations {
				if g.Nexus != n {
					e.Attentions = append(e.Attentions, Attention{g.Nexus, ReservationsReleased})
				}
			}
		}
	}
	next.Generation++
	return next, e, Good, Sense{}
}

func (r *Reservations) move(n Nexus, o ReserveOut) (Reservations, Effect, Status, Sense) {
	next := r.clone()
	me := next.find(n)
	if next.Type == 0 || next.Type.all() || next.Holder != me {
		return *r, Effect{}, ReservationConflict, Sense{}
	}
	if o.ServiceKey == 0 {
		return *r, Effect{}, CheckCondition, InvalidParameter(8)
	}
	if o.To == n {
		return *r, Effect{}, CheckCondition, InvalidParameter(24)
	}
	if to := next.find(o.To); to >= 0 {
		next.Registrations[to].Key = o.ServiceKey
	} else if len(next.Registrations) >= RegistrationsMax {
		return *r, Effect{}, CheckCondition, Illegal(InsufficientRegistration)
	} else {
		next.Registrations = append(next.Registrations, Registration{o.To, o.ServiceKey})
	}
	next.Holder = next.find(o.To)
	if o.Unregister {
		next.remove(me)
	}
	next.Persist = o.Persist
	next.Generation++
	return next, Effect{Changed: true}, Good, Sense{}
}
