package login

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/iomesh/iomesh/internal/iscsi/pdu"
)

type policy struct {
	admission Admission
	admit     error
	got       Names
}

func (p *policy) Admit(n Names) (Admission, error)        { p.got = n; return p.admission, p.admit }
func (p *policy) Establish(Names, Params) (uint16, error) { return 42, nil }

func exchange(t *testing.T, p *policy, req Request, w Wishes) (Outcome, Outcome, error, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	type result struct {
		out Outcome
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer b.Close()
		out, err := Accept(Stream{R: pdu.NewReader(b, SegmentMax), W: &pdu.Batch{}, C: b}, w, p)
		done <- result{out, err}
	}()
	mine, err := Connect(Stream{R: pdu.NewReader(a, SegmentMax), W: &pdu.Batch{}, C: a}, req)
	a.Close()
	theirs := <-done
	return mine, theirs.out, err, theirs.err
}

func request() Request {
	return Request{Initiator: "iqn.x:i", Target: "iqn.x:T", ISID: [6]byte{1, 2}, Wishes: DefaultWishes(), CmdSN: 99}
}

func TestBothSidesAgree(t *testing.T) {
	p := &policy{admission: Admission{Window: 16}}
	mine, theirs, err, terr := exchange(t, p, request(), DefaultWishes())
	if err != nil || terr != nil {
		t.Fatal(err, terr)
	}
	if p.got.Target != "iqn.x:t" || p.got.ISID != ([6]byte{1, 2}) {
		t.Errorf("target saw %+v", p.got)
	}
	if mine.TSIH != 42 || mine.CmdSN != 99 || theirs.CmdSN != 99 || mine.StatSN != theirs.StatSN {
		t.Errorf("initiator %+v, target %+v", mine, theirs)
	}
	m, th := mine.Params, theirs.Params
	m.RecvMax, m.SendMax, th.RecvMax, th.SendMax = 0, 0, 0, 0
	if m != th {
		t.Errorf("initiator took %+v, target %+v", m, th)
	}
	if mine.SendMax != 256<<10 || theirs.SendMax != 256<<10 || mine.InitialR2T || !mine.ImmediateData || mine.Time2Wait != 0 {
		t.Errorf("negotiated %+v", mine.Params)
	}
}

func TestNegotiationTakesTheLesser(t *testing.T) {
	req := request()
	req.Wishes.MaxBurst, req.Wishes.FirstBurst, req.Wishes.ImmediateData, req.Wishes.InitialR2T = 4096, 2048, false, true
	req.Wishes.HeaderDigest = []string{"CRC32C", "None"}
	mine, theirs, err, terr := exchange(t, &policy{}, req, DefaultWishes())
	if err != nil || terr != nil {
		t.Fatal(err, terr)
	}
	for _, p := range []Params{mine.Params, theirs.Params} {
		if p.MaxBurst != 4096 || p.FirstBurst != 2048 || p.ImmediateData || !p.InitialR2T || !p.HeaderDigest || p.DataDigest {
			t.Errorf("%+v", p)
		}
	}
}

func TestRefusals(t *testing.T) {
	secrets := &Secrets{User: "u", Secret: "s3cret-of-u"}
	for _, c := range []struct {
		name   string
		policy policy
		change func(*Request)
		want   Status
	}{
		{"redirection", policy{admit: &Error{Status: MovedTemporarily, Address: "10.0.0.1:10202"}}, func(*Request) {}, MovedTemporarily},
		{"not found", policy{admit: &Error{Status: NotFound}}, func(*Request) {}, NotFound},
		{"CHAP demanded, none offered", policy{admission: Admission{Secrets: secrets}}, func(*Request) {}, AuthFailure},
		{"CHAP with a wrong secret", policy{admission: Admission{Secrets: secrets}}, func(r *Request) { r.Secrets = &Secrets{User: "u", Secret: "wrong"} }, AuthFailure},
		{"no common digest", policy{}, func(r *Request) { r.Wishes.DataDigest = []string{"XXHASH"} }, InitiatorError},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := request()
			c.change(&req)
			_, _, err, terr := exchange(t, &c.policy, req, DefaultWishes())
			for _, e := range []error{err, terr} {
				var le *Error
				if !errors.As(e, &le) || le.Status != c.want {
					t.Errorf("got %v, want status %v", e, c.want)
				}
				if c.want == MovedTemporarily && le.Address != "10.0.0.1:10202" {
					t.Errorf("address %q", le.Address)
				}
			}
		})
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	s := &Secrets{User: "u", Secret: "topsecret"}
	a := Admission{Secrets: s}
	for _, text := range []string{sprint(s), sprint(*s), sprint(a)} {
		if strings.Contains(text, "topsecret") {
			t.Error(text)
		}
	}
}

func TestCHAPResponseOfRFC1994(t *testing.T) {
	// MD5("\x01" "secret" "challenge")
	got := encodeBinary(chapResponse(1, "secret", []byte("challenge")))
	if got != "0x46e47770030e2b4e26a0db72a7efec00" {
		t.Error(got)
	}
	c := challenge{id: 1, bytes: []byte("challenge")}
	if !c.verify("secret", got) || c.verify("secre", got) || c.verify("", got) || c.verify("secret", "0x") {
		t.Error("verify")
	}
}

func FuzzParseText(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.x:i\x00SessionType=Normal\x00"))
	f.Add([]byte("=\x00a\x00a=b\x00a=b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := ParseText(data)
		if err != nil {
			return
		}
		again, err := ParseText(text.Encode())
		if err != nil || len(again) != len(text) {
			t.Fatalf("what was parsed does not parse again: %v", err)
		}
	})
}

// FuzzAccept feeds the target's side with PDUs of a hostile initiator.
func FuzzAccept(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.x:i\x00TargetName=iqn.x:t\x00AuthMethod=CHAP,None\x00"), byte(0x81), []byte("CHAP_A=5\x00"), byte(0), []byte("CHAP_N=u\x00CHAP_R=0x00\x00CHAP_I=1\x00CHAP_C=0b==\x00"), byte(0x81))
	f.Add([]byte("InitiatorName=iqn.x:i\x00SessionType=Discovery\x00"), byte(0x87), []byte("MaxBurstLength=-1\x00"), byte(0x40), []byte{}, byte(0x80))
	f.Fuzz(func(t *testing.T, t1 []byte, f1 byte, t2 []byte, f2 byte, t3 []byte, f3 byte) {
		var in strings.Builder
		var b pdu.Batch
		for _, x := range []struct {
			text  []byte
			flags byte
		}{{t1, f1}, {t2, f2}, {t3, f3}} {
			var h pdu.Header
			h.SetImmediate(pdu.LoginReq)
			h.SetFlags(x.flags)
			b.Add(&h, x.text[:min(len(x.text), SegmentMax)])
		}
		_, _ = b.WriteTo(&in)
		p := &policy{admission: Admission{Secrets: &Secrets{User: "u", Secret: "s"}}}
		var out strings.Builder
		_, err := Accept(Stream{R: pdu.NewReader(strings.NewReader(in.String()), SegmentMax), W: &pdu.Batch{}, C: &out}, DefaultWishes(), p)
		if err == nil {
			t.Fatal("let in without the secret")
		}
	})
}

func sprint(v any) string { return fmt.Sprintf("%v %+v %#v", v, v, v) }
