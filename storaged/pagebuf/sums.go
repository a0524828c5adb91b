package pagebuf

import (
	"unsafe"

	"github.com/iomesh/iomesh/storaged/block"
)

// sums are CRCs of the first bytes of a buffer.
type sums struct {
	blocks []uint32 // CRC32C of each whole block
	n      int      // bytes seen
	part   uint32   // CRC32C of those of the block that is not whole yet
}

func (s *sums) reset() { s.blocks, s.n, s.part = s.blocks[:0], 0, 0 }

// Filled says that whoever fills B front to back has come to n, and takes the CRCs of what is new: now, while the bytes are in the processor's cache. They
// are good as long as nobody changes B. Filling from another place than where it ended before ends it: there are no CRCs of what follows.
func (b *Buf) Filled(from, n int) {
	s := &b.sums
	if from != s.n {
		return
	}
	for s.n < n {
		end := min(n, (s.n/block.Size+1)*block.Size)
		s.part = block.CRC32CUpdate(s.part, b.B[s.n:end])
		s.n = end
		if end%block.Size == 0 {
			s.blocks = append(s.blocks, s.part)
			s.part = 0
		}
	}
}

// Sums returns the CRC32C of each block of p, if p is whole blocks of B that Filled has seen, else nil.
func (b *Buf) Sums(p []byte) []uint32 {
	if b == nil || len(p) == 0 {
		return nil
	}
	off := uintptr(unsafe.Pointer(unsafe.SliceData(p))) - uintptr(unsafe.Pointer(unsafe.SliceData(b.B)))
	if off >= uintptr(len(b.B)) || (int(off)|len(p))%block.Size != 0 {
		return nil
	}
	i, n := int(off)/block.Size, len(p)/block.Size
	if i+n > len(b.sums.blocks) {
		return nil
	}
	return b.sums.blocks[i : i+n]
}
