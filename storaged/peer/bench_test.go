package peer

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
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
			near := &echo{up: make(chan *Conn, 1), left: make(chan struct{}, 64)}
			side, _, _ := pair(b, false, near, &echo{})
			c := <-near.up
			b.ReportAllocs()
			b.SetBytes(block.Size)
			b.ResetTimer()
			var list wakes.List
			sent, answered := 0, 0
			for answered < b.N {
				for sent < b.N && sent-answered < depth {
					buf := side.pool.Get(block.Size)
					head := append(c.Head(), 1, 2, 3, 4)
					wire.SealFrame(head, 9, 0, 1, len(buf.B))
					c.Send(head, buf.B, buf, &list)
					sent++
				}
				list.Wake()
				<-near.left
				answered++
				for len(near.left) > 0 {
					<-near.left
					answered++
				}
			}
		})
	}
}

func TestFramesOfManySendersArriveWholeAndInTheirOrder(t *testing.T) {
	ra, rb := newRecorder(), newRecorder()
	a, _, _ := pair(t, false, ra, rb)
	conn := ra.dataConn()
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
		f := <-rb.frames
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
