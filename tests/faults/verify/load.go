package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/tests/bench/load"
)

// Unit is what a load needs of a logical unit; *initiator.Session implements it.
type Unit interface {
	Do(ctx context.Context, r *initiator.Request) error
}

// groupBlocks is the piece of a volume that one writer has for itself at a time: an allocation unit.
const groupBlocks = 16

// Load is what happens to one volume.
type Load struct {
	Name    string
	History *History
	// Writers and Readers work at the same time; Pause is between two requests of each.
	Writers, Readers int
	Pause            time.Duration
	// Unmap has a twentieth of the writers' requests give 64 KiB back.
	Unmap bool
	// Expected, if set, tells errors of writes that are no failure of the test.
	Expected func(error) bool

	unit    Unit
	window  atomic.Pointer[load.Histogram]
	reads   atomic.Uint64
	writes  atomic.Uint64
	refused atomic.Uint64
	bytes   atomic.Uint64 // acknowledged
	paused  atomic.Bool
	wg      sync.WaitGroup

	mu       sync.Mutex
	problems []error
	count    int
}

// problemsMax bounds what is remembered; all are counted.
const problemsMax = 20

// Use names the unit, for Sweep without a load.
func (l *Load) Use(u Unit) {
	l.unit = u
	l.window.Store(&load.Histogram{})
}

// Start begins the load; it ends when ctx does. Wait returns once it has.
func (l *Load) Start(ctx context.Context) {
	for i := range l.Writers {
		l.wg.Go(func() { l.writer(ctx, uint64(i)) })
	}
	for i := range l.Readers {
		l.wg.Go(func() { l.reader(ctx, uint64(i)) })
	}
}

// Wait returns when all requests have ended.
func (l *Load) Wait() { l.wg.Wait() }

// Hold lets no new request begin until called with false.
func (l *Load) Hold(hold bool) { l.paused.Store(hold) }

// Window returns the latencies since the last call and begins anew. A request counts when it ends.
func (l *Load) Window() *load.Histogram { return l.window.Swap(&load.Histogram{}) }

// Counts of requests that ended well, and of writes refused as expected; bytes are those of acknowledged writes and unmaps.
func (l *Load) Counts() (reads, writes, refused, bytes uint64) {
	return l.reads.Load(), l.writes.Load(), l.refused.Load(), l.bytes.Load()
}

// Problems are the first violations and I/O errors, and how many there were.
func (l *Load) Problems() ([]error, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]error(nil), l.problems...), l.count
}

func (l *Load) problem(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	if len(l.problems) < problemsMax {
		l.problems = append(l.problems, fmt.Errorf("%s volume %s: %w", time.Now().UTC().Format("15:04:05.000"), l.Name, err))
	}
}

// idle waits between requests, and while held. It reports false when the load is to end.
func (l *Load) idle(ctx context.Context) bool {
	for {
		d := l.Pause
		held := l.paused.Load()
		if held {
			d = 10 * time.Millisecond
		}
		if d > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(d):
			}
		}
		if ctx.Err() != nil {
			return false
		}
		if !held {
			return true
		}
	}
}

// do runs a request to its end: what was begun is seen through, so that its outcome is known.
func (l *Load) do(r *initiator.Request) error {
	start := time.Now()
	err := l.unit.Do(context.Background(), r)
	l.window.Load().Add(time.Since(start))
	return err
}

func (l *Load) writer(ctx context.Context, me uint64) {
	rnd := rand.New(rand.NewPCG(me, 0x77))
	groups := uint64(l.History.Blocks()) / groupBlocks
	mine := (groups - me + uint64(l.Writers) - 1) / uint64(l.Writers)
	p := make([]byte, groupBlocks*BlockBytes)
	var seqs [groupBlocks]Seq
	for l.idle(ctx) {
		lba := (rnd.Uint64N(mine)*uint64(l.Writers) + me) * groupBlocks
		n := uint64(1)
		r := &initiator.Request{Op: initiator.Write}
		switch x := rnd.IntN(100); {
		case x < 75:
			lba += rnd.Uint64N(groupBlocks)
		case x < 85:
			off := rnd.Uint64N(groupBlocks)
			lba += off
			n = 1 + rnd.Uint64N(groupBlocks-off)
		case x < 95 || !l.Unmap:
			n = groupBlocks
		default:
			n = groupBlocks
			r.Op = initiator.Unmap
		}
		r.Offset = lba * BlockBytes
		if r.Op == initiator.Unmap {
			r.Length = n * BlockBytes
		} else {
			r.Data = p[:n*BlockBytes]
		}
		for i := range n {
			if r.Op == initiator.Unmap {
				seqs[i] = l.History.BeginZero(lba + i)
			} else {
				seqs[i] = l.History.BeginWrite(lba+i, p[i*BlockBytes:][:BlockBytes])
			}
		}
		if err := l.do(r); err != nil {
			if l.Expected != nil && l.Expected(err) {
				l.refused.Add(1)
				continue
			}
			l.problem(fmt.Errorf("I/O error of a write of %d blocks at %d: %w", n, lba, err))
			if errors.Is(err, initiator.ErrClosed) {
				return
			}
			continue
		}
		for i := range n {
			l.History.Acked(lba+i, seqs[i])
		}
		l.writes.Add(1)
		l.bytes.Add(n * BlockBytes)
	}
}

func (l *Load) reader(ctx context.Context, me uint64) {
	rnd := rand.New(rand.NewPCG(me, 0x72))
	p := make([]byte, 32*BlockBytes)
	for l.idle(ctx) {
		n := 1 + rnd.IntN(32)
		lba := rnd.Uint64N(uint64(l.History.Blocks() - n + 1))
		if err := l.read(lba, p[:n*BlockBytes]); err != nil && errors.Is(err, initiator.ErrClosed) {
			return
		}
	}
}

// read reads and judges whole blocks; the error is that of the request, violations are only noted.
func (l *Load) read(lba uint64, p []byte) error {
	n := uint64(len(p) / BlockBytes)
	low := make([]Seq, n)
	for i := range n {
		low[i] = l.History.BeginRead(lba + i)
	}
	if err := l.do(&initiator.Request{Op: initiator.Read, Offset: lba * BlockBytes, Data: p}); err != nil {
		l.problem(fmt.Errorf("I/O error of a read of %d blocks at %d: %w", n, lba, err))
		return err
	}
	for i := range n {
		if err := l.History.EndRead(lba+i, low[i], p[i*BlockBytes:][:BlockBytes]); err != nil {
			l.problem(fmt.Errorf("WRONG READ: %w", err))
		}
	}
	l.reads.Add(1)
	return nil
}

// Sweep reads and judges every block. The load may go on meanwhile.
func (l *Load) Sweep(ctx context.Context) error {
	p := make([]byte, 256*BlockBytes)
	for lba := 0; lba < l.History.Blocks(); lba += 256 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(256, l.History.Blocks()-lba)
		if err := l.read(uint64(lba), p[:n*BlockBytes]); err != nil {
			return err
		}
	}
	return nil
}
