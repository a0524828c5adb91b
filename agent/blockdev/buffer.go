package blockdev

import "unsafe"

// AlignedBuffer returns a zeroed buffer whose address is a multiple of 4096, for direct I/O.
func AlignedBuffer(n int) []byte {
	b := make([]byte, n+alignBytes)
	shift := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (alignBytes - 1))
	if shift > 0 {
		shift = alignBytes - shift
	}
	return b[shift : shift+n : shift+n]
}
