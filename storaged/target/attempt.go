package target

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
)

// portalGroup is the target portal group tag, the same at every owner.
const portalGroup = 1

// loginAttempt is one connection in its login phase. It implements login.Policy.
type loginAttempt struct {
	srv    *Server
	conn   net.Conn
	reader *pdu.Reader
	batch  *pdu.Batch
	ctx    context.Context
	cancel context.CancelFunc

	// Under Server.mu: names once known; revoked by CloseSessions or CloseVolume.
	names   login.Names
	revoked bool

	place   Placement
	session *session
}

func (s *Server) newLogin(c net.Conn) *loginAttempt {
	a := &loginAttempt{srv: s, conn: c, batch: &pdu.Batch{}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.reader = pdu.NewReader(c, login.SegmentMax)
	return a
}

// connection serves one connection from its first byte to its end.
func (s *Server) connection(a *loginAttempt) {
	defer a.cancel()
	_ = a.conn.SetDeadline(time.Now().Add(s.opt.LoginTimeout))
	out, err := login.Accept(login.Stream{R: a.reader, W: a.batch, C: a.conn}, wishes(), a)
	s.mu.Lock()
	delete(s.logins, a)
	s.mu.Unlock()
	if err != nil {
		if a.session != nil {
			a.session.close("login not completed")
			a.session.end()
		}
		s.loginFailed(a, err)
		a.linger(err)
		return
	}
	_ = a.conn.SetDeadline(time.Time{})
	a.session.run(a, out)
}

// lingerMax is how long an initiator has to take the status of its login and close the connection.
const lingerMax = time.Second

// linger leaves the closing to the initiator once it has a status: there are some that see the end of the connection before the answer
// that came with it, and take a redirection for a failure.
func (a *loginAttempt) linger(err error) {
	var refused *login.Error
	if errors.As(err, &refused) {
		_ = a.conn.SetReadDeadline(time.Now().Add(lingerMax))
		_ = a.reader.WaitByte()
	}
}

func wishes() login.Wishes {
	w := login.DefaultWishes()
	return w
}

func (s *Server) loginFailed(a *loginAttempt, err error) {
	var refused *login.Error
	if errors.As(err, &refused) && refused.Status == login.MovedTemporarily {
		return
	}
	// Counted is what the initiator has to change (status class 2). A target that is not ready, or a connection that broke, is not refused:
	// the initiator tries again.
	if refused != nil && refused.Status>>8 == 2 {
		s.failed.Add(1)
	}
	s.opt.Log.Info("login failed", slog.String("target", a.names.Target), slog.String("initiator", a.names.Initiator),
		slog.String("remote", a.conn.RemoteAddr().String()), slog.Any("error", err))
}

func (a *loginAttempt) describe(n login.Names) Login {
	return Login{Target: n.Target, Initiator: n.Initiator, ISID: n.ISID,
		Portal: addrPort(a.conn.LocalAddr()), Remote: addrPort(a.conn.RemoteAddr())}
}

// parked runs f, which may take up to ParkTimeout, while watching that the initiator is still there.
func (a *loginAttempt) parked(f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(a.ctx, a.srv.opt.ParkTimeout)
	defer cancel()
	_ = a.conn.SetDeadline(time.Time{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		// An initiator says nothing while it waits, so that a byte or an error ends the watch: an error, because the deadline set below
		// has passed, or because it has gone.
		if err := a.reader.WaitByte(); err != nil {
			cancel()
		}
	}()
	err := f(ctx)
	_ = a.conn.SetReadDeadline(time.Unix(1, 0))
	<-watched
	_ = a.conn.SetDeadline(time.Now().Add(a.srv.opt.LoginTimeout))
	return err
}

// Admit implements login.Policy.
func (a *loginAttempt) Admit(n login.Names) (login.Admission, error) {
	s := a.srv
	s.mu.Lock()
	a.names = n
	s.mu.Unlock()
	admission := login.Admission{PortalGroup: portalGroup, Window: uint32(s.opt.QueueDepth)}
	if n.Discovery {
		return admission, nil
	}
	err := a.parked(func(ctx context.Context) (err error) {
		a.place, err = s.opt.Directory.Lookup(ctx, a.describe(n))
		return err
	})
	switch {
	case errors.Is(err, ErrNoTarget):
		return admission, &login.Error{Status: login.NotFound, Reason: err.Error()}
	case errors.Is(err, ErrNotGranted):
		return admission, &login.Error{Status: login.NotAuthorized, Reason: err.Error()}
	case err != nil:
		return admission, fmt.Errorf("look up %s: %w", n.Target, err)
	case a.place.Redirect != "":
		return admission, &login.Error{Status: login.MovedTemporarily, Address: a.place.Redirect}
	case a.place.Volume == nil:
		return admission, fmt.Errorf("look up %s: neither a volume nor a redirection", n.Target)
	}
	if c := a.place.Grant.CHAP; c != nil {
		admission.Secrets = &login.Secrets{User: c.User, Secret: c.Secret, MutualUser: c.MutualUser, MutualSecret: c.MutualSecret}
	}
	return admission, nil
}

// Establish implements login.Policy: it ends the session this one replaces, after its commands, and enters the new one.
func (a *loginAttempt) Establish(n login.Names, p login.Params) (uint16, error) {
	s := a.srv
	x := newSession(s, a, n)
	if n.Discovery {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			return 0, ErrClosed
		}
		s.sessions[x] = struct{}{}
		s.changes++
		a.session = x
		return x.tsih, nil
	}
	err := a.parked(func(ctx context.Context) error { return a.enter(ctx, x) })
	if err != nil {
		return 0, err
	}
	a.session = x
	return x.tsih, nil
}

func (a *loginAttempt) enter(ctx context.Context, x *session) error {
	s := a.srv
	for {
		s.mu.Lock()
		if s.closed || a.revoked {
			s.mu.Unlock()
			return errors.New("the grant or the volume was withdrawn during login")
		}
		d := s.devices[a.names.Target]
		if d == nil || (d.volume != a.place.Volume && len(d.sessions) == 0) {
			fresh := newDevice(s, a.names.Target, a.place.Volume)
			if d != nil {
				fresh.past = d.past
			}
			d = fresh
			s.devices[a.names.Target] = d
		}
		// Sessions of the same nexus are replaced (RFC 7143 §6.3.5), those of a former Volume of the same name end.
		var old []*session
		for y := range d.sessions {
			if y.nexus == x.nexus || d.volume != a.place.Volume {
				old = append(old, y)
			}
		}
		if x.askedTSIH != 0 && (len(old) != 1 || old[0].tsih != x.askedTSIH) {
			s.mu.Unlock()
			return &login.Error{Status: login.NoSession, Reason: "one connection per session"}
		}
		if len(old) == 0 && len(d.sessions) >= s.opt.SessionsPerTargetMax {
			s.mu.Unlock()
			return &login.Error{Status: login.OutOfResources, Reason: "too many sessions at this target"}
		}
		if len(old) == 0 && d.loaded {
			x.dev = d
			d.sessions[x] = struct{}{}
			s.sessions[x] = struct{}{}
			s.changes++
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		if len(old) == 0 {
			if err := d.load(ctx); err != nil {
				return fmt.Errorf("load reservations of %s: %w", a.names.Target, err)
			}
			continue
		}
		// The writes of the old session are applied or can never be before this one begins (I14).
		for _, y := range old {
			y.close("session reinstated")
		}
		for _, y := range old {
			if s.opt.planted == plantEarlyReinstatement {
				s.mu.Lock()
				delete(d.sessions, y)
				s.mu.Unlock()
				continue
			}
			if err := y.awaitEnd(ctx); err != nil {
				return fmt.Errorf("wait for the commands of the replaced session: %w", err)
			}
		}
		x.askedTSIH = 0
	}
}

func newNexus(n login.Names) scsi.Nexus { return scsi.Nexus{Initiator: n.Initiator, ISID: n.ISID} }
