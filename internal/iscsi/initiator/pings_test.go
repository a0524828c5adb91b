package initiator_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/target/memvolume"
)

// noted is a connection whose writes are noted.
type noted struct {
	net.Conn
	note func()
}

func (n noted) Write(b []byte) (int, error) {
	n.note()
	return n.Conn.Write(b)
}

// Sessions that were opened at different times and have nothing to do ping their targets at the same moments, each of them every five seconds.
func TestIdleSessionsPingTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sessions = 5
		dir := memvolume.NewDirectory()
		srv, err := target.New(target.Options{Directory: dir})
		if err != nil {
			t.Fatal(err)
		}
		l := &chanListener{conns: make(chan net.Conn), done: make(chan struct{})}
		var ended sync.WaitGroup
		ended.Go(func() { _ = srv.Serve(l) })
		var mu sync.Mutex
		idle := false
		pings := map[time.Time]int{}
		note := func() {
			mu.Lock()
			defer mu.Unlock()
			if idle {
				pings[time.Now().Round(0)]++
			}
		}
		var all []*initiator.Session
		for i := range sessions {
			iqn := fmt.Sprintf("iqn.2016-02.com.iomesh:idle-%d", i)
			dir.ServeIQN(iqn, memvolume.New(block.NewVolumeID(), 1<<20))
			s, err := initiator.Dial(t.Context(), initiator.Options{Portals: []string{"10.0.0.1:1"}, Target: iqn, Initiator: someone,
				DialContext: func(context.Context, string, string) (net.Conn, error) {
					a, b := net.Pipe()
					l.conns <- b
					return noted{a, note}, nil
				}})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
			<-time.After(1370 * time.Millisecond)
		}
		<-time.After(10 * time.Second)
		mu.Lock()
		idle = true
		mu.Unlock()
		<-time.After(30 * time.Second)
		mu.Lock()
		idle = false
		if len(pings) != 6 {
			t.Errorf("pings at %d moments of 30 s, want 6: %v", len(pings), pings)
		}
		for at, n := range pings {
			if n < sessions {
				t.Errorf("%d of %d sessions pinged at %s", n, sessions, at)
			}
		}
		mu.Unlock()
		for _, s := range all {
			s.Close()
		}
		srv.Close()
		ended.Wait()
	})
}
