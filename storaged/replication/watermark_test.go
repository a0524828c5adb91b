package replication

import (
	"testing"
	"time"

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

// tellAll ticks until the owner is quiet and returns how long each extent's last write was ago when all its members were told, and how many were.
func (g *rig) tellAll(t *testing.T, last map[block.ExtentIndex]Time) (after map[block.ExtentIndex]time.Duration, told map[block.ExtentIndex]int) {
	t.Helper()
	after, told = map[block.ExtentIndex]time.Duration{}, map[block.ExtentIndex]int{}
	for deadline := g.now + Time(2*timeouts.WatermarkLate); !g.o.Quiet(); g.now += Time(TickInterval) {
		if g.now > deadline {
			t.Fatal("not quiet long after the last write")
		}
		out := g.o.Tick(g.now, nil)
		for x, n := range marksIn(out) {
			after[x] = g.now.Sub(last[x])
			told[x] += n
		}
		g.perform(out)
	}
	return after, told
}

func TestAWatermarkIsToldOnceTheExtentIsIdle(t *testing.T) {
	const extents, rewritten = marksPerTick, 7
	g := newRigAt(t, extents, 1, 2, 3)
	last := map[block.ExtentIndex]Time{}
	for x := range block.ExtentIndex(extents) {
		g.writeOne(x)
		last[x] = g.now
	}
	for range timeouts.WatermarkIdle / TickInterval / 2 {
		g.now += Time(TickInterval)
		if n := marksIn(g.o.Tick(g.now, nil)); len(n) != 0 {
			t.Fatalf("told of %v before their time", n)
		}
	}
	g.writeOne(rewritten)
	last[rewritten] = g.now
	if g.o.Quiet() {
		t.Fatal("quiet while members do not know their watermarks")
	}
	after, told := g.tellAll(t, last)
	for x := range block.ExtentIndex(extents) {
		if told[x] != 3 || after[x] < timeouts.WatermarkIdle || after[x] > timeouts.WatermarkIdle+TickInterval {
			t.Errorf("of extent %d %d members were told, %s after its last write", x, told[x], after[x])
		}
	}
}

func TestOfManyIdleExtentsMostAreToldWhenTheyAreLate(t *testing.T) {
	const extents = 5000 // more than the queue takes before it moves
	g := newRigAt(t, extents, 1, 2, 3)
	last := map[block.ExtentIndex]Time{}
	early := map[block.ExtentIndex]int{}
	// Each is written every half second, for five: only what the budget allows is told meanwhile.
	const round = timeouts.WatermarkLate / 2 / TickInterval
	for k := range 10 * round {
		for x := block.ExtentIndex(k % round); x < extents; x += block.ExtentIndex(round) {
			g.writeOne(x)
			last[x] = g.now
		}
		out := g.o.Tick(g.now, nil)
		n := marksIn(out)
		if len(n) > marksPerTick {
			t.Fatalf("%d extents are told in one tick while all are being written", len(n))
		}
		for x := range n {
			early[x]++
			if g.now.Sub(last[x]) < timeouts.WatermarkIdle {
				t.Fatalf("extent %d is told %s after its last write", x, g.now.Sub(last[x]))
			}
		}
		g.perform(out)
		g.now += Time(TickInterval)
	}
	if len(early) < marksPerTick*int(round) {
		t.Errorf("only %d extents were told in five seconds: the budget is not used", len(early))
	}
	after, told := g.tellAll(t, last)
	late := 0
	for x := range block.ExtentIndex(extents) {
		if told[x] == 0 {
			if e := g.o.extents[x]; e.told != e.watermark {
				t.Fatalf("the members of extent %d were never told", x)
			}
			continue // by the last of the ticks above
		}
		if told[x] != 3 || after[x] < timeouts.WatermarkIdle || after[x] > timeouts.WatermarkLate+TickInterval {
			t.Errorf("of extent %d %d members were told, %s after its last write", x, told[x], after[x])
		}
		if after[x] > timeouts.WatermarkLate-timeouts.WatermarkIdle {
			late++
		}
	}
	if late < extents/2 {
		t.Errorf("%d of %d were told when they were late", late, extents)
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
