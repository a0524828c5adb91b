package replication

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
)

// rig is an owner with three members whose replicas answer everything at once.
type rig struct {
	o    *Owner
	now  Time
	out  []Effect
	back []Message
	done int
}

func newRig(tb testing.TB) *rig { return newRigAt(tb, 1, 1, 2, 3) }

// newRigAt has extents with a member on each of the chunks; the first is the owner.
func newRigAt(tb testing.TB, extents int, chunks ...block.ChunkID) *rig {
	g := &rig{now: 1}
	promises := map[block.ChunkID]*Promise{}
	rec := Record{Generation: 1, Revision: 1}
	for i, c := range chunks {
		promises[c] = &Promise{}
		promises[c].Extend(1<<62, 7)
		rec.Members = append(rec.Members, Member{Disk: block.DiskID{byte(i + 1)}, Chunk: c, Since: 1})
	}
	g.o = NewOwner(OwnerOptions{Volume: block.VolumeID{1}, Self: 1, Incarnation: 1, Epoch: 1, Extents: slices.Repeat([]Record{rec}, extents), ReplicaFactor: 3, MinReplicas: 2,
		SizeBlocks: uint64(extents) * block.PerExtent, Promise: func(c block.ChunkID) *Promise { return promises[c] }})
	g.perform(g.o.Start(g.now, g.out[:0]))
	for c := range promises {
		g.perform(g.o.PeerUp(g.now, c, 1, g.out[:0]))
	}
	if g.o.serving != extents {
		tb.Fatalf("%d of %d extents serve", g.o.serving, extents)
	}
	return g
}

// perform notes the answers of the replicas.
func (g *rig) perform(out []Effect) {
	g.take(out)
	g.answer()
}

func (g *rig) take(out []Effect) {
	for i := range out {
		switch e := &out[i]; e.Kind {
		case EffComplete:
			if e.Result != ResultOK {
				panic(fmt.Sprintf("request %d: %d", e.Tag, e.Result))
			}
			g.done++
		case EffSend:
			m := e.Msg
			m.Owner = e.To // carries the sender back
			g.back = append(g.back, m)
		}
	}
	g.out = out
}

// answer answers what was sent so far.
func (g *rig) answer() {
	for i := 0; i < len(g.back); i++ {
		m := g.back[i]
		from := m.Owner
		switch m.Kind {
		case MsgTakeEpoch:
			m.Kind, m.Chain = MsgEpochTaken, 7
			targets := m.More
			m.More = nil
			g.take(g.o.Receive(g.now, from, &m, g.out[:0]))
			if targets != nil {
				for _, t := range targets.Targets {
					m.Extent, m.Disk, m.Generation = t.Extent, t.Disk, 1
					g.take(g.o.Receive(g.now, from, &m, g.out[:0]))
				}
			}
			continue
		case MsgWrite, MsgUnmap:
			m.Kind = MsgWriteReply
		case MsgRead:
			m.Kind = MsgReadReply
		default:
			continue
		}
		g.take(g.o.Receive(g.now, from, &m, g.out[:0]))
	}
	g.back = g.back[:0]
}

var data4k, sums4k = make([]byte, block.Size), make([]uint32, 1)

func BenchmarkWrite(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			g := newRig(b)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				// At depth n a write begins while n-1 others are open.
				g.now++
				g.take(g.o.Write(g.now, WriteRequest{Tag: uint64(i), Range: block.Range{Start: block.No(i * 8 % 8192), Count: 1}, Data: data4k, Sums: sums4k}, g.out[:0]))
				if len(g.back) >= 3*depth {
					g.answer()
				}
			}
		})
	}
}

// BenchmarkSpread writes to one extent after the other, 16,000 times a second by the owner's clock, and ticks as often as it is due: the watermarks of
// few extents go out with their next writes, those of many by themselves.
func BenchmarkSpread(b *testing.B) {
	for _, extents := range []int{4, 8192} {
		b.Run(fmt.Sprintf("extents=%d", extents), func(b *testing.B) {
			const every = Time(time.Second / 16000)
			g := newRigAt(b, extents, 1, 2, 3)
			next := g.now
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if g.now += every; g.now >= next {
					g.take(g.o.Tick(g.now, g.out[:0]))
					next = g.now + Time(TickInterval)
				}
				x := block.ExtentIndex(i * 5003 % extents)
				g.take(g.o.Write(g.now, WriteRequest{Tag: uint64(i), Extent: x, Range: block.Range{Start: block.No(i % 8192), Count: 1}, Data: data4k, Sums: sums4k}, g.out[:0]))
				if len(g.back) >= 3*32 {
					g.answer()
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			g := newRig(b)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				g.now++
				g.take(g.o.Read(g.now, ReadRequest{Tag: uint64(i), Range: block.Range{Start: block.No(i * 8 % 8192), Count: 1}, View: block.LiveView, Data: data4k}, g.out[:0]))
				if len(g.back) >= depth {
					g.answer()
				}
			}
		})
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	g := newRig(t)
	i := 0
	one := func() {
		i++
		g.now++
		g.take(g.o.Write(g.now, WriteRequest{Tag: uint64(i), Range: block.Range{Start: block.No(i % 8192), Count: 1}, Data: data4k, Sums: sums4k}, g.out[:0]))
		g.take(g.o.Read(g.now, ReadRequest{Tag: uint64(i), Range: block.Range{Start: block.No(i % 8192), Count: 1}, View: block.LiveView}, g.out[:0]))
		g.answer()
	}
	for range 100 {
		one()
	}
	if n := testing.AllocsPerRun(1000, one); n > 0 {
		t.Errorf("a write and a read allocate %.1f times", n)
	}
	if want := 2 * i; g.done != want {
		t.Errorf("%d requests completed, want %d", g.done, want)
	}
}

// BenchmarkReplicaWrite is the other side: from the message to the answer.
func BenchmarkReplicaWrite(b *testing.B) {
	r := NewReplica(ReplicaOptions{Volume: block.VolumeID{1}, Self: 2, Epoch: 1, Owner: 1})
	m := Message{Kind: MsgWrite, Volume: block.VolumeID{1}, Epoch: 1, Session: 1, Generation: 1, Range: block.Range{Start: 1, Count: 1}, Data: data4k, Sums: sums4k}
	var out []Effect
	b.ReportAllocs()
	for b.Loop() {
		m.Stamp++
		m.Req++
		out = r.Receive(1, &m, out[:0])
		done := StoreDone{Token: out[0].Token}
		out = r.StoreDone(&done, out[:0])
	}
}
