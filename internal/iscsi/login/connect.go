package login

import (
	"fmt"
	"strconv"

	"github.com/iomesh/iomesh/internal/iscsi/pdu"
)

// Request describes the session an initiator wants.
type Request struct {
	Initiator string
	Target    string // empty: discovery session
	ISID      [6]byte
	TSIH      uint16
	Secrets   *Secrets // nil: no authentication
	// Mutual demands that the target proves MutualSecret.
	Mutual bool
	Wishes Wishes
	CmdSN  uint32
}

type connector struct {
	Stream
	req    Request
	out    Outcome
	expect uint32 // ExpStatSN
	tsih   uint16
}

// Connect conducts the initiator's side of a login. A refusal or a redirection is an *Error. On success the digests of s are
// switched on, and Outcome.StatSN is the StatSN expected next.
func Connect(s Stream, req Request) (Outcome, error) {
	c := &connector{Stream: s, req: req}
	c.out.Params = Defaults()
	c.out.Initiator, c.out.Target, c.out.ISID = req.Initiator, req.Target, req.ISID
	c.out.Discovery = req.Target == ""
	c.out.CmdSN = req.CmdSN
	c.tsih = req.TSIH
	s.R.DataMax = max(SegmentMax, req.Wishes.RecvMax)

	if err := c.authenticate(); err != nil {
		return Outcome{}, err
	}
	if err := c.negotiate(); err != nil {
		return Outcome{}, err
	}
	c.out.RecvMax = req.Wishes.RecvMax
	c.out.TSIH = c.tsih
	c.out.StatSN = c.expect
	s.R.HeaderDigest, s.R.DataDigest = c.out.HeaderDigest, c.out.DataDigest
	s.W.HeaderDigest, s.W.DataDigest = c.out.HeaderDigest, c.out.DataDigest
	return c.out, nil
}

// exchange sends one request and returns the answer.
func (c *connector) exchange(flags byte, text Text) (transit bool, reply Text, err error) {
	var data []byte
	for round := range RoundsMax {
		var h pdu.Header
		h.SetImmediate(pdu.LoginReq)
		h.SetFlags(flags)
		h.SetISID(c.req.ISID)
		h.SetTSIH(c.tsih)
		h.SetCmdSN(c.req.CmdSN)
		h.SetExpStatSN(c.expect)
		var body []byte
		if round == 0 {
			body = text.Encode()
		}
		if err := c.send(&h, body); err != nil {
			return false, nil, err
		}
		r, err := c.R.Next()
		if err != nil {
			return false, nil, err
		}
		if r.Opcode() != pdu.LoginResp {
			return false, nil, fmt.Errorf("%w: opcode %#02x instead of a login response", ErrProtocol, byte(r.Opcode()))
		}
		if len(data)+r.DataLen() > TextMax {
			return false, nil, fmt.Errorf("%w: login text exceeds %d bytes", ErrProtocol, TextMax)
		}
		resp := *r
		part := make([]byte, r.DataLen())
		if err := c.R.ReadData(part); err != nil {
			return false, nil, err
		}
		data = append(data, part...)
		c.expect = resp.StatSN() + 1
		if resp.Flags()&pdu.Continue != 0 {
			continue
		}
		reply, err := ParseText(data)
		if err != nil {
			return false, nil, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if status := Status(resp.LoginStatus()); status != Success {
			e := &Error{Status: status}
			e.Address, _ = reply.Get("TargetAddress")
			return false, nil, e
		}
		c.tsih = resp.TSIH()
		return resp.Final(), reply, nil
	}
	return false, nil, fmt.Errorf("%w: endless answer", ErrProtocol)
}

func (c *connector) authenticate() error {
	text := Text{{"InitiatorName", c.req.Initiator}}
	if c.out.Discovery {
		text.Add("SessionType", "Discovery")
	} else {
		text.Add("SessionType", "Normal")
		text.Add("TargetName", c.req.Target)
	}
	toOperational := byte(pdu.Final | stageSecurity<<2 | stageOperational)
	if c.req.Secrets == nil {
		text.Add("AuthMethod", none)
		return c.untilTransit(toOperational, text)
	}
	text.Add("AuthMethod", "CHAP,None")
	transit, reply, err := c.exchange(toOperational, text)
	if err != nil {
		return err
	}
	method, _ := reply.Get("AuthMethod")
	if method != "CHAP" {
		if c.req.Mutual {
			return fmt.Errorf("%w: target chose AuthMethod=%s, but mutual CHAP is demanded", ErrProtocol, method)
		}
		if transit {
			return nil
		}
		return c.untilTransit(toOperational, nil)
	}
	_, reply, err = c.exchange(0, Text{{"CHAP_A", chapMD5}})
	if err != nil {
		return err
	}
	id, _ := reply.Get("CHAP_I")
	value, _ := reply.Get("CHAP_C")
	if alg, _ := reply.Get("CHAP_A"); alg != chapMD5 {
		return fmt.Errorf("%w: target chose CHAP_A=%s", ErrProtocol, alg)
	}
	theirs, err := parseChallenge(id, value)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	s := c.req.Secrets
	text = Text{{"CHAP_N", s.User}, {"CHAP_R", encodeBinary(chapResponse(theirs.id, s.Secret, theirs.bytes))}}
	mine := newChallenge()
	if c.req.Mutual {
		text.Add("CHAP_I", strconv.Itoa(int(mine.id)))
		text.Add("CHAP_C", encodeBinary(mine.bytes))
	}
	transit, reply, err = c.exchange(toOperational, text)
	if err != nil {
		return err
	}
	if c.req.Mutual {
		name, _ := reply.Get("CHAP_N")
		response, _ := reply.Get("CHAP_R")
		if !mine.verify(s.MutualSecret, response) || name != s.MutualUser {
			return fmt.Errorf("target %s at the other end did not prove its CHAP secret", c.req.Target)
		}
	}
	if transit {
		return nil
	}
	return c.untilTransit(toOperational, nil)
}

func (c *connector) negotiate() error {
	offer := c.req.Wishes.offer()
	transit, reply, err := c.exchange(pdu.Final|stageOperational<<2|stageFull, offer)
	for range RoundsMax {
		if err != nil {
			return err
		}
		var more Text
		for _, p := range reply {
			if p.Value == notUnderstood || p.Value == irrelevant || p.Value == reject {
				continue
			}
			if err := c.out.accept(p.Key, p.Value); err != nil {
				return fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			// A key we did not offer wants an answer unless it only declares something.
			if _, offered := offer.Get(p.Key); !offered && p.Key != "TargetPortalGroupTag" && p.Key != "TargetAlias" && p.Key != "TargetAddress" {
				more.Add(p.Key, notUnderstood)
			}
		}
		if transit {
			return nil
		}
		transit, reply, err = c.exchange(pdu.Final|stageOperational<<2|stageFull, more)
	}
	return fmt.Errorf("%w: target never leaves the operational stage", ErrProtocol)
}

func (c *connector) untilTransit(flags byte, text Text) error {
	for range RoundsMax {
		transit, _, err := c.exchange(flags, text)
		if err != nil || transit {
			return err
		}
		text = nil
	}
	return fmt.Errorf("%w: target never leaves the security stage", ErrProtocol)
}
