package peer

import (
	"bytes"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type recorder struct {
	up     chan *Conn
	down   chan error
	frames chan []byte
}

func newRecorder() *recorder {
	return &recorder{up: make(chan *Conn, 16), down: make(chan error, 16), frames: make(chan []byte, 4096)}
}
func (r *recorder) Up(c *Conn) { r.up <- c }
func (r *recorder) Frame(_ *Conn, f *wire.Frame) {
	r.frames <- append(bytes.Clone(f.Head), f.Data...)
	f.Buf.Release()
}
func (r *recorder) Idle(*Conn)                 {}
func (r *recorder) Down(_ *Conn, reason error) { r.down <- reason }

func credentials(t testing.TB, a *mtls.Authority, role mtls.Role) Secure {
	t.Helper()
	leaf, err := a.Issue(mtls.LeafOptions{Role: role, Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := leaf.Write(dir); err != nil {
		t.Fatal(err)
	}
	src, err := mtls.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return MTLS(src)
}

// side is a chunk.
type side struct {
	net  *Network
	pool *pagebuf.Pool
	addr string
}

func start(t testing.TB, cluster block.ClusterID, id block.ChunkID, sec Secure, encrypt bool, h Handler) *side {
	t.Helper()
	s := &side{pool: &pagebuf.Pool{}}
	s.net = New(Options{Cluster: cluster, Self: id, Boot: uint64(id) + 100, Secure: sec, Encrypt: encrypt, Pool: s.pool, Handler: h, Log: slog.New(slog.DiscardHandler)})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.net.Serve(ln) }()
	t.Cleanup(func() {
		s.net.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s.pool.Used() != 0 {
			t.Errorf("chunk %s: %d bytes of buffers leaked", id, s.pool.Used())
		}
	})
	return s
}

// pair starts chunks 1 and 2 of one cluster, whose events go to ha and hb, and connects the first to the second.
func pair(t testing.TB, encrypt bool, ha, hb Handler) (a, b *side, link *Link) {
	t.Helper()
	ca, err := mtls.NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cluster := block.NewClusterID()
	a = start(t, cluster, 1, credentials(t, ca, mtls.RoleChunk), encrypt, ha)
	b = start(t, cluster, 2, credentials(t, ca, mtls.RoleChunk), encrypt, hb)
	return a, b, a.net.Connect(2, b.addr)
}

// dataConn waits for the data connection of a side.
func (r *recorder) dataConn() *Conn {
	c := <-r.up
	for c.Class != Data {
		c = <-r.up
	}
	return c
}

func TestFramesArriveInOrderWithTheirData(t *testing.T) {
	for name, encrypt := range map[string]bool{"plain after the handshake": false, "encrypted": true} {
		t.Run(name, func(t *testing.T) {
			ra, rb := newRecorder(), newRecorder()
			a, _, _ := pair(t, encrypt, ra, rb)
			conn := ra.dataConn()
			if conn.Peer != 2 || conn.Boot != 102 || !conn.Outgoing {
				t.Fatalf("connection to chunk %s boot %d outgoing %v", conn.Peer, conn.Boot, conn.Outgoing)
			}
			const n = 500
			for i := range n {
				buf := a.pool.Get((i%5 + 1) * block.Size)
				for j := range buf.B {
					buf.B[j] = byte(i)
				}
				head := append(conn.Head(), byte(i), byte(i>>8))
				wire.SealFrame(head, 9, 0, 1, len(buf.B))
				conn.Send(head, buf.B, buf, nil)
			}
			for i := range n {
				got := <-rb.frames
				if got[0] != byte(i) || got[1] != byte(i>>8) || len(got) != 2+(i%5+1)*block.Size || got[len(got)-1] != byte(i) {
					t.Fatalf("frame %d: head %v, %d bytes", i, got[:2], len(got))
				}
			}
		})
	}
}

func TestAConnectionThatBreaksIsOpenedAnew(t *testing.T) {
	rec := newRecorder()
	_, _, link := pair(t, false, rec, newRecorder())
	<-rec.up
	<-rec.up
	link.Drop(net.ErrClosed)
	<-rec.down
	<-rec.down
	<-rec.up
	<-rec.up
}

func TestStrangersAreRefused(t *testing.T) {
	ca, err := mtls.NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, err := mtls.NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cluster := block.NewClusterID()
	for name, c := range map[string]struct {
		sec     func(*testing.T) Secure
		cluster block.ClusterID
		dial    block.ChunkID
	}{
		"a certificate of another authority": {func(t *testing.T) Secure { return credentials(t, other, mtls.RoleChunk) }, cluster, 2},
		"a role that is not chunk":           {func(t *testing.T) Secure { return credentials(t, ca, mtls.RoleNode) }, cluster, 2},
		"another cluster":                    {func(t *testing.T) Secure { return credentials(t, ca, mtls.RoleChunk) }, block.NewClusterID(), 2},
		"another chunk than wanted":          {func(t *testing.T) Secure { return credentials(t, ca, mtls.RoleChunk) }, cluster, 3},
	} {
		t.Run(name, func(t *testing.T) {
			rb := newRecorder()
			b := start(t, cluster, 2, credentials(t, ca, mtls.RoleChunk), false, rb)
			a := start(t, c.cluster, 1, c.sec(t), false, newRecorder())
			l := &Link{Peer: c.dial, net: a.net, addr: b.addr}
			if err := l.session(t.Context(), Data); err == nil {
				t.Fatal("accepted")
			} else {
				t.Log(err)
			}
			select {
			case <-rb.up:
				t.Fatal("the other side took the connection for established")
			default:
			}
		})
	}
}

func FuzzDecodeHello(f *testing.F) {
	f.Add(Hello{Chunk: 1, Class: Control}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeHello(b); err == nil && !bytes.Equal(h.encode()[:28], b[:28]) {
			t.Fatal("a hello that decodes does not encode to itself")
		}
	})
}
