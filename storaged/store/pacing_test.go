package store

import (
	"sync/atomic"
	"testing"

	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// Writes that wait for room in the journal go on as the destager gets on, not only when a window of it, or a whole cycle, is done: each waits for little.
func TestWritesGoOnWithinADestageCycle(t *testing.T) {
	const journal = 4 << 20 // 1,024 slots, of which a write of one block takes two
	f := vdisk.NewFaulty(newSim(t, 256<<20, journal))
	s := mustOpen(t, f, quiet())
	mustReplica(t, s, ext(1, 0))
	var moved atomic.Int64
	halfway := make(chan struct{})
	data := s.geo.blockOff(0)
	f.SetRule(func(op vdisk.Op, off, _ int64) vdisk.Fault {
		if op == vdisk.OpWrite && off >= data && moved.Add(1) > 160 {
			return vdisk.Fault{Wait: halfway}
		}
		return vdisk.Fault{}
	})
	// The cycle begins at 256 writes and stops after 160 of them. The soft limit is at 332 writes.
	within(t, "writing past the soft limit of the journal", func() {
		for i := range uint32(380) {
			if err := run(s, dataWrite(ext(1, 0), 1, rng(16*i, 1), uint64(i+1))); err != nil {
				t.Error(err)
			}
		}
	})
	if n := moved.Load(); n <= 160 {
		t.Errorf("the destager has moved %d blocks and is not held up: nothing was waited for", n)
	}
	close(halfway)
	mustClose(t, s)
}
