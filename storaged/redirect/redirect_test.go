package redirect_test

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/redirect"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/target/memvolume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const someone = "iqn.2026-01.test:someone"

// locator answers what a test sets; it blocks while that is nothing.
type locator struct {
	mu      sync.Mutex
	portal  string
	err     error
	changed chan struct{}
	asked   chan struct{} // one for each question, as far as there is room
	targets []string
}

func newLocator() *locator {
	return &locator{changed: make(chan struct{}), asked: make(chan struct{}, 16)}
}

func (l *locator) set(portal string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.portal, l.err = portal, err
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *locator) Locate(ctx context.Context, _ target.Login) (string, error) {
	select {
	case l.asked <- struct{}{}:
	default:
	}
	for {
		l.mu.Lock()
		p, err, changed := l.portal, l.err, l.changed
		l.mu.Unlock()
		if p != "" || err != nil {
			return p, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (l *locator) Targets(context.Context, target.Login) ([]string, error) { return l.targets, nil }

func listen(t *testing.T, serve func(net.Listener) error, end func() error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { serve(l); close(done) }()
	t.Cleanup(func() { end(); <-done })
	return l.Addr().String()
}

// rig is an owner with one volume and a redirector.
func rig(t *testing.T) (loc *locator, portal, owner, iqn string) {
	dir := memvolume.NewDirectory()
	iqn = dir.ServeNew()
	srv, err := target.New(target.Options{Directory: dir})
	if err != nil {
		t.Fatal(err)
	}
	owner = listen(t, srv.Serve, srv.Close)
	loc = newLocator()
	loc.targets = []string{iqn}
	r, err := redirect.New(redirect.Options{Locator: loc})
	if err != nil {
		t.Fatal(err)
	}
	return loc, listen(t, r.Serve, r.Close), owner, iqn
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestInitiatorsAreSentToTheOwner(t *testing.T) {
	loc, portal, owner, iqn := rig(t)
	loc.set(owner, nil)
	s, err := initiator.Dial(ctxOf(t), initiator.Options{Portals: []string{portal}, Target: iqn, Initiator: someone})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if at, _ := s.Portal(); at != owner {
		t.Errorf("connected to %s, want %s", at, owner)
	}
	for _, tool := range []struct{ name, url, want string }{
		{"iscsi-inq", "iscsi://" + portal + "/" + iqn + "/1", "Vendor:IOMESH"},
		{"iscsi-ls", "iscsi://" + portal, "Portal:" + portal},
	} {
		path, err := exec.LookPath(tool.name)
		if err != nil {
			t.Fatalf("%s is missing: install the Debian package libiscsi-bin", tool.name)
		}
		out, err := exec.CommandContext(ctxOf(t), path, tool.url).CombinedOutput()
		if err != nil || !strings.Contains(string(out), tool.want) {
			t.Errorf("%s %s: %v\n%s", tool.name, tool.url, err, out)
		}
	}
}

func TestCertainRefusalsAreAnswered(t *testing.T) {
	loc, portal, _, iqn := rig(t)
	for err, want := range map[error]login.Status{target.ErrNoTarget: login.NotFound, target.ErrNotGranted: login.NotAuthorized} {
		loc.set("", err)
		_, got := initiator.Dial(ctxOf(t), initiator.Options{Portals: []string{portal}, Target: iqn, Initiator: someone})
		var e *login.Error
		if !errors.As(got, &e) || e.Status != want {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
	}
}

func TestLastAnswerIsGivenWhileTheMetadataCannotBeReached(t *testing.T) {
	loc, portal, owner, iqn := rig(t)
	o := initiator.Options{Portals: []string{portal}, Target: iqn, Initiator: someone}
	loc.set(owner, nil)
	s, err := initiator.Dial(ctxOf(t), o)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	loc.set("", errors.New("metadata cannot be reached"))
	if s, err = initiator.Dial(ctxOf(t), o); err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestLoginIsParkedWhileThereIsNoOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		iqn := block.NewVolumeID().IQN()
		loc := newLocator()
		r, err := redirect.New(redirect.Options{Locator: loc, ParkTimeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		l := &pipe{conns: make(chan net.Conn), done: make(chan struct{})}
		served := make(chan struct{})
		go func() { _ = r.Serve(l); close(served) }()
		ask := func() chan error {
			a, b := net.Pipe()
			l.conns <- b
			got := make(chan error, 1)
			go func() {
				defer a.Close()
				_, err := login.Connect(login.Stream{R: pdu.NewReader(a, login.SegmentMax), W: &pdu.Batch{}, C: a},
					login.Request{Initiator: someone, Target: iqn, Wishes: login.DefaultWishes()})
				got <- err
			}()
			synctest.Wait()
			return got
		}
		got := ask()
		if len(got) > 0 {
			t.Error("answered while there is no owner")
		}
		loc.set("10.0.0.7:10202", nil)
		e := new(login.Error)
		if err := <-got; !errors.As(err, &e) || e.Status != login.MovedTemporarily || e.Address != "10.0.0.7:10202" {
			t.Errorf("got %v", err)
		}
		loc.set("", nil)
		// Nobody comes: the connection ends without a status, which initiators would take for final.
		if err := <-ask(); err == nil || errors.As(err, &e) {
			t.Errorf("got %v", err)
		}
		r.Close()
		<-served
	})
}

type pipe struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipe) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipe) Addr() net.Addr { return &net.TCPAddr{} }

func TestLoginWaitsWhileTheMetadataCannotBeReachedAndNothingIsKnown(t *testing.T) {
	loc, portal, owner, iqn := rig(t)
	loc.set("", errors.New("metadata cannot be reached"))
	got := make(chan error, 1)
	go func() {
		n, err := net.Dial("tcp", portal)
		if err != nil {
			got <- err
			return
		}
		defer n.Close()
		_, err = login.Connect(login.Stream{R: pdu.NewReader(n, login.SegmentMax), W: &pdu.Batch{}, C: n},
			login.Request{Initiator: someone, Target: iqn, Wishes: login.DefaultWishes()})
		got <- err
	}()
	for range 3 {
		<-loc.asked
	}
	loc.set(owner, nil)
	var e *login.Error
	if err := <-got; !errors.As(err, &e) || e.Status != login.MovedTemporarily || e.Address != owner {
		t.Errorf("got %v", err)
	}
}
