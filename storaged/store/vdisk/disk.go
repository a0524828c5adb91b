package vdisk

import "errors"

// Disk is what a store needs of a disk. Offsets and lengths are multiples of 4096; buffers need no alignment, but an
// implementation avoids a copy when they have it (see Aligned). All methods may be called concurrently.
type Disk interface {
	// ReadAt fills p from offset off. Anything but a full read is an error.
	ReadAt(p []byte, off int64) error
	// WriteAt writes p at off. It is durable once a later Flush has returned without error.
	WriteAt(p []byte, off int64) error
	// WriteDurable writes p at off and returns when it is durable, whatever else was written or not.
	WriteDurable(p []byte, off int64) error
	// Flush returns when every WriteAt that returned before the call is durable. An error is final: what was written
	// since the last good flush may be lost, and asking again would hide it (I7).
	Flush() error
	// Discard tells the disk that n bytes at off are not needed. Their content is undefined afterwards. A disk that cannot
	// returns nil.
	Discard(off, n int64) error
	// SizeBytes is the fixed size of the disk.
	SizeBytes() int64
	// Direct reports whether the page cache is bypassed.
	Direct() bool
	// String names the disk for messages, for example the path.
	String() string
	Close() error
}

// PageSize is the granularity and alignment of all requests in bytes.
const PageSize = 4096

// ErrNoSpace is returned, wrapped, by a disk (a file on a full filesystem) that could not store a write for lack of space.
var ErrNoSpace = errors.New("no space left on the disk")
