package target_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/target/memvolume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const someone = "iqn.2026-01.test:someone"

// rig is a target with one volume, on loopback.
type rig struct {
	t       testing.TB
	dir     *memvolume.Directory
	vol     *memvolume.Volume
	srv     *target.Server
	address string
	id      block.VolumeID
	iqn     string
}

func newRig(t testing.TB, o target.Options) *rig {
	t.Helper()
	r := &rig{t: t, dir: memvolume.NewDirectory(), id: block.NewVolumeID()}
	r.vol = memvolume.New(r.id, 64<<20)
	r.iqn = r.dir.Serve(r.id, r.vol, target.Grant{Generation: 1})
	o.Directory = r.dir
	r.srv, r.address = serve(t, o)
	return r
}

func serve(t testing.TB, o target.Options) (*target.Server, string) {
	t.Helper()
	srv, err := target.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, target.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return srv, l.Addr().String()
}

func (r *rig) options(name string) initiator.Options {
	return initiator.Options{Portals: []string{r.address}, Target: r.iqn, Initiator: name}
}

func (r *rig) dial(name string, change ...func(*initiator.Options)) *initiator.Session {
	r.t.Helper()
	o := r.options(name)
	for _, f := range change {
		f(&o)
	}
	s, err := initiator.Dial(r.ctx(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	return s
}

// ctx bounds a test against hanging; nothing is asserted about time.
func (r *rig) ctx() context.Context { return bounded(r.t) }

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// failAfterFirst dials once.
func failAfterFirst(d *net.Dialer) func(context.Context, string, string) (net.Conn, error) {
	if d == nil {
		d = &net.Dialer{}
	}
	used := false
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if used {
			return nil, &login.Error{Status: login.NotFound, Reason: "only once"}
		}
		used = true
		return d.DialContext(ctx, network, address)
	}
}

// newListener gives a server a second portal.
func newListener(srv *target.Server, t testing.TB) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	done := make(chan struct{})
	go func() { _ = srv.Serve(l); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String(), nil
}
