package pagebuf

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Align is the alignment of every buffer in bytes: what O_DIRECT needs on any disk.
	Align = 4096
	// hugePage is the size of a huge page, and that from which memory is asked for in them: it is then used whole and for long.
	hugePage = 2 << 20
)

// Aligned returns n zeroed bytes at an address divisible by Align; from 2 MiB on at a huge page, and in huge pages where the kernel has them.
func Aligned(n int) []byte {
	align := Align
	if n >= hugePage {
		align = hugePage
	}
	raw := make([]byte, n+align)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw))) & uintptr(align-1))
	b := raw[off : off+n : off+n]
	if n >= hugePage {
		_ = unix.Madvise(b[:n&^(hugePage-1)], unix.MADV_HUGEPAGE)
	}
	return b
}

// IsAligned reports whether b begins at an address divisible by Align.
func IsAligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&(Align-1) == 0
}
