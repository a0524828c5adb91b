package sim

import (
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
)

// A resync that is cut short again and again, by a kill or by the power, goes on where it was: together no more than 1.1 times the blocks that
// differ reach the returner's disk, beside one that was on its way at each kill.
func TestAResyncCutShortGoesOnWhereItWas(t *testing.T) {
	all := 0
	for seed := uint64(1); seed <= 20; seed++ {
		c := Config{Seed: seed, Chunks: 2, Extents: 2, Replicas: 2, MinReplicas: 1, Clients: 1, Length: 3600 * sec, Net: 150 * us, Disk: 300 * us, Think: 1, Budget: 1}
		w := newWorld(c)
		w.rot = nil
		w.stop = true
		w.newExtent()
		w.newExtent()
		for _, k := range w.chunks {
			k.boot()
		}
		owner, away := w.chunks[0], w.chunks[1]
		w.meta.assign(owner)
		w.after(100*ms, w.meta.lead)
		cl := newClient(w, 0)
		w.clients = append(w.clients, cl)
		w.run(300 * ms)
		away.die(true)
		w.run(w.now + 500*ms)
		// Every second block, so that each is a copy of its own.
		dirty := 0
		for no := block.No(1); no < blocksMax; no += 2 {
			for x := range block.ExtentIndex(2) {
				cl.begin(&ioOp{kind: opWrite, ext: x, rng: block.Range{Start: no, Count: 1}})
				dirty++
			}
		}
		w.run(w.now + 4*sec)
		whole := func() bool { return len(w.meta.extents[0].Members) == 2 && len(w.meta.extents[1].Members) == 2 }
		if len(cl.open) > 0 || len(w.meta.extents[0].Members)+len(w.meta.extents[1].Members) != 2 {
			t.Fatalf("seed %d: writes did not end, or the replicas are still members", seed)
		}
		kills := 0
		for w.bad == nil && !whole() && w.now < 200*sec {
			if !away.alive {
				away.boot()
			}
			was := w.Stats.Arrived
			for until := w.now + 5*sec; w.now < until && !whole(); {
				w.run(w.now + 5*ms)
				if w.Stats.Arrived > was && kills < 10 {
					away.die(kills%2 == 0)
					kills++
					w.run(w.now + 1500*ms)
					break
				}
			}
		}
		if w.bad != nil {
			t.Fatal(w.bad)
		}
		// A block per tick: one can have been on its way, or not yet durable, at each kill.
		all += kills
		if w.Stats.Arrived > dirty*11/10+kills {
			t.Errorf("seed %d: %d kills, %d blocks reached the disk for %d that differ", seed, kills, w.Stats.Arrived, dirty)
		}
		w.compareMembers()
		w.judge()
		if w.bad != nil {
			t.Error(w.bad)
		}
	}
	if all < 40 {
		t.Errorf("only %d kills: the test does not show much", all)
	}
}
