package vdisk

import "github.com/iomesh/iomesh/storaged/pagebuf"

// Aligned returns a zeroed buffer of n bytes that begins at a multiple of PageSize, as direct I/O wants it.
func Aligned(n int) []byte { return pagebuf.Aligned(n) }

// IsAligned reports whether b begins at a multiple of PageSize.
func IsAligned(b []byte) bool { return pagebuf.IsAligned(b) }
