package verify

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"
)

// BlockBytes is the size of a block.
const BlockBytes = 4096

// magic begins every block that was written.
const magic = 0x3146534d4f49 // "IOMSF1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Seq numbers the writes of one block.
type Seq uint64

// register is the history of one block. Invariant: acked <= begun, seen <= begun.
type register struct {
	begun, acked, seen Seq
	// zeros has bit i set if write begun-i was an unmap.
	zeros uint64
}

// History of one volume. Safe for concurrent use; a block has at most one write in progress.
type History struct {
	volume [16]byte
	stripe [256]sync.Mutex
	blocks []register
}

// NewHistory is the history of a volume that was never written.
func NewHistory(volume [16]byte, blocks int) *History {
	return &History{volume: volume, blocks: make([]register, blocks)}
}

// Blocks is the number of blocks.
func (h *History) Blocks() int { return len(h.blocks) }

func (h *History) lock(lba uint64) (*register, func()) {
	m := &h.stripe[lba%uint64(len(h.stripe))]
	m.Lock()
	return &h.blocks[lba], m.Unlock
}

func (h *History) begin(lba uint64, zero uint64) Seq {
	r, unlock := h.lock(lba)
	defer unlock()
	r.begun++
	r.zeros = r.zeros<<1 | zero
	return r.begun
}

// BeginWrite numbers a write and makes the block's content in p. Called before the write is submitted.
func (h *History) BeginWrite(lba uint64, p []byte) Seq {
	s := h.begin(lba, 0)
	h.fill(p, lba, s)
	return s
}

// BeginZero numbers an unmap.
func (h *History) BeginZero(lba uint64) Seq { return h.begin(lba, 1) }

// Acked says that a write was acknowledged without an error.
func (h *History) Acked(lba uint64, s Seq) {
	r, unlock := h.lock(lba)
	defer unlock()
	r.acked = max(r.acked, s)
}

// BeginRead returns the oldest value that a read submitted now may return.
func (h *History) BeginRead(lba uint64) Seq {
	r, unlock := h.lock(lba)
	defer unlock()
	return max(r.acked, r.seen)
}

// Violation is a block that holds what it cannot.
type Violation struct {
	LBA        uint64
	Low, High  Seq // values that were possible
	What       string
	AckedAtEnd Seq
}

func (v *Violation) Error() string {
	return fmt.Sprintf("block %d: %s; possible were writes %d to %d (acknowledged when the read ended: %d)", v.LBA, v.What, v.Low, v.High, v.AckedAtEnd)
}

// EndRead judges what a read returned that began at low. The error is a *Violation.
func (h *History) EndRead(lba uint64, low Seq, p []byte) error {
	r, unlock := h.lock(lba)
	defer unlock()
	bad := func(format string, args ...any) error {
		return &Violation{LBA: lba, Low: low, High: r.begun, AckedAtEnd: r.acked, What: fmt.Sprintf(format, args...)}
	}
	if allZero(p) {
		for s := low; s <= r.begun; s++ {
			if s == 0 || r.begun-s >= 64 || r.zeros>>(r.begun-s)&1 == 1 {
				r.seen = max(r.seen, s)
				return nil
			}
		}
		return bad("is zero")
	}
	if binary.LittleEndian.Uint64(p) != magic || crc32.Checksum(p[:BlockBytes-4], castagnoli) != binary.LittleEndian.Uint32(p[BlockBytes-4:]) {
		return bad("is torn or damaged: begins with %x", p[:16])
	}
	volume, at, s := [16]byte(p[8:24]), binary.LittleEndian.Uint64(p[24:]), Seq(binary.LittleEndian.Uint64(p[32:]))
	switch {
	case volume != h.volume:
		return bad("holds a block of volume %x", volume)
	case at != lba:
		return bad("holds block %d", at)
	case s > r.begun:
		return bad("holds write %d, which was never begun", s)
	case s < low && s >= r.acked:
		return bad("holds write %d, after a read has returned a newer one", s)
	case s < low:
		return bad("holds write %d, which a newer acknowledged one has replaced", s)
	case r.begun-s < 64 && r.zeros>>(r.begun-s)&1 == 1:
		return bad("holds data with the number of an unmap, %d", s)
	}
	r.seen = max(r.seen, s)
	return nil
}

// fill makes the content of a block:
//
//	0    8  magic       8  16  volume    24  8  block    32  8  number of the write
//	40 …    bytes made of all these
//	4092 4  CRC32C of bytes 0–4091
func (h *History) fill(p []byte, lba uint64, s Seq) {
	le := binary.LittleEndian
	le.PutUint64(p, magic)
	copy(p[8:], h.volume[:])
	le.PutUint64(p[24:], lba)
	le.PutUint64(p[32:], uint64(s))
	x := (lba+1)*0x9e3779b97f4a7c15 ^ uint64(s)*0xbf58476d1ce4e5b9 ^ le.Uint64(h.volume[:])
	for i := 40; i < BlockBytes-8; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		le.PutUint64(p[i:], x)
	}
	le.PutUint32(p[BlockBytes-8:], uint32(x))
	le.PutUint32(p[BlockBytes-4:], crc32.Checksum(p[:BlockBytes-4], castagnoli))
}

// IsBlock reports whether p is a whole block of some load.
func IsBlock(p []byte) bool {
	return binary.LittleEndian.Uint64(p) == magic && crc32.Checksum(p[:BlockBytes-4], castagnoli) == binary.LittleEndian.Uint32(p[BlockBytes-4:])
}

func allZero(p []byte) bool {
	for i := 0; i < len(p); i += 8 {
		if binary.LittleEndian.Uint64(p[i:]) != 0 {
			return false
		}
	}
	return true
}

// Mark remembers the newest begun write of each block, for Changed.
func (h *History) Mark() []Seq {
	out := make([]Seq, len(h.blocks))
	for i := range h.blocks {
		r, unlock := h.lock(uint64(i))
		out[i] = r.begun
		unlock()
	}
	return out
}

// Changed counts the blocks written since a mark.
func (h *History) Changed(mark []Seq) int {
	n := 0
	for i := range h.blocks {
		r, unlock := h.lock(uint64(i))
		if r.begun != mark[i] {
			n++
		}
		unlock()
	}
	return n
}
