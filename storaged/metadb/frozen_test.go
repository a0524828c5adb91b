package metadb_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/metadb/metadbtest"
)

// proxy stands for one etcd member before a real one. Frozen, it accepts connections and passes nothing on, as a stopped
// process does.
type proxy struct {
	ln     net.Listener
	target string
	mu     sync.Mutex
	thaw   *sync.Cond
	frozen bool
	conns  []net.Conn
	wg     sync.WaitGroup
}

func newProxy(t *testing.T, endpoint string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, target: strings.TrimPrefix(endpoint, "unix://")}
	p.thaw = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) close() {
	p.freeze(false)
	_ = p.ln.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *proxy) freeze(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = on
	p.thaw.Broadcast()
}

func (p *proxy) accept() {
	for {
		a, err := p.ln.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("unix", p.target)
		if err != nil {
			_ = a.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, a, b)
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(a, b) })
		p.wg.Go(func() { p.copy(b, a) })
	}
}

func (p *proxy) copy(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		for p.frozen {
			p.thaw.Wait()
		}
		p.mu.Unlock()
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) || err != nil {
			return
		}
	}
}

// TestWatchLeavesAFrozenMember: whichever member freezes, a chunk learns of its volumes well before gRPC's keep-alive
// (12 s) would have noticed, and writes go on.
func TestWatchLeavesAFrozenMember(t *testing.T) {
	srv := metadbtest.Start(t)
	direct := srv.Open(t)
	g := metadbtest.Lead(t, direct, 1)
	owner, _ := volume(t, direct, g, 1)
	var proxies []*proxy
	var ends []string
	for range 3 {
		p := newProxy(t, srv.Endpoint)
		proxies = append(proxies, p)
		ends = append(ends, p.ln.Addr().String())
	}
	db, err := metadb.Open(metadb.Options{Endpoints: ends})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch := db.WatchOwners(ctx)
	<-ch
	for i, p := range proxies {
		p.freeze(true)
		next, err := direct.PassOwner(t.Context(), owner.Guard(), owner.Chunk%3+1)
		if err != nil {
			t.Fatal(err)
		}
		owner = next
		late := time.NewTimer(9 * time.Second)
	wait:
		for {
			select {
			case u := <-ch:
				for _, o := range u.Owners {
					if o == next {
						break wait
					}
				}
			case <-late.C:
				t.Fatalf("member %d frozen: the watch saw nothing", i)
			}
		}
		late.Stop()
		// A write whose answer was lost is settled by repeating it.
		for ctx.Err() == nil {
			if next, err = db.PassOwner(ctx, owner.Guard(), owner.Chunk%3+1); err == nil {
				break
			}
		}
		owner = next
		p.freeze(false)
	}
}

// told passes on the messages of a log.
type told struct{ ch chan string }

func (told) Enabled(context.Context, slog.Level) bool { return true }
func (h told) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h told) WithGroup(string) slog.Handler          { return h }
func (h told) Handle(_ context.Context, r slog.Record) error {
	select {
	case h.ch <- r.Message:
	default:
	}
	return nil
}

// TestMembersThatJoinedLaterAreUsed: a chunk that registered while the metadata had one member must not be blind when
// that one goes.
func TestMembersThatJoinedLaterAreUsed(t *testing.T) {
	srv := metadbtest.Start(t)
	p := newProxy(t, srv.Endpoint)
	h := told{make(chan string, 100)}
	db, err := metadb.Open(metadb.Options{Endpoints: []string{p.ln.Addr().String()}, Discover: true, Log: slog.New(h)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for msg := range h.ch {
		if msg == "etcd endpoints in use changed" {
			break
		}
	}
	p.freeze(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := db.GetVolume(ctx, [16]byte{1}); !errors.Is(err, metadb.ErrNotFound) {
		t.Fatalf("with the first member frozen: %v, want an answer from the one that was found", err)
	}
}
