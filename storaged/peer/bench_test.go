package peer

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/wakes"
	"github.com/iomesh/iomesh/storaged/wire"
)

// echo answers each frame with its head alone, a batch with one write; the answers of the other side it counts down.
type echo struct {
	up   chan *Conn
	left chan struct{}
}

func (e *echo) Up(c *Conn) {
	c.Value = new(wakes.List)
	if c.Outgoing && c.Class == Data {
		e.up <- c
	}
}

func (e *echo) Frame(c *Conn, f *wire.Frame) {
	f.Buf.Release()
	if c.Outgoing {
		e.left <- struct{}{}
		return
	}
	head := append(c.Head(), f.Head...)
	wire.SealFrame(head, 9, 0, 1, 0)
	c.Send(head, nil, nil, c.Value.(*wakes.List))
}
func (e *echo) Idle(c *Conn)      { c.Value.(*wakes.List).Wake() }
func (e *echo) Down(*Conn, error) {}

// BenchmarkConnection sends 4 KiB and waits for the answer, with so many under way.
func BenchmarkConnection(b *testing.B) {
	for name, depth := range map[string]int{"depth 1": 1, "depth 32": 32} {
		b.Run(name, func(b *testing.B) {
			ca, err := mtls.NewAuthority("test", time.Hour)
			if err != nil {
				b.Fatal(err)
			}
			cluster := block.NewClusterID()
			var nets [2]*Network
			var hs [2]*echo
			var addr string
			pool := &pagebuf.Pool{}
			for i := range nets {
				hs[i] = &echo{up: make(chan *Conn, 1), left: make(chan struct{}, 64)}
				nets[i] = New(Options{Cluster: cluster, Self: block.ChunkID(i + 1), Secure: credentials(b, ca, mtls.RoleChunk), Pool: pool, Handler: hs[i], Log: slog.New(slog.DiscardHandler)})
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				addr = ln.Addr().String()
				go nets[i].Serve(ln)
				defer nets[i].Close()
			}
			nets[0].Connect(2, addr)
			c := <-hs[0].up
			b.ReportAllocs()
			b.SetBytes(block.Size)
			b.ResetTimer()
			var list wakes.List
			sent, answered := 0, 0
			for answered < b.N {
				for sent < b.N && sent-answered < depth {
					buf := pool.Get(block.Size)
					head := append(c.Head(), 1, 2, 3, 4)
					wire.SealFrame(head, 9, 0, 1, len(buf.B))
					c.Send(head, buf.B, buf, &list)
					sent++
				}
				list.Wake()
				<-hs[0].left
				answered++
				for len(hs[0].left) > 0 {
					<-hs[0].left
					answered++
				}
			}
		})
	}
}

func TestFramesOfManySendersArriveWholeAndInTheirOrder(t *testing.T) {
	ca, err := mtls.NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cluster := block.NewClusterID()
	a := start(t, cluster, 1, credentials(t, ca, mtls.RoleChunk), false)
	b := start(t, cluster, 2, credentials(t, ca, mtls.RoleChunk), false)
	a.net.Connect(2, b.addr)
	conn := <-a.rec.up
	for conn.Class != Data {
		conn = <-a.rec.up
	}
	const senders, frames = 8, 60
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(s), 1))
			var list wakes.List
			for i := range frames {
				// From none to what only the writer may send.
				buf := a.pool.Get(block.Size * (1 + rnd.IntN(40)))
				for k := range buf.B {
					buf.B[k] = byte(s + i)
				}
				head := binary.LittleEndian.AppendUint32(append(conn.Head(), byte(s)), uint32(i))
				wire.SealFrame(head, 9, 0, 1, len(buf.B))
				later := &list
				if rnd.IntN(4) == 0 {
					later = nil
				}
				conn.Send(head, buf.B, buf, later)
				if rnd.IntN(3) == 0 {
					list.Wake()
				}
			}
			list.Wake()
		})
	}
	var next [senders]uint32
	for range senders * frames {
		f := <-b.rec.frames
		s, i := f[0], binary.LittleEndian.Uint32(f[1:])
		if i != next[s] {
			t.Fatalf("sender %d: frame %d came, expected %d", s, i, next[s])
		}
		next[s]++
		for _, x := range f[5:] {
			if x != s+byte(i) {
				t.Fatalf("sender %d: frame %d holds bytes of another", s, i)
			}
		}
	}
	wg.Wait()
}
