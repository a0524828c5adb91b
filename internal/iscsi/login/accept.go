package login

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/iomesh/iomesh/internal/iscsi/pdu"
)

// Names are what the first login request says about the session to be.
type Names struct {
	Initiator string // normal form
	Target    string // normal form; empty in a discovery session
	Discovery bool
	ISID      [6]byte
	TSIH, CID uint16
}

// Admission is a Policy's yes.
type Admission struct {
	// Secrets demands CHAP; nil lets the initiator in without authentication.
	Secrets *Secrets
	// PortalGroup is the target portal group tag to announce.
	PortalGroup uint16
	// Alias is announced if not empty.
	Alias string
	// Window is how many commands the initiator may have in progress; MaxCmdSN of the last response says so.
	Window uint32
}

// Policy is the target's part in a login. Both methods may block. An *Error they return is sent to the initiator; after any other
// error the connection is to be closed without an answer, which initiators take as a passing failure.
type Policy interface {
	// Admit is called once the names are known, before authentication.
	Admit(Names) (Admission, error)
	// Establish is called when everything is agreed, before the last response is sent: it ends sessions this one replaces and
	// returns the session's handle (0 in a discovery session is allowed).
	Establish(Names, Params) (tsih uint16, err error)
}

// Stream is a connection during login.
type Stream struct {
	R *pdu.Reader
	W *pdu.Batch
	C io.Writer
}

func (s Stream) send(h *pdu.Header, data []byte) error {
	s.W.Add(h, data)
	_, err := s.W.WriteTo(s.C)
	return err
}

// Outcome is an accepted login.
type Outcome struct {
	Names
	Params
	// CmdSN is that of the first command; StatSN that of the first response.
	CmdSN, StatSN uint32
}

// Stages (RFC 7143 §11.12.3).
const (
	stageSecurity    = 0
	stageOperational = 1
	stageFull        = 3
)

// ErrProtocol is wrapped by errors that name a violation by the peer.
var ErrProtocol = errors.New("iSCSI login protocol error")

type acceptor struct {
	Stream
	wishes Wishes
	policy Policy

	out       Outcome
	admission Admission
	admitted  bool
	stage     byte
	auth      authState
	challenge challenge
	declared  bool // our MaxRecvDataSegmentLength is told
	grouped   bool // our TargetPortalGroupTag is told
}

type authState uint8

const (
	authStart authState = iota
	authChosen
	authChallenged
	authDone
)

// Accept conducts the target's side of a login. On success the digests of s are switched on. A login that was refused
// returns the *Error that was sent.
func Accept(s Stream, w Wishes, p Policy) (Outcome, error) {
	a := &acceptor{Stream: s, wishes: w, policy: p}
	a.out.Params = Defaults()
	a.out.RecvMax = SegmentMax
	for range RoundsMax {
		h, text, err := a.request()
		if err != nil {
			return Outcome{}, err
		}
		done, err := a.step(h, text)
		var refused *Error
		if errors.As(err, &refused) {
			if sendErr := a.refuse(h, refused); sendErr != nil {
				return Outcome{}, sendErr
			}
			return Outcome{}, refused
		}
		if err != nil {
			return Outcome{}, err
		}
		if done {
			s.R.HeaderDigest, s.R.DataDigest = a.out.HeaderDigest, a.out.DataDigest
			s.W.HeaderDigest, s.W.DataDigest = a.out.HeaderDigest, a.out.DataDigest
			s.R.DataMax = w.RecvMax
			return a.out, nil
		}
	}
	return Outcome{}, fmt.Errorf("%w: no result after %d requests", ErrProtocol, RoundsMax)
}

