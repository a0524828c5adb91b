package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
)

// text answers a text request: SendTargets, in parts as the initiator accepts them, and the few keys that may be declared in full
// feature phase.
func (x *session) text(h *pdu.Header) error {
	skip, err := x.sequence(h)
	if skip || err != nil {
		return err
	}
	x.pass(h)
	if h.DataLen() > login.TextMax {
		return protocolError("text of %d bytes", h.DataLen())
	}
	req := *h
	data := make([]byte, h.DataLen())
	if err := x.reader.ReadData(data); errors.Is(err, pdu.ErrDataDigest) {
		x.stats.digestErrors.Add(1)
		return x.reject(&req, rejectDataDigest)
	} else if err != nil {
		return err
	}
	if req.Flags()&pdu.Continue != 0 {
		return x.reject(&req, rejectProtocol) // a request of ours in parts: nobody needs that
	}
	if len(x.textRest) > 0 && req.TTT() == x.textTag {
		return x.sendText(&req)
	}
	keys, err := login.ParseText(data)
	if err != nil {
		return x.reject(&req, rejectProtocol)
	}
	var answer login.Text
	for _, p := range keys {
		switch p.Key {
		case "SendTargets":
			if err := x.sendTargets(p.Value, &answer); err != nil {
				return err
			}
		case "MaxRecvDataSegmentLength":
			if n, err := strconv.Atoi(p.Value); err == nil && n >= 512 && n < 1<<24 {
				x.sendMax.Store(int64(n))
			}
		case "InitiatorAlias", "InitiatorName":
		default:
			answer.Add(p.Key, "NotUnderstood")
		}
	}
	x.textRest = answer.Encode()
	x.textTag++
	return x.sendText(&req)
}

// sendTargets lists the targets granted to this initiator, at the address it came to (RFC 7143 appendix C).
func (x *session) sendTargets(value string, answer *login.Text) error {
	portal := x.portal.String() + "," + strconv.Itoa(portalGroup)
	var names []string
	if x.discovery {
		ctx, cancel := context.WithTimeout(context.Background(), x.srv.opt.LoginTimeout)
		defer cancel()
		all, err := x.srv.opt.Directory.Targets(ctx, Login{Initiator: x.nexus.Initiator, ISID: x.nexus.ISID, Portal: x.portal, Remote: x.remote})
		if err != nil {
			return fmt.Errorf("list targets of %s: %w", x.nexus.Initiator, err)
		}
		switch {
		case value == "All":
			names = all
		case slices.Contains(all, value):
			names = []string{value}
		}
	} else if value == "" || value == x.dev.iqn {
		names = []string{x.dev.iqn}
	}
	for _, n := range names {
		answer.Add("TargetName", n)
		answer.Add("TargetAddress", portal)
	}
	return nil
}

// sendText sends the next part of the answer.
func (x *session) sendText(req *pdu.Header) error {
	n := min(len(x.textRest), int(x.sendMax.Load()), login.SegmentMax)
	part := x.textRest[:n]
	x.textRest = x.textRest[n:]
	var h pdu.Header
	h.SetOpcode(pdu.TextResp)
	h.SetITT(req.ITT())
	h.SetLUN(req.LUN())
	h.SetTTT(pdu.NoTag)
	h.SetFlags(pdu.Final)
	if len(x.textRest) > 0 {
		h.SetFlags(pdu.Continue)
		h.SetTTT(x.textTag)
	}
	x.send(h, part, true, false)
	return nil
}
