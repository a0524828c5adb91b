package initiator_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/redirect"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/target/memvolume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const someone = "iqn.2026-01.test:someone"

// cluster is two targets that can serve one volume, with a redirector in front.
type cluster struct {
	t      *testing.T
	vol    *memvolume.Volume
	iqn    string
	dirs   [2]*memvolume.Directory
	srvs   [2]*target.Server
	addrs  [2]string
	owner  int
	portal string
}

// Locate implements redirect.Locator.
type locator struct {
	mu      sync.Mutex
	portal  string
	changed chan struct{}
}

func (l *locator) set(p string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.portal = p
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *locator) Locate(ctx context.Context, _ target.Login) (string, error) {
	for {
		l.mu.Lock()
		p, changed := l.portal, l.changed
		l.mu.Unlock()
		if p != "" {
			return p, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (l *locator) Targets(context.Context, target.Login) ([]string, error) { return nil, nil }

func listen(t *testing.T, serve func(net.Listener) error, closeAll func() error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { serve(l); close(done) }()
	t.Cleanup(func() { closeAll(); <-done })
	return l.Addr().String()
}

func newCluster(t *testing.T) (*cluster, *locator) {
	id := block.NewVolumeID()
	c := &cluster{t: t, vol: memvolume.New(id, 64<<20), iqn: id.IQN()}
	for i := range c.dirs {
		c.dirs[i] = memvolume.NewDirectory()
		c.dirs[i].Park(c.iqn)
		srv, err := target.New(target.Options{Directory: c.dirs[i]})
		if err != nil {
			t.Fatal(err)
		}
		c.srvs[i] = srv
		c.addrs[i] = listen(t, srv.Serve, srv.Close)
	}
	loc := &locator{changed: make(chan struct{})}
	r, err := redirect.New(redirect.Options{Locator: loc})
	if err != nil {
		t.Fatal(err)
	}
	c.portal = listen(t, r.Serve, r.Close)
	c.dirs[0].ServeIQN(c.iqn, c.vol)
	loc.set(c.addrs[0])
	return c, loc
}

// move gives the volume to the other target, announced or not.
func (c *cluster) move(loc *locator, why target.Reason) {
	from, to := c.owner, 1-c.owner
	loc.set("")
	c.dirs[from].Park(c.iqn)
	if err := c.srvs[from].CloseVolume(c.t.Context(), c.iqn, why); err != nil {
		c.t.Error(err)
	}
	c.dirs[to].ServeIQN(c.iqn, c.vol)
	loc.set(c.addrs[to])
	c.owner = to
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestOwnerMovesUnderLoadAreNotSeenAsErrors(t *testing.T) {
	for _, why := range []target.Reason{target.VolumeMoved, target.VolumeLost} {
		t.Run(fmt.Sprint(why), func(t *testing.T) {
			c, loc := newCluster(t)
			ctx := bounded(t)
			s, err := initiator.Dial(ctx, initiator.Options{Portals: []string{c.portal}, Target: c.iqn, Initiator: someone})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var stop atomic.Bool
			var wg sync.WaitGroup
			var writes atomic.Int64
			// Each worker has its own blocks, writes rising content and reads it back.
			for w := range 8 {
				wg.Go(func() {
					want := make([]byte, 8192)
					got := make([]byte, 8192)
					for n := 0; !stop.Load(); n++ {
						rand.Read(want)
						at := uint64(w*8+n%8) * 8192
						if err := s.WriteAt(ctx, want, at); err != nil {
							t.Error(err)
							return
						}
						if err := s.ReadAt(ctx, got, at); err != nil {
							t.Error(err)
							return
						}
						if !bytes.Equal(got, want) {
							t.Errorf("block at %d differs from what was acknowledged", at)
							return
						}
						writes.Add(1)
					}
				})
			}
			const moves = 20
			for range moves {
				before := writes.Load()
				for writes.Load() < before+20 && !t.Failed() {
					s.Flush(ctx)
				}
				c.move(loc, why)
			}
			stop.Store(true)
			wg.Wait()
			n := s.Counters()
			if n.Reconnects == 0 {
				t.Error("no reconnect was counted")
			}
			t.Logf("%d moves, %d writes, %d reconnects, longest outage %s, longest command %s", moves, writes.Load(), n.Reconnects, n.LongestOutage, n.LongestCommand)
		})
	}
}

func TestCommandThatMustNotBeRepeatedHasAnUnknownOutcome(t *testing.T) {
	c, loc := newCluster(t)
	ctx := bounded(t)
	s, err := initiator.Dial(ctx, initiator.Options{Portals: []string{c.portal}, Target: c.iqn, Initiator: someone})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c.vol.Hold()
	cdb := make([]byte, 16)
	cdb[0], cdb[13] = scsi.OpCompareAndWrite, 1
	outcome, write := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Command(ctx, cdb, make([]byte, 1024), true)
		outcome <- err
	}()
	go func() { write <- s.WriteAt(ctx, make([]byte, 512), 4096) }()
	c.vol.AwaitHeld(2)
	moved := make(chan struct{})
	go func() { c.move(loc, target.VolumeLost); close(moved) }()
	if err := <-outcome; !errors.Is(err, initiator.ErrOutcomeUnknown) {
		t.Errorf("compare and write: %v", err)
	}
	c.vol.Release()
	<-moved
	if err := <-write; err != nil {
		t.Errorf("the write was not repeated: %v", err)
	}
}

func TestEverythingFailsAfterReplacementAndGoesOnWhenThereIsATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := block.NewVolumeID()
		vol := memvolume.New(id, 1<<20)
		dir := memvolume.NewDirectory()
		iqn := dir.Serve(id, vol, target.Grant{})
		srv, err := target.New(target.Options{Directory: dir})
		if err != nil {
			t.Fatal(err)
		}
		conns, done := make(chan net.Conn), make(chan error, 1)
		l := &chanListener{conns: conns, done: make(chan struct{})}
		go func() { done <- srv.Serve(l) }()
		var cut atomic.Bool
		var current net.Conn
		s, err := initiator.Dial(t.Context(), initiator.Options{Portals: []string{"a", "b"}, Target: iqn, Initiator: someone,
			Replacement: 30 * time.Second,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				if cut.Load() {
					return nil, errors.New("cut")
				}
				a, b := net.Pipe()
				conns <- b
				current = a
				return a, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		cut.Store(true)
		current.Close()
		begin := time.Now()
		err = s.WriteAt(t.Context(), make([]byte, 512), 0)
		if !errors.Is(err, initiator.ErrUnreachable) || time.Since(begin) < 29*time.Second {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		cut.Store(false)
		for {
			if err = s.WriteAt(t.Context(), make([]byte, 512), 0); err == nil {
				break
			}
			if !errors.Is(err, initiator.ErrUnreachable) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond) // of the bubble's clock
		}
		s.Close()
		srv.Close()
		<-done
	})
}

type chanListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *chanListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *chanListener) Addr() net.Addr { return &net.TCPAddr{} }

func TestBadRequestsAreRefusedHere(t *testing.T) {
	c, _ := newCluster(t)
	s, err := initiator.Dial(bounded(t), initiator.Options{Portals: []string{c.portal}, Target: c.iqn, Initiator: someone})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, r := range []*initiator.Request{
		{Op: initiator.Read, Data: make([]byte, 100)},
		{Op: initiator.Write, Data: make([]byte, 512), Offset: 1},
		{Op: initiator.Unmap},
		{Op: initiator.Write, Data: make([]byte, initiator.MaxTransfer+512)},
		{Op: 99, Length: 512},
	} {
		if err := s.Do(bounded(t), r); err == nil {
			t.Errorf("operation %d at %d with %d bytes was accepted", r.Op, r.Offset, len(r.Data))
		}
	}
}

func TestCancelledRequestIsTakenBack(t *testing.T) {
	c, loc := newCluster(t)
	s, err := initiator.Dial(bounded(t), initiator.Options{Portals: []string{c.portal}, Target: c.iqn, Initiator: someone})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	loc.set("")
	c.dirs[0].Park(c.iqn)
	if err := c.srvs[0].CloseVolume(t.Context(), c.iqn, target.VolumeLost); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := s.ReadAt(ctx, make([]byte, 512), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestARefusalForGoodIsTheEndAtOnceAndCanBeTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := block.NewVolumeID()
		dir := memvolume.NewDirectory()
		iqn := dir.Serve(id, memvolume.New(id, 1<<20), target.Grant{})
		dir.Grant(iqn, someone, target.Grant{Generation: 1})
		srv, err := target.New(target.Options{Directory: dir})
		if err != nil {
			t.Fatal(err)
		}
		l := &chanListener{conns: make(chan net.Conn), done: make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(l) }()
		s, err := initiator.Dial(t.Context(), initiator.Options{Portals: []string{"a", "b"}, Target: iqn, Initiator: someone,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				a, b := net.Pipe()
				l.conns <- b
				return a, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		dir.Revoke(iqn, someone)
		if _, err := srv.CloseSessions(t.Context(), iqn, someone); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		err = s.WriteAt(t.Context(), make([]byte, 512), 0)
		if took := time.Since(begin); !errors.Is(err, initiator.ErrRefused) || took > 2*time.Second {
			t.Errorf("a write without a grant ends after %s with %v", took, err)
		}
		dir.Grant(iqn, someone, target.Grant{Generation: 2})
		for {
			if err = s.WriteAt(t.Context(), make([]byte, 512), 0); err == nil {
				break
			}
			if !errors.Is(err, initiator.ErrRefused) || time.Since(begin) > time.Minute {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond) // of the bubble's clock
		}
		s.Close()
		srv.Close()
		<-done
	})
}
