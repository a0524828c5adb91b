package vdisk

import "unsafe"

// Aligned returns a zeroed buffer of n bytes that begins at a multiple of PageSize, as direct I/O wants it.
func Aligned(n int) []byte {
	b := make([]byte, n+PageSize)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (PageSize - 1))
	return b[off : off+n : off+n]
}

// IsAligned reports whether b begins at a multiple of PageSize.
func IsAligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&(PageSize-1) == 0
}
