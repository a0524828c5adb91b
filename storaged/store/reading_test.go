package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// asyncSim is a simulated disk whose reads go on by themselves, late, in any order, and every so often not at all.
type asyncSim struct {
	*vdisk.Sim
	mu    sync.Mutex
	rnd   *rand.Rand
	held  []*vdisk.Request
	block int // one in so many would have to wait; 0: none
}

func newAsyncSim(t testing.TB, block int) *asyncSim {
	return &asyncSim{Sim: newSim(t, 256<<20, 2<<20), rnd: rand.New(rand.NewPCG(3, 4)), block: block}
}

func (d *asyncSim) Async() vdisk.Async { return d }

func (d *asyncSim) TryRead(r *vdisk.Request) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = append(d.held, r)
	return len(d.held) < 64
}

func (d *asyncSim) Kick() {
	d.mu.Lock()
	rs := d.held
	d.held = nil
	d.rnd.Shuffle(len(rs), func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
	yields, wait := d.rnd.IntN(20), d.block > 0 && d.rnd.IntN(d.block) == 0
	d.mu.Unlock()
	if len(rs) == 0 {
		return
	}
	go func() {
		for range yields {
			runtime.Gosched()
		}
		for _, r := range rs {
			if r.Err = d.ReadAt(r.Data, r.Off); wait {
				r.Err = vdisk.ErrWouldBlock
			}
		}
		for len(rs) > 0 {
			n := 1 + len(rs)/2
			rs[0].Owner.ReadsEnded(rs[:n])
			rs = rs[n:]
		}
	}()
}

func (d *asyncSim) ReadAll(rs []*vdisk.Request) error {
	for _, r := range rs {
		if r.Err = d.ReadAt(r.Data, r.Off); r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// readingWaiter is a ReadCompleter one can wait for.
type readingWaiter struct{ done chan *Reading }

func (w readingWaiter) ReadsComplete(done []*Reading) {
	for _, r := range done {
		w.done <- r
	}
}

// readOne starts a reading and waits for its end; with Read where that is asked for.
func readOne(s *Store, r *Reading) error {
	w := readingWaiter{make(chan *Reading, 1)}
	r.Completer = w
	if s.StartRead(r) {
		s.Wake()
		if (<-w.done).Err == nil {
			return nil
		}
		if !errors.Is(r.Err, ErrReadAgain) {
			return r.Err
		}
	}
	return s.Read(r.Extent, r.View, r.Range, r.Buf, r.Info)
}

// TestReadingsSeeWholeWritesWhileDataMoves is the counterpart of TestReadersNeverSeeAnythingButWholeWrites for reads without a goroutine.
func TestReadingsSeeWholeWritesWhileDataMoves(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d := newAsyncSim(t, 5)
	s := mustOpen(t, d, Options{DestageIdle: time.Millisecond, DestageFill: 10, OnStall: func(Stall) {}})
	const blocks, rounds = 1500, 400
	e := ext(1, 0)
	mustReplica(t, s, e)
	var acked [blocks]atomic.Uint64
	var stop atomic.Bool
	var readers sync.WaitGroup
	var begun, again atomic.Uint64
	for i := range 3 {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 7))
			r := &Reading{Extent: e, View: block.LiveView, Buf: vdisk.Aligned(readingMax * block.Size), Info: make([]BlockInfo, readingMax)}
			want := make([]byte, block.Size)
			var least [readingMax]uint64
			for !stop.Load() {
				n := uint32(1 + rnd.IntN(readingMax))
				r.Range = rng(rnd.Uint32N(blocks-n), n)
				for k := range n {
					least[k] = acked[uint32(r.Range.Start)+k].Load()
				}
				begun.Add(1)
				if err := readOne(s, r); err != nil {
					t.Error(err)
					return
				}
				if r.Err != nil {
					again.Add(1)
				}
				for k := range n {
					got := r.Buf[int(k)*block.Size : int(k+1)*block.Size]
					stamp := uint64(r.Info[k].Stamp)
					clear(want)
					if r.Info[k].State == Written {
						pattern(want, r.Range.Start+block.No(k), stamp)
					}
					if stamp < least[k] || string(got) != string(want) || r.Info[k].State == Bad {
						t.Errorf("block %d: stamp %d, at least %d was acknowledged; state %d", uint32(r.Range.Start)+k, stamp, least[k], r.Info[k].State)
						return
					}
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(9, 9))
	for stamp := uint64(1); stamp <= rounds; stamp++ {
		n := uint32(1 + rnd.IntN(40))
		w := dataWrite(e, 0, rng(rnd.Uint32N(blocks-n), n), stamp)
		if err := run(s, w); err != nil {
			t.Fatal(err)
		}
		for b := w.Range.Start; b < w.Range.End(); b++ {
			acked[b].Store(stamp)
		}
		if rnd.IntN(50) == 0 {
			if err := s.Sync(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop.Store(true)
	readers.Wait()
	mustClose(t, s)
	if begun.Load() == again.Load() {
		t.Error("no reading ended without Read")
	}
}

func TestAReadingOfABadBlockIsLeftToRead(t *testing.T) {
	d := newAsyncSim(t, 0)
	s := mustOpen(t, d, quiet())
	defer s.Close()
	e := ext(1, 0)
	mustReplica(t, s, e)
	if err := run(s, dataWrite(e, 0, rng(0, 16), 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.mu.RLock()
	var x [1]ovEntry
	s.lookup(s.replicas[e].live(), 3, x[:])
	s.mu.RUnlock()
	rot := vdisk.Aligned(block.Size)
	if err := d.WriteDurable(rot, s.geo.blockOff(x[0].loc&locMask)); err != nil {
		t.Fatal(err)
	}
	r := &Reading{Extent: e, View: block.LiveView, Range: rng(0, 16), Buf: vdisk.Aligned(16 * block.Size), Info: make([]BlockInfo, 16)}
	if err := readOne(s, r); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(r.Err, ErrReadAgain) {
		t.Errorf("the reading ended with %v", r.Err)
	}
	for i, b := range r.Info {
		if want := i == 3; (b.State == Bad) != want {
			t.Errorf("block %d: state %d", i, b.State)
		}
	}
}

func TestAReadingOfWhatIsNotOnTheDiskEndsAtOnce(t *testing.T) {
	s := mustOpen(t, newAsyncSim(t, 0), quiet())
	defer s.Close()
	mustReplica(t, s, ext(1, 0))
	w := readingWaiter{make(chan *Reading, 1)}
	r := &Reading{Extent: ext(1, 0), View: block.LiveView, Range: rng(5, 2), Buf: vdisk.Aligned(2 * block.Size), Info: make([]BlockInfo, 2), Completer: w}
	r.Buf[0] = 1
	if !s.StartRead(r) {
		t.Fatal("not begun")
	}
	select {
	case <-w.done:
	default:
		t.Fatal("an unwritten block is read from the disk")
	}
	if r.Err != nil || r.Buf[0] != 0 || r.Info[0].State != Unwritten {
		t.Errorf("error %v, byte %d, state %d", r.Err, r.Buf[0], r.Info[0].State)
	}
	if r.Extent = ext(9, 9); s.StartRead(r) {
		t.Error("a reading of an extent that is not there was begun")
	}
	if r.Extent, r.Range = ext(1, 0), rng(250, 10); s.StartRead(r) {
		t.Error("a reading over two map pages was begun")
	}
}
