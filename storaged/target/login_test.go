package target_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/storaged/target"
)

func TestCHAP(t *testing.T) {
	right := initiator.CHAP{User: "u", Secret: "a secret of u", MutualUser: "t", MutualSecret: "a secret of t"}
	grant := target.CHAP{User: right.User, Secret: right.Secret, MutualUser: right.MutualUser, MutualSecret: right.MutualSecret}
	change := func(f func(*initiator.CHAP)) *initiator.CHAP { c := right; f(&c); return &c }
	refused := login.AuthFailure
	for _, c := range []struct {
		name    string
		with    *initiator.CHAP
		ok      bool
		refused bool // by the target
	}{
		{"mutual", &right, true, false},
		{"one way", change(func(c *initiator.CHAP) { c.MutualUser, c.MutualSecret = "", "" }), true, false},
		{"without CHAP", nil, false, true},
		{"a wrong secret", change(func(c *initiator.CHAP) { c.Secret += "x" }), false, true},
		{"a wrong user", change(func(c *initiator.CHAP) { c.User += "x" }), false, true},
		{"a target that does not know its secret", change(func(c *initiator.CHAP) { c.MutualSecret += "x" }), false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, target.Options{})
			r.dir.Grant(r.iqn, someone, target.Grant{CHAP: &grant})
			o := r.options(someone)
			o.CHAP = c.with
			ctx := r.ctx()
			if !c.ok && !c.refused {
				// The initiator tries again, since this may be another target at the same address.
				o.LoginTimeout = time.Second
				o.DialContext = failAfterFirst(nil)
			}
			s, err := initiator.Dial(ctx, o)
			if err == nil {
				defer s.Close()
			}
			var e *login.Error
			switch {
			case c.ok != (err == nil):
				t.Fatalf("login: %v", err)
			case c.refused && (!errors.As(err, &e) || e.Status != refused):
				t.Fatalf("refused with %v", err)
			}
		})
	}
}

func TestUnknownTargetAndMissingGrantAreRefused(t *testing.T) {
	r := newRig(t, target.Options{})
	for _, c := range []struct {
		name, target string
		prepare      func()
		want         login.Status
	}{
		{"no such target", "iqn.2016-02.com.iomesh:nothing", func() {}, login.NotFound},
		{"no grant", r.iqn, func() { r.dir.Grant(r.iqn, "iqn.2026-01.test:else", target.Grant{}) }, login.NotAuthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.prepare()
			o := r.options(someone)
			o.Target = c.target
			_, err := initiator.Dial(r.ctx(), o)
			var e *login.Error
			if !errors.As(err, &e) || e.Status != c.want {
				t.Errorf("got %v, want status %v", err, c.want)
			}
		})
	}
}

func TestLoginIsRedirectedToTheOwner(t *testing.T) {
	owner, other := newRig(t, target.Options{}), newRig(t, target.Options{})
	other.dir.Redirect(owner.iqn, owner.address)
	o := owner.options(someone)
	o.Portals = []string{other.address}
	s, err := initiator.Dial(owner.ctx(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if at, up := s.Portal(); at != owner.address || !up {
		t.Errorf("connected to %s (%v), want the owner %s", at, up, owner.address)
	}
}

func TestLoginIsParkedUntilThereIsAnOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{})
		defer p.close()
		place := p.vol
		p.dir.Park(p.iqn)
		in := make(chan *initiator.Session, 1)
		go func() {
			s, err := initiator.Dial(t.Context(), initiator.Options{Portals: []string{"pipe"}, Target: p.iqn, Initiator: someone,
				DialContext: p.net.dial, LoginTimeout: time.Minute})
			if err != nil {
				t.Error(err)
			}
			in <- s
		}()
		if ready(in) {
			t.Error("logged in without an owner")
		}
		p.dir.ServeIQN(p.iqn, place)
		(<-in).Close()
	})
}

func TestParkedLoginEndsWithoutAStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{ParkTimeout: 3 * time.Second})
		defer p.close()
		p.dir.Park(p.iqn)
		c, err := p.net.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = rawLogin(t, c, p.iqn, someone, isid(1), initiatorWishes)
		var e *login.Error
		if err == nil || errors.As(err, &e) {
			t.Errorf("got %v, want a closed connection: initiators do not try again after 02xx", err)
		}
		c.Close()
	})
}

func TestSilentConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{})
		defer p.close()
		c, err := p.net.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection that says nothing stays open")
		}
		if n := p.srv.Totals().Logins; n != 0 {
			synctest.Wait()
			if n = p.srv.Totals().Logins; n != 0 {
				t.Errorf("%d logins in progress", n)
			}
		}
	})
}

func TestSilentInitiatorIsPingedThenDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{})
		defer p.close()
		x := p.raw(someone, isid(1))
		h, _, err := x.next()
		if err != nil || h.ITT() != 0xffffffff {
			t.Fatalf("no ping: %v", err)
		}
		if _, _, err := x.next(); err == nil {
			t.Error("a silent initiator is kept")
		}
	})
}

func TestDiscoveryListsOnlyWhatIsGranted(t *testing.T) {
	r := newRig(t, target.Options{})
	hidden := newRig(t, target.Options{})
	r.dir.Serve(hidden.id, hidden.vol, target.Grant{})
	r.dir.Grant(hidden.iqn, "iqn.2026-01.test:else", target.Grant{})
	list, err := initiator.Discover(r.ctx(), r.address, someone, nil)
	if err != nil || len(list) != 1 || list[0].Target != r.iqn || len(list[0].Portals) != 1 || list[0].Portals[0] != r.address {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestDiscoveryOfManyTargetsComesInParts(t *testing.T) {
	r := newRig(t, target.Options{})
	for range 2000 {
		r.dir.ServeNew()
	}
	list, err := initiator.Discover(r.ctx(), r.address, someone, nil)
	if err != nil || len(list) != 2001 {
		t.Errorf("%d targets, %v", len(list), err)
	}
}
