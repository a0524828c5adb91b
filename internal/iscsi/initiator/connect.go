package initiator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
)

// hopsMax bounds the redirections followed in one attempt.
const hopsMax = 4

// permanent reports whether a login was refused for a reason that trying again does not change.
func permanent(err error) bool {
	var e *login.Error
	return errors.As(err, &e) && e.Status>>8 == 2
}

type attempt struct {
	c   *conn
	err error
}

// rounds is how often one call of connect tries each portal.
const rounds = 2

// connect logs in at the first portal that serves. Portals are tried in turn; one that does not answer for HedgeAfter, because it is
// frozen, sent us to an owner that is, or has parked the login, is not waited for: the next is tried besides, and the first to
// succeed is taken. In the second round, where the same portal is asked again, more patience is shown: two logins of one session
// that both succeed replace each other.
func (s *Session) connect(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan attempt)
	running, next := 0, 0
	start := func() {
		portal := s.opt.Portals[next%len(s.opt.Portals)]
		next++
		running++
		go func() {
			c, err := s.login(ctx, portal)
			results <- attempt{c, err}
		}()
	}
	attempts := rounds * len(s.opt.Portals)
	patience := func() time.Duration {
		if next < len(s.opt.Portals) {
			return s.opt.HedgeAfter
		}
		return 3 * s.opt.HedgeAfter
	}
	var won *conn
	var refused, last error
	hedge := time.NewTimer(s.opt.HedgeAfter)
	defer hedge.Stop()
	start()
	hedge.Reset(patience())
	for running > 0 {
		select {
		case a := <-results:
			running--
			switch {
			case a.err == nil && won == nil:
				won = a.c
				cancel()
			case a.err == nil:
				a.c.net.Close()
			case permanent(a.err):
				refused = a.err
			case ctx.Err() == nil || last == nil:
				last = a.err
			}
			if won == nil && running == 0 && next < len(s.opt.Portals) && ctx.Err() == nil {
				start()
				hedge.Reset(patience())
			}
		case <-hedge.C:
			if won == nil && next < attempts && ctx.Err() == nil {
				start()
				hedge.Reset(patience())
			}
		}
	}
	cancel()
	switch {
	case won != nil:
		return won, nil
	case last == nil && refused != nil:
		return nil, refused // all agree
	case last != nil:
		return nil, last
	}
	return nil, ctx.Err()
}

// login connects to one portal and follows redirections.
func (s *Session) login(ctx context.Context, portal string) (*conn, error) {
	address := portal
	for range hopsMax {
		c, err := s.loginAt(ctx, address)
		var e *login.Error
		if errors.As(err, &e) && (e.Status == login.MovedTemporarily || e.Status == login.MovedPermanently) && e.Address != "" {
			// The portal group tag, if any, is of no use here.
			address, _, _ = strings.Cut(e.Address, ",")
			if _, _, err := net.SplitHostPort(address); err != nil {
				address = net.JoinHostPort(strings.Trim(address, "[]"), "3260")
			}
			continue
		}
		return c, err
	}
	return nil, fmt.Errorf("more than %d redirections from %s, last to %s", hopsMax, portal, address)
}

func (s *Session) wishes() login.Wishes {
	w := login.DefaultWishes()
	w.InitialR2T = false
	want := func(on bool) []string {
		if on {
			return []string{"CRC32C"}
		}
		return []string{"None"}
	}
	w.HeaderDigest, w.DataDigest = want(s.opt.HeaderDigest), want(s.opt.DataDigest)
	return w
}

func (s *Session) loginAt(ctx context.Context, address string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opt.LoginTimeout)
	defer cancel()
	n, err := s.opt.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = n.SetDeadline(time.Unix(1, 0)) })
	c := newConn(s, n, address)
	out, err := login.Connect(login.Stream{R: c.reader, W: &c.batch, C: n}, login.Request{
		Initiator: s.opt.Initiator, Target: s.opt.Target, ISID: s.opt.ISID,
		Secrets: s.opt.CHAP, Mutual: s.opt.CHAP != nil && s.opt.CHAP.MutualSecret != "", Wishes: s.wishes(), CmdSN: 1,
	})
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		stop()
		n.Close()
		return nil, fmt.Errorf("portal %s: %w", address, err)
	}
	c.params = out.Params
	c.cmdSN, c.expStatSN, c.maxCmdSN = out.CmdSN, out.StatSN, out.CmdSN
	return c, nil
}

// DiscoveredTarget is an answer to SendTargets.
type DiscoveredTarget struct {
	Target  string
	Portals []string
}

// Discover asks a portal for the targets granted to an initiator. CHAP may be nil.
func Discover(ctx context.Context, portal, initiatorName string, secrets *CHAP) ([]DiscoveredTarget, error) {
	var d net.Dialer
	n, err := d.DialContext(ctx, "tcp", portal)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	stop := context.AfterFunc(ctx, func() { _ = n.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	st := login.Stream{R: pdu.NewReader(n, login.SegmentMax), W: &pdu.Batch{}, C: n}
	w := login.DefaultWishes()
	out, err := login.Connect(st, login.Request{Initiator: initiatorName, ISID: [6]byte{0x80, 1, 2, 3}, Secrets: secrets, Wishes: w, CmdSN: 1})
	if err != nil {
		return nil, fmt.Errorf("discovery at %s: %w", portal, err)
	}
	st.R.DataMax = w.RecvMax
	var all []byte
	ttt := uint32(pdu.NoTag)
	ask := login.Text{{Key: "SendTargets", Value: "All"}}.Encode()
	sn, expect := out.CmdSN, out.StatSN
	for len(all) < 64<<20 {
		var h pdu.Header
		h.SetOpcode(pdu.TextReq)
		h.SetFlags(pdu.Final)
		h.SetITT(1)
		h.SetTTT(ttt)
		h.SetCmdSN(sn)
		h.SetExpStatSN(expect)
		sn++
		st.W.Add(&h, ask)
		ask = nil
		if _, err := st.W.WriteTo(n); err != nil {
			return nil, fmt.Errorf("discovery at %s: %w", portal, err)
		}
		r, err := st.R.Next()
		if err != nil {
			return nil, fmt.Errorf("discovery at %s: %w", portal, err)
		}
		if r.Opcode() != pdu.TextResp {
			return nil, fmt.Errorf("discovery at %s: opcode %#02x instead of a text response", portal, byte(r.Opcode()))
		}
		resp := *r
		part := make([]byte, r.DataLen())
		if err := st.R.ReadData(part); err != nil {
			return nil, fmt.Errorf("discovery at %s: %w", portal, err)
		}
		all = append(all, part...)
		expect = resp.StatSN() + 1
		if ttt = resp.TTT(); ttt == pdu.NoTag {
			return parseTargets(string(all)), nil
		}
	}
	return nil, fmt.Errorf("discovery at %s: answer is too long", portal)
}

func parseTargets(s string) []DiscoveredTarget {
	var list []DiscoveredTarget
	for item := range strings.SplitSeq(s, "\x00") {
		key, value, _ := strings.Cut(item, "=")
		switch {
		case key == "TargetName":
			list = append(list, DiscoveredTarget{Target: value})
		case key == "TargetAddress" && len(list) > 0:
			address, _, _ := strings.Cut(value, ",")
			last := &list[len(list)-1]
			last.Portals = append(last.Portals, address)
		}
	}
	return list
}
