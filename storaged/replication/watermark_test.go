package replication

import (
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// marksIn counts, of each extent, the members that are told a watermark by messages of its own.
func marksIn(out []Effect) map[block.ExtentIndex]int {
	n := map[block.ExtentIndex]int{}
	for i := range out {
		if m := &out[i].Msg; out[i].Kind == EffSend && m.Kind == MsgWatermark {
			for _, k := range m.More.Marks {
				n[k.Extent]++
			}
		}
	}
	return n
}

func (g *rig) writeOne(x block.ExtentIndex) {
	g.perform(g.o.Write(g.now, WriteRequest{Tag: 1, Extent: x, Range: block.Range{Start: 8, Count: 1}, Data: data4k, Sums: sums4k}, g.out[:0]))
}

func TestAWatermarkIsToldOnceTheExtentIsIdle(t *testing.T) {
	const extents, rewritten = 5000, 7 // more than the queue takes before it moves
	g := newRigAt(t, extents, 1, 2, 3)
	told := map[block.ExtentIndex]int{}
	last := map[block.ExtentIndex]Time{}
	tick := func() {
		out := g.o.Tick(g.now, nil)
		for x, n := range marksIn(out) {
			if idle := g.now.Sub(last[x]); idle < timeouts.WatermarkIdle || idle > timeouts.WatermarkIdle+2*TickInterval {
				t.Fatalf("extent %d is told %s after its last write", x, idle)
			}
			told[x] += n
		}
		g.perform(out)
	}
	for x := range block.ExtentIndex(extents) {
		g.writeOne(x)
		last[x] = g.now
		if x%20 == 0 { // an extent is written again before its time
			g.now += Time(TickInterval)
			g.writeOne(rewritten)
			last[rewritten] = g.now
			tick()
		}
	}
	if g.o.Quiet() {
		t.Fatal("quiet while members do not know their watermarks")
	}
	for deadline := g.now + Time(2*timeouts.WatermarkIdle); !g.o.Quiet(); g.now += Time(TickInterval) {
		if g.now > deadline {
			t.Fatal("not quiet long after the last write")
		}
		tick()
	}
	for x := range block.ExtentIndex(extents) {
		if told[x] != 3 {
			t.Errorf("of extent %d %d members were told", x, told[x])
		}
	}
}

func TestARelocatedVolumeTellsAllWatermarks(t *testing.T) {
	g := newRigAt(t, 4, 1, 2, 3)
	for x := range block.ExtentIndex(3) {
		g.writeOne(x)
		g.now += Time(TickInterval)
		g.perform(g.o.Tick(g.now, nil)) // the first are idle and wait for their time, the last is active
	}
	g.writeOne(2)
	if got := marksIn(g.o.Release(g.now, 2, nil)); len(got) != 3 || got[0] != 3 || got[1] != 3 || got[2] != 3 {
		t.Errorf("told of %v, want three members of extents 0, 1 and 2", got)
	}
}
