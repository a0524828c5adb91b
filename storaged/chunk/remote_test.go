package chunk

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
)

// made creates a volume, as often as a machine too busy to answer in time wants it.
func (c *testCluster) made(name string, size uint64) string {
	c.t.Helper()
	var id string
	c.eventually("volume "+name+" is created", func() bool {
		v, err := c.volumes.CreateVolume(c.t.Context(), &storagedv1.CreateVolumeRequest{Name: name, SizeBytes: size, ReplicaFactor: 3})
		if err == nil {
			id = v.Id
		}
		return err == nil
	})
	return id
}

// do runs a command at whoever owns the volume, again if the ownership ended meanwhile: on a busy machine it does.
func (c *testCluster) do(id string, op target.Op, off, n uint64, data []byte) (target.Result, []byte) {
	for {
		r, got := c.serving(id).do(op, off, n, data)
		if r.Kind != target.Lost && r.Kind != target.Unavailable {
			return r, got
		}
	}
}

func TestReadsThatTheOwnDiskCannotAnswerComeFromOthers(t *testing.T) {
	c := newTestCluster(t, 3, 1)
	id := c.made("v", 64<<20)
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	if r, _ := c.do(id, target.OpWrite, 0, uint64(len(want)), want); r.Kind != target.OK {
		t.Fatalf("write: %+v", r)
	}
	for _, n := range []uint64{512, 4096, 12288, 65536, 1 << 20} {
		s := c.serving(id).s
		s.mu.Lock()
		for _, d := range s.byID {
			d.stalled.Store(new("test")) // the watch on stalls takes it back
		}
		s.mu.Unlock()
		if r, got := c.do(id, target.OpRead, 0, n, nil); r.Kind != target.OK || !bytes.Equal(got, want[:n]) {
			t.Errorf("read of %d bytes: %+v", n, r)
		}
	}
}

// TestEffectsOfALaterCallMayBePerformedFirst is the case of two goroutines of which the second overtakes: the first was handed a piece of a
// read, the second the read's completion. The piece must be in the answer, and must not reach whoever has the tag and the memory then.
func TestEffectsOfALaterCallMayBePerformedFirst(t *testing.T) {
	var pool pagebuf.Pool
	v := &volume{s: &Server{}, o: replication.NewOwner(replication.OwnerOptions{}), bufs: map[*byte]*pagebuf.Buf{}}
	var got []byte
	c := &target.Command{Op: target.OpRead, Length: block.Size, Done: func(c *target.Command, r target.Result) {
		if r.Kind != target.OK {
			t.Errorf("result %+v", r)
		}
		got = bytes.Clone(c.Data)
	}}
	r := &request{v: v, c: c, left: 1}
	p := r.newPart(0)
	p.rng = block.Range{Count: 1}
	tag := v.add(p)
	want := pool.Get(block.Size)
	defer want.Release()
	copy(want.B, bytes.Repeat([]byte{7}, block.Size))

	first, second := getEffects(), getEffects()
	first.list = append(first.list, replication.Effect{Kind: replication.EffPiece, Tag: tag, Range: p.rng, Data: want.B})
	v.settle(first)
	second.list = append(second.list, replication.Effect{Kind: replication.EffComplete, Tag: tag, Range: p.rng, Assembled: true})
	v.settle(second)
	v.perform(second)
	v.perform(first)
	if !bytes.Equal(got, want.B) {
		t.Error("the read was answered without its piece")
	}
}

func TestWritersOfHalvesOfOneBlockAndReadersMeet(t *testing.T) {
	c := newTestCluster(t, 3, 1)
	id := c.made("v", 8<<20)
	const slots, slotBytes = 4, 64 << 10
	var wg sync.WaitGroup
	for s := range uint64(slots) {
		for half := range uint64(2) {
			wg.Go(func() {
				for i := range 30 {
					at := s*slotBytes + half*512
					b := bytes.Repeat([]byte{byte(i + 1)}, 512)
					if r, _ := c.do(id, target.OpWrite, at, 512, b); r.Kind != target.OK {
						t.Errorf("write: %+v", r)
						return
					}
					if r, got := c.do(id, target.OpRead, at, 512, nil); r.Kind != target.OK || !bytes.Equal(got, b) {
						t.Errorf("read back: %+v, %d instead of %d", r, got[0], i+1)
						return
					}
				}
			})
		}
		wg.Go(func() {
			for range 30 {
				if r, _ := c.do(id, target.OpRead, s*slotBytes, slotBytes, nil); r.Kind != target.OK {
					t.Errorf("read: %+v", r)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestTheLargestWritesAreStored(t *testing.T) {
	c := newTestCluster(t, 3, 1)
	id := c.made("v", 64<<20)
	for _, w := range []struct{ offset, length uint64 }{
		{0, 1 << 20}, {4096, 1 << 20}, {0, 2<<20 + 4096}, {1 << 20, target.MaxTransferBytes}, {12288, target.MaxTransferBytes}, {512, target.MaxTransferBytes},
	} {
		want := make([]byte, w.length)
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		if r, _ := c.do(id, target.OpWrite, w.offset, w.length, want); r.Kind != target.OK {
			t.Fatalf("write of %d at %d: %+v", w.length, w.offset, r)
		}
		if r, got := c.do(id, target.OpRead, w.offset, w.length, nil); r.Kind != target.OK || !bytes.Equal(got, want) {
			t.Fatalf("read of %d at %d: %+v", w.length, w.offset, r)
		}
	}
}
