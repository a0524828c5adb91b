// Package readahead reads streams of headers and data segments: short ones many per system call, long ones without a copy, and
// in pieces small enough that whoever looks at the bytes next finds them in the processor's cache.
package readahead

import (
	"bufio"
	"io"
)

const (
	// Size is how many bytes are read ahead: several small messages per system call.
	Size = 64 << 10
	// afterLong is how many are read ahead behind a long data segment, of which another is likely to follow: what is read ahead of it is copied once
	// more.
	afterLong = 4 << 10
	// long is the length in bytes from which a data segment is long.
	long = Size
	// pieceMax bounds what Some returns at once: a fraction of the cache next to a core.
	pieceMax = 256 << 10
)

// Reader is a stream with something read ahead. Not safe for concurrent use.
type Reader struct {
	*bufio.Reader
	src source
}

// source bounds what is read ahead.
type source struct {
	r     io.Reader
	ahead int
}

func (s *source) Read(p []byte) (int, error) {
	if len(p) <= Size {
		p = p[:min(len(p), s.ahead)]
	}
	return s.r.Read(p)
}

// New returns a Reader of r.
func New(r io.Reader) *Reader {
	x := &Reader{src: source{r, Size}}
	x.Reader = bufio.NewReaderSize(&x.src, Size)
	return x
}

// Segment says that a data segment of n bytes begins.
func (r *Reader) Segment(n int) {
	r.src.ahead = Size
	if n >= long {
		r.src.ahead = afterLong
	}
}

// Some reads at least one byte of the data segment, whose rest is p, and no more than is there without waiting twice. Errors are those of the stream;
// a stream that ends here gives io.EOF.
func (r *Reader) Some(p []byte) (int, error) {
	p = p[:min(len(p), pieceMax)]
	if r.Buffered() > 0 || len(p) < r.src.ahead {
		return r.Read(p)
	}
	return r.src.r.Read(p)
}
