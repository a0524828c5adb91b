package status

import (
	"fmt"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// State is how something is, best first.
type State uint8

// The states.
const (
	OK State = iota
	Degraded
	AtRisk
	Unavailable
)

// States lists all of them, best first.
func States() []State { return []State{OK, Degraded, AtRisk, Unavailable} }

// String is the word for people.
func (s State) String() string {
	switch s {
	case OK:
		return "OK"
	case Degraded:
		return "Degraded"
	case AtRisk:
		return "At risk"
	case Unavailable:
		return "Unavailable"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Word is the word for machines: without a space, as in the API of Kubernetes and in labels of metrics.
func (s State) Word() string {
	if s == AtRisk {
		return "AtRisk"
	}
	return s.String()
}

// Wire is the state as the block service sends it.
func (s State) Wire() storagedv1.Health { return storagedv1.Health(s + 1) }

// Of reads a state from the wire. A value this version does not know is taken for the worst; none at all for OK false.
func Of(h storagedv1.Health) (s State, known bool) {
	switch h {
	case storagedv1.Health_HEALTH_UNSPECIFIED:
		return OK, false
	case storagedv1.Health_HEALTH_OK:
		return OK, true
	case storagedv1.Health_HEALTH_DEGRADED:
		return Degraded, true
	case storagedv1.Health_HEALTH_AT_RISK:
		return AtRisk, true
	}
	return Unavailable, true
}
