package login

import "fmt"

// Status is class<<8 | detail of a login response (RFC 7143 §11.13.5).
type Status uint16

// Statuses.
const (
	Success          Status = 0x0000
	MovedTemporarily Status = 0x0101
	MovedPermanently Status = 0x0102
	InitiatorError   Status = 0x0200
	AuthFailure      Status = 0x0201
	NotAuthorized    Status = 0x0202
	NotFound         Status = 0x0203
	Removed          Status = 0x0204
	BadVersion       Status = 0x0205
	TooManyConns     Status = 0x0206
	MissingParameter Status = 0x0207
	BadSessionType   Status = 0x0209
	NoSession        Status = 0x020a
	InvalidRequest   Status = 0x020b
	TargetError      Status = 0x0300
	Unavailable      Status = 0x0301
	OutOfResources   Status = 0x0302
)

// Error is a login that ended with a status other than success. For the moved statuses Address is where to go.
type Error struct {
	Status  Status
	Address string
	Reason  string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("login status %#04x (%s)", uint16(e.Status), e.Status)
	if e.Address != "" {
		s += " to " + e.Address
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

func (s Status) String() string {
	switch s {
	case Success:
		return "success"
	case MovedTemporarily:
		return "target moved temporarily"
	case MovedPermanently:
		return "target moved permanently"
	case InitiatorError:
		return "initiator error"
	case AuthFailure:
		return "authentication failed"
	case NotAuthorized:
		return "not authorized"
	case NotFound:
		return "target not found"
	case Removed:
		return "target removed"
	case BadVersion:
		return "unsupported version"
	case TooManyConns:
		return "too many connections"
	case MissingParameter:
		return "missing parameter"
	case BadSessionType:
		return "session type not supported"
	case NoSession:
		return "session does not exist"
	case InvalidRequest:
		return "invalid during login"
	case TargetError:
		return "target error"
	case Unavailable:
		return "service unavailable"
	case OutOfResources:
		return "out of resources"
	}
	return "unknown status"
}
