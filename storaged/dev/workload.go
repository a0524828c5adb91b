package dev

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
)

const loadBlock = 4096

// workload writes blocks that name themselves (block, version, checksum) and remembers what was acknowledged, so that every
// block can be checked later. Each worker owns every n-th block.
type workload struct {
	s        *initiator.Session
	blocks   uint32
	acked    []uint32 // newest acknowledged version per block
	begun    []uint32 // newest version whose write was begun
	writes   atomic.Uint64
	slowest  atomic.Int64 // ns
	wg       sync.WaitGroup
	mu       sync.Mutex
	firstErr error
}

func newWorkload(s *initiator.Session, sizeBytes uint64) *workload {
	n := uint32(sizeBytes / loadBlock)
	return &workload{s: s, blocks: n, acked: make([]uint32, n), begun: make([]uint32, n)}
}

// fill makes the content of a block.
func fill(p []byte, block, version uint32) {
	rnd := rand.New(rand.NewPCG(uint64(block), uint64(version)))
	for i := 0; i < loadBlock; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rnd.Uint64())
	}
	binary.LittleEndian.PutUint32(p[0:], block)
	binary.LittleEndian.PutUint32(p[4:], version)
	binary.LittleEndian.PutUint32(p[8:], crc32.ChecksumIEEE(p[12:loadBlock]))
}

// run writes with n workers until ctx ends; wait returns when they have ended.
func (w *workload) run(ctx context.Context, n int) (wait func() error) {
	for i := range n {
		w.wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 7))
			p := make([]byte, loadBlock)
			for ctx.Err() == nil {
				b := uint32(rnd.IntN(int(w.blocks)/n))*uint32(n) + uint32(i)
				v := w.begun[b] + 1
				w.begun[b] = v
				fill(p, b, v)
				start := time.Now()
				// Not ctx: a write that was begun is seen through, so that its outcome is known.
				if err := w.s.WriteAt(context.WithoutCancel(ctx), p, uint64(b)*loadBlock); err != nil {
					w.fail(fmt.Errorf("write of block %d: %w", b, err))
					return
				}
				w.acked[b] = v
				w.writes.Add(1)
				if took := time.Since(start).Nanoseconds(); took > w.slowest.Load() {
					w.slowest.Store(took)
				}
			}
		})
	}
	return func() error {
		w.wg.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.firstErr
	}
}

func (w *workload) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.firstErr == nil {
		w.firstErr = err
	}
}

// check reads every block and compares it with what was acknowledged. It returns the number of blocks that were written.
func (w *workload) check(ctx context.Context) (int, error) {
	written := 0
	const batch = 256
	p := make([]byte, batch*loadBlock)
	want := make([]byte, loadBlock)
	for first := uint32(0); first < w.blocks; first += batch {
		n := min(batch, w.blocks-first)
		if err := w.s.ReadAt(ctx, p[:n*loadBlock], uint64(first)*loadBlock); err != nil {
			return written, fmt.Errorf("read of block %d: %w", first, err)
		}
		for i := range n {
			b, got := first+i, p[i*loadBlock:][:loadBlock]
			if w.acked[b] == 0 {
				clear(want)
			} else {
				fill(want, b, w.acked[b])
				written++
			}
			if string(got) != string(want) {
				return written, fmt.Errorf("block %d: version %d was acknowledged, read back is block %d version %d", b, w.acked[b],
					binary.LittleEndian.Uint32(got), binary.LittleEndian.Uint32(got[4:]))
			}
		}
	}
	return written, nil
}
