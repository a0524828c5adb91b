package conformance_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
)

var movesFlag = flag.Int("moves", 12, "planned moves of the owner under load")

// verifier writes and reads blocks that carry their number and version, each worker its own blocks, and compares all it reads.
type verifier struct {
	s       *initiator.Session
	acked   [][]uint64 // by worker and block
	count   atomic.Uint64
	longest atomic.Int64 // ns, since the last window
	failed  atomic.Pointer[error]
	stop    chan struct{}
	wg      sync.WaitGroup
}

const (
	loadWorkers = 8
	loadBlocks  = 512 // of each worker
	loadBytes   = 4096
)

func startLoad(s *initiator.Session) *verifier {
	v := &verifier{s: s, stop: make(chan struct{}), acked: make([][]uint64, loadWorkers)}
	for w := range loadWorkers {
		v.acked[w] = make([]uint64, loadBlocks)
		v.wg.Go(func() {
			if err := v.work(w); err != nil {
				v.failed.CompareAndSwap(nil, &err)
			}
		})
	}
	return v
}

func offset(worker, block int) uint64 { return uint64(worker*loadBlocks+block) * loadBytes }

func fill(p []byte, at, version uint64) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], at)
		binary.LittleEndian.PutUint64(p[i+8:], version)
	}
}

func (v *verifier) work(w int) error {
	rnd := rand.New(rand.NewPCG(uint64(w), 1))
	p, want := make([]byte, loadBytes), make([]byte, loadBytes)
	for {
		select {
		case <-v.stop:
			return nil
		default:
		}
		b := rnd.IntN(loadBlocks)
		start := time.Now()
		if rnd.IntN(2) == 0 {
			fill(p, offset(w, b), v.acked[w][b]+1)
			if err := v.s.WriteAt(context.Background(), p, offset(w, b)); err != nil {
				return err
			}
			v.acked[w][b]++
		} else {
			if err := v.read(p, want, w, b); err != nil {
				return err
			}
		}
		took := time.Since(start).Nanoseconds()
		for {
			old := v.longest.Load()
			if took <= old || v.longest.CompareAndSwap(old, took) {
				break
			}
		}
		v.count.Add(1)
	}
}

func (v *verifier) read(p, want []byte, w, b int) error {
	if err := v.s.ReadAt(context.Background(), p, offset(w, b)); err != nil {
		return err
	}
	clear(want)
	if n := v.acked[w][b]; n > 0 {
		fill(want, offset(w, b), n)
	}
	if string(p) != string(want) {
		return fmt.Errorf("block %d of worker %d: version %d was acknowledged, %d was read", b, w, v.acked[w][b], binary.LittleEndian.Uint64(p[8:]))
	}
	return nil
}

// await returns when n more commands have ended.
func (v *verifier) await(n uint64) error {
	for until := v.count.Load() + n; v.count.Load() < until; {
		if err := v.failed.Load(); err != nil {
			return *err
		}
		<-time.After(time.Millisecond)
	}
	return nil
}

// end stops the load and reads everything once more.
func (v *verifier) end() error {
	close(v.stop)
	v.wg.Wait()
	if err := v.failed.Load(); err != nil {
		return *err
	}
	p, want := make([]byte, loadBytes), make([]byte, loadBytes)
	for w := range loadWorkers {
		for b := range loadBlocks {
			if err := v.read(p, want, w, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestPlannedMovesUnderVerifyingLoadAreNotSeenAsErrors moves the owner around. The stall of a move is the longest command that was in progress
// during it; -moves 200 -v reports the distribution.
func TestPlannedMovesUnderVerifyingLoadAreNotSeenAsErrors(t *testing.T) {
	c := newCluster(t)
	vol := c.volume("moving", 256<<20, everybody, "", "", storagedv1.AccessMode_ACCESS_MODE_SHARED)
	load := startLoad(c.dial(vol))
	var stalls []time.Duration
	for i := range *movesFlag {
		if err := load.await(200); err != nil {
			t.Fatal(err)
		}
		load.longest.Store(0)
		before := c.owner(vol)
		to := uint32(0)
		for _, n := range []string{ordinal(i), ordinal(i + 1)} {
			_, err := c.volumes.MoveOwner(c.ctx(), &storagedv1.MoveOwnerRequest{VolumeId: vol.Id, Node: n})
			if to = c.owner(vol); to != 0 && to != before {
				break // else it was on this one already
			}
			if err != nil && status.Code(err) != codes.Unavailable {
				t.Fatalf("move %d to %s: %v", i, n, err)
			}
		}
		if to == before {
			t.Logf("move %d: the owner is still chunk %d", i, before) // a busy machine: it did not drain in time and stays
			continue
		}
		if err := load.await(200); err != nil {
			t.Fatalf("move %d: %v", i, err)
		}
		stalls = append(stalls, time.Duration(load.longest.Load()))
	}
	if err := load.end(); err != nil {
		t.Fatal(err)
	}
	if len(stalls) < *movesFlag*3/4 {
		t.Fatalf("only %d of %d moves took place", len(stalls), *movesFlag)
	}
	slices.Sort(stalls)
	at := func(q float64) time.Duration {
		return stalls[min(len(stalls)-1, int(q*float64(len(stalls))))].Round(time.Millisecond)
	}
	counters := load.s.Counters()
	if counters.Reconnects < uint64(len(stalls)) {
		t.Errorf("%d moves, but the initiator only logged in %d times", len(stalls), counters.Reconnects)
	}
	t.Logf("%d moves, %d commands, 0 errors; stall p50 %s, p90 %s, p99 %s, longest %s", len(stalls), load.count.Load(), at(0.5), at(0.9), at(0.99), stalls[len(stalls)-1].Round(time.Millisecond))
}

// The load must be able to fail: a block that goes back to an older content is noticed.
func TestLoadNoticesAnOlderContent(t *testing.T) {
	c := newCluster(t)
	vol := c.volume("planted", 64<<20, everybody, "", "", storagedv1.AccessMode_ACCESS_MODE_SHARED)
	s := c.dial(vol)
	load := startLoad(s)
	if err := load.await(500); err != nil {
		t.Fatal(err)
	}
	close(load.stop)
	load.wg.Wait()
	w, b := 0, slices.IndexFunc(load.acked[0], func(n uint64) bool { return n > 0 })
	old := make([]byte, loadBytes)
	fill(old, offset(w, b), load.acked[w][b]-1)
	if err := s.WriteAt(c.ctx(), old, offset(w, b)); err != nil {
		t.Fatal(err)
	}
	load.stop = make(chan struct{})
	if err := load.end(); err == nil || errors.Is(err, initiator.ErrClosed) {
		t.Errorf("the verifier says %v", err)
	}
}
