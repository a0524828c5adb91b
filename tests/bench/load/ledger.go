package load

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
)

// blockBytes is what the ledger keeps account of.
const blockBytes = 4096

// Ledger remembers the last write of every 4 KiB block of a unit. Each block written begins and ends with its place and the number of the
// write, so that a block that is old, torn or in the wrong place shows. Different blocks may be used concurrently, one block may not; that is
// how Run uses it. A block whose read is compared must not be under a write.
type Ledger struct {
	writes []uint32 // by block, or by place
	stride uint64   // distance of the places; blockBytes: every block
}

// NewLedger returns a ledger of a unit that has not been written.
func NewLedger(sizeBytes uint64) *Ledger {
	return NewSparseLedger(sizeBytes, blockBytes)
}

// NewSparseLedger returns a ledger of which only the blocks at multiples of strideBytes are written.
func NewSparseLedger(sizeBytes, strideBytes uint64) *Ledger {
	return &Ledger{writes: make([]uint32, sizeBytes/strideBytes), stride: strideBytes}
}

// stamp enters the write of p at offset and marks its blocks.
func (l *Ledger) stamp(p []byte, offset uint64) {
	for b := offset / l.stride; len(p) >= blockBytes; b, p = b+1, p[blockBytes:] {
		l.writes[b]++
		mark := b<<32 | uint64(l.writes[b])
		binary.LittleEndian.PutUint64(p, mark)
		binary.LittleEndian.PutUint64(p[blockBytes-8:], mark)
	}
}

// check compares what was read with what was written. Blocks never written are not looked at.
func (l *Ledger) check(p []byte, offset uint64) error {
	for b := offset / l.stride; len(p) >= blockBytes; b, p = b+1, p[blockBytes:] {
		if l.writes[b] == 0 {
			continue
		}
		mark := b<<32 | uint64(l.writes[b])
		head, tail := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[blockBytes-8:])
		if head != mark || tail != mark {
			return fmt.Errorf("block %d holds write %d of block %d at its begin and %d of %d at its end, want write %d", b,
				uint32(head), head>>32, uint32(tail), tail>>32, l.writes[b])
		}
	}
	return nil
}

// Verify reads all that was written and compares it. No load may run.
func (l *Ledger) Verify(ctx context.Context, s *initiator.Session) error {
	const step = 1 << 20
	p := make([]byte, step)
	if l.stride != blockBytes {
		for i, n := range l.writes {
			off := uint64(i) * l.stride
			if n == 0 {
				continue
			}
			if err := s.ReadAt(ctx, p[:blockBytes], off); err != nil {
				return fmt.Errorf("read back the block at %d: %w", off, err)
			}
			if err := l.check(p[:blockBytes], off); err != nil {
				return fmt.Errorf("read back: %w", err)
			}
		}
		return nil
	}
	for off := uint64(0); off < uint64(len(l.writes))*blockBytes; off += step {
		n := min(step, uint64(len(l.writes))*blockBytes-off)
		if err := s.ReadAt(ctx, p[:n], off); err != nil {
			return fmt.Errorf("read back %d bytes at %d: %w", n, off, err)
		}
		if err := l.check(p[:n], off); err != nil {
			return fmt.Errorf("read back: %w", err)
		}
	}
	return nil
}