// request collects one login request, over all its PDUs.
func (a *acceptor) request() (*pdu.Header, Text, error) {
	var data []byte
	for {
		h, err := a.R.Next()
		if err != nil {
			return nil, nil, err
		}
		if h.Opcode() != pdu.LoginReq {
			return nil, nil, fmt.Errorf("%w: opcode %#02x instead of a login request", ErrProtocol, byte(h.Opcode()))
		}
		n := len(data)
		if n+h.DataLen() > TextMax {
			return nil, nil, fmt.Errorf("%w: login text exceeds %d bytes", ErrProtocol, TextMax)
		}
		data = append(data, make([]byte, h.DataLen())...)
		if err := a.R.ReadData(data[n:]); err != nil {
			return nil, nil, err
		}
		if h.Flags()&pdu.Continue == 0 {
			text, err := ParseText(data)
			if err != nil {
				if sendErr := a.refuse(h, &Error{Status: InitiatorError, Reason: err.Error()}); sendErr != nil {
					return nil, nil, sendErr
				}
				return nil, nil, fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			return h, text, nil
		}
		if h.Final() {
			return nil, nil, fmt.Errorf("%w: transit and continue in one request", ErrProtocol)
		}
		if err := a.respond(h, 0, nil); err != nil {
			return nil, nil, err
		}
	}
}

func (a *acceptor) step(h *pdu.Header, text Text) (done bool, err error) {
	if !a.admitted {
		if err := a.begin(h, text); err != nil {
			return false, err
		}
	}
	if h[3] > 0 {
		return false, &Error{Status: BadVersion, Reason: "only version 0 is spoken"}
	}
	if h.CSG() != a.stage || (h.Final() && (h.NSG() <= h.CSG() || h.NSG() == 2)) {
		return false, &Error{Status: InitiatorError, Reason: "stage out of order"}
	}
	var reply Text
	transit := h.Final()
	if a.stage == stageSecurity {
		ready, err := a.security(text, &reply)
		if err != nil {
			return false, err
		}
		transit = transit && ready
	}
	if err := a.operational(text, &reply); err != nil {
		return false, err
	}
	if !transit {
		return false, a.respond(h, a.stage<<2, reply)
	}
	next := h.NSG()
	if next == stageFull {
		if a.out.FirstBurst > a.out.MaxBurst {
			a.out.FirstBurst = a.out.MaxBurst
		}
		tsih, err := a.policy.Establish(a.out.Names, a.out.Params)
		if err != nil {
			return false, err
		}
		a.out.TSIH = tsih
	}
	err = a.respond(h, pdu.Final|a.stage<<2|next, reply)
	a.stage = next
	return next == stageFull, err
}

// begin handles the first request: names, admission, first stage.
func (a *acceptor) begin(h *pdu.Header, text Text) error {
	n := &a.out.Names
	n.ISID, n.TSIH, n.CID = h.ISID(), h.TSIH(), h.CID()
	// A login request is immediate: its CmdSN is that of the first command to come. Starting our StatSN where the
	// initiator expects it spares it a special case.
	a.out.CmdSN, a.out.StatSN = h.CmdSN(), h.ExpStatSN()
	name, ok := text.Get("InitiatorName")
	if !ok {
		return &Error{Status: MissingParameter, Reason: "no InitiatorName"}
	}
	var err error
	if n.Initiator, err = NormalName(name); err != nil {
		return &Error{Status: InitiatorError, Reason: err.Error()}
	}
	switch kind, _ := text.Get("SessionType"); kind {
	case "Discovery":
		n.Discovery = true
	case "", "Normal":
		target, ok := text.Get("TargetName")
		if !ok {
			return &Error{Status: MissingParameter, Reason: "no TargetName"}
		}
		if n.Target, err = NormalName(target); err != nil {
			return &Error{Status: NotFound, Reason: err.Error()}
		}
	default:
		return &Error{Status: BadSessionType, Reason: kind}
	}
	if a.admission, err = a.policy.Admit(*n); err != nil {
		return err
	}
	a.admitted = true
	a.stage = h.CSG()
	if a.stage != stageSecurity {
		if a.admission.Secrets != nil {
			return &Error{Status: AuthFailure, Reason: "initiator skipped authentication"}
		}
		a.auth = authDone
	}
	return nil
}

// security advances authentication. ready says that the stage may be left.
func (a *acceptor) security(text Text, reply *Text) (ready bool, err error) {
	if methods, ok := text.Get("AuthMethod"); ok && a.auth == authStart {
		want := none
		if a.admission.Secrets != nil {
			want = "CHAP"
		}
		offered := false
		for m := range strings.SplitSeq(methods, ",") {
			offered = offered || m == want
		}
		if !offered {
			return false, &Error{Status: AuthFailure, Reason: "AuthMethod=" + methods + ", wanted " + want}
		}
		reply.Add("AuthMethod", want)
		a.auth = authChosen
		if want == none {
			a.auth = authDone
		}
	}
	if a.admission.Secrets == nil {
		a.auth = authDone
		return true, nil
	}
	if algorithms, ok := text.Get("CHAP_A"); ok && a.auth == authChosen {
		found := false
		for alg := range strings.SplitSeq(algorithms, ",") {
			found = found || alg == chapMD5
		}
		if !found {
			return false, &Error{Status: AuthFailure, Reason: "CHAP_A=" + algorithms + " lacks 5 (MD5)"}
		}
		a.challenge = newChallenge()
		reply.Add("CHAP_A", chapMD5)
		reply.Add("CHAP_I", strconv.Itoa(int(a.challenge.id)))
		reply.Add("CHAP_C", encodeBinary(a.challenge.bytes))
		a.auth = authChallenged
		return false, nil
	}
	if response, ok := text.Get("CHAP_R"); ok {
		if a.auth != authChallenged {
			return false, &Error{Status: AuthFailure, Reason: "CHAP_R without a challenge"}
		}
		return true, a.checkResponse(text, response, reply)
	}
	return a.auth == authDone, nil
}

func (a *acceptor) checkResponse(text Text, response string, reply *Text) error {
	s := a.admission.Secrets
	user, _ := text.Get("CHAP_N")
	if good := a.challenge.verify(s.Secret, response); !good || user != s.User {
		return &Error{Status: AuthFailure, Reason: "CHAP name or response is wrong"}
	}
	a.auth = authDone
	id, asked := text.Get("CHAP_I")
	if !asked {
		return nil
	}
	value, _ := text.Get("CHAP_C")
	theirs, err := parseChallenge(id, value)
	if err != nil {
		return &Error{Status: AuthFailure, Reason: err.Error()}
	}
	// An initiator that returns our own challenge wants us to compute the response it lacks (RFC 7143 §12.1.3).
	if string(theirs.bytes) == string(a.challenge.bytes) || s.MutualSecret == s.Secret {
		return &Error{Status: AuthFailure, Reason: "reflected challenge or equal secrets"}
	}
	if s.MutualSecret == "" {
		return &Error{Status: AuthFailure, Reason: "target has no secret for mutual CHAP"}
	}
	reply.Add("CHAP_N", s.MutualUser)
	reply.Add("CHAP_R", encodeBinary(chapResponse(theirs.id, s.MutualSecret, theirs.bytes)))
	return nil
}

// operational answers every key that is not of the security stage.
func (a *acceptor) operational(text Text, reply *Text) error {
	for _, p := range text {
		switch p.Key {
		case "InitiatorName", "InitiatorAlias", "TargetName", "SessionType", "AuthMethod",
			"CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R":
			continue
		}
		value, err := a.out.answer(a.wishes, p.Key, p.Value)
		if err != nil {
			return &Error{Status: InitiatorError, Reason: err.Error()}
		}
		if value != "" {
			reply.Add(p.Key, value)
		}
	}
	if a.stage == stageOperational && !a.declared {
		a.declared = true
		a.out.RecvMax = a.wishes.RecvMax
		reply.Add("MaxRecvDataSegmentLength", strconv.Itoa(a.wishes.RecvMax))
	}
	return nil
}

func (a *acceptor) header(req *pdu.Header, flags byte) pdu.Header {
	var h pdu.Header
	h.SetOpcode(pdu.LoginResp)
	h.SetFlags(flags)
	h.SetISID(a.out.ISID)
	h.SetTSIH(a.out.TSIH)
	h.SetITT(req.ITT())
	h.SetStatSN(a.out.StatSN)
	h.SetExpCmdSN(a.out.CmdSN)
	h.SetMaxCmdSN(a.out.CmdSN + max(a.admission.Window, 1) - 1)
	return h
}

// respond sends text, in as many PDUs as it needs.
func (a *acceptor) respond(req *pdu.Header, flags byte, text Text) error {
	if a.admitted && !a.grouped && !a.out.Discovery {
		a.grouped = true // belongs into the first response that names a target (RFC 7143 §13.9)
		text = append(Text{{"TargetPortalGroupTag", strconv.Itoa(int(a.admission.PortalGroup))}}, text...)
		if a.admission.Alias != "" {
			text.Add("TargetAlias", a.admission.Alias)
		}
	}
	data := text.Encode()
	if len(data) > SegmentMax {
		return fmt.Errorf("%w: answer of %d bytes does not fit into one PDU", ErrProtocol, len(data))
	}
	h := a.header(req, flags)
	a.out.StatSN++
	return a.send(&h, data)
}

func (a *acceptor) refuse(req *pdu.Header, e *Error) error {
	var text Text
	if e.Address != "" {
		text.Add("TargetAddress", e.Address)
	}
	h := a.header(req, 0)
	h.SetLoginStatus(uint16(e.Status))
	a.out.StatSN++
	return a.send(&h, text.Encode())
}
