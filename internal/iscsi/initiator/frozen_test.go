package initiator_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/redirect"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/target/memvolume"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// freezer is the initiator's end of a connection to a process that can be stopped: then writes go into its socket buffer and reads wait.
type freezer struct {
	net.Conn
	frozen func() bool
	once   sync.Once
	closed chan struct{}
}

func (f *freezer) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if f.frozen() {
		<-f.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (f *freezer) Write(b []byte) (int, error) {
	if f.frozen() {
		return len(b), nil
	}
	return f.Conn.Write(b)
}

func (f *freezer) SetDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) && f.frozen() {
		f.Close()
	}
	return f.Conn.SetDeadline(t)
}

func (f *freezer) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Conn.Close()
}

// The owner's process stops (SIGSTOP). Its connections stay open and silent, also new ones. The metadata names another owner after
// timeouts.OwnerDead, and until then the redirector still sends everybody to the frozen one.
func TestFrozenOwnerIsLeftWithinTheBar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vol := memvolume.New(block.NewVolumeID(), 1<<20)
		iqn := "iqn.2016-02.com.iomesh:frozen"
		type server interface {
			Serve(net.Listener) error
			Close() error
		}
		listeners := map[string]*chanListener{}
		var ended sync.WaitGroup
		start := func(address string, s server, err error) {
			if err != nil {
				t.Fatal(err)
			}
			l := &chanListener{conns: make(chan net.Conn), done: make(chan struct{})}
			listeners[address] = l
			ended.Go(func() { _ = s.Serve(l) })
		}
		var servers []server
		for _, address := range []string{"10.0.0.1:1", "10.0.0.2:1"} {
			dir := memvolume.NewDirectory()
			dir.ServeIQN(iqn, vol)
			s, err := target.New(target.Options{Directory: dir})
			start(address, s, err)
			servers = append(servers, s)
		}
		loc := &locator{changed: make(chan struct{}), portal: "10.0.0.1:1"}
		r, err := redirect.New(redirect.Options{Locator: loc})
		start("127.0.0.1:3260", r, err)
		servers = append(servers, r)

		var mu sync.Mutex
		stopped := false
		s, err := initiator.Dial(t.Context(), initiator.Options{Portals: []string{"127.0.0.1:3260"}, Target: iqn, Initiator: someone,
			DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
				a, b := net.Pipe()
				listeners[address].conns <- b
				return &freezer{Conn: a, closed: make(chan struct{}), frozen: func() bool {
					mu.Lock()
					defer mu.Unlock()
					return stopped && address == "10.0.0.1:1"
				}}, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.WriteAt(t.Context(), make([]byte, 512), 0); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		stopped = true
		mu.Unlock()
		begin := time.Now()
		time.AfterFunc(timeouts.OwnerDead+200*time.Millisecond, func() { loc.set("10.0.0.2:1") })
		if err := s.WriteAt(t.Context(), make([]byte, 512), 0); err != nil {
			t.Error(err)
		}
		// The bubble's clock: what passes is only what somebody waited for.
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("I/O flowed again after %s, the bar is 5 s", took)
		} else {
			t.Logf("I/O flowed again after %s", took)
		}
		s.Close()
		for _, x := range servers {
			x.Close()
		}
		ended.Wait()
	})
}
