package pdu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/iomesh/iomesh/internal/readahead"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors of Reader. After ErrDataDigest the stream is still in step; after any other error it is not.
var (
	// ErrHeaderDigest: the header cannot be trusted, so neither can the length of the PDU.
	ErrHeaderDigest = errors.New("header digest does not match")
	// ErrDataDigest: the data segment was damaged on its way.
	ErrDataDigest = errors.New("data digest does not match")
	// ErrTooLong: the data segment is longer than announced as acceptable.
	ErrTooLong = errors.New("data segment exceeds the negotiated maximum")
)

// Reader splits a byte stream into PDUs: Next, then ReadData, ReadSome until the segment ends, or SkipData, in turn. Not safe for concurrent use.
type Reader struct {
	// HeaderDigest and DataDigest are switched on after login, between PDUs.
	HeaderDigest, DataDigest bool
	// DataMax is the longest data segment accepted, in bytes.
	DataMax int

	br     *readahead.Reader
	ahs    [255 * 4]byte
	tail   [8]byte
	header Header
	left   int    // bytes of the data segment not read yet
	behind int    // bytes of padding and digest after them not read yet
	sum    uint32 // CRC32C of those read
}

// NewReader returns a Reader of r without digests.
func NewReader(r io.Reader, dataMax int) *Reader {
	return &Reader{br: readahead.New(r), DataMax: dataMax}
}

// Ready reports whether the next PDU can be read without waiting, with its data, also if the present data segment is skipped.
func (r *Reader) Ready() bool {
	skip := r.left + r.behind
	if r.br.Buffered() < skip+Size {
		return false
	}
	p, err := r.br.Peek(skip + Size)
	if err != nil {
		return false
	}
	h := (*Header)(p[skip:])
	n := skip + Size + h.AHSBytes() + r.padded(h.DataLen())
	if r.HeaderDigest {
		n += 4
	}
	return r.br.Buffered() >= n
}

// padded is the length on the wire of a data segment.
func (r *Reader) padded(n int) int {
	if n == 0 {
		return 0
	}
	n += -n & 3
	if r.DataDigest {
		n += 4
	}
	return n
}

// WaitByte returns once a byte can be read or the stream fails. The byte stays.
func (r *Reader) WaitByte() error {
	_, err := r.br.Peek(1)
	return err
}

// Next reads the header of the next PDU. The result is valid until the following Next. io.EOF means that the stream ended between PDUs.
func (r *Reader) Next() (*Header, error) {
	if r.left != 0 {
		if err := r.SkipData(); err != nil && !errors.Is(err, ErrDataDigest) {
			return nil, err
		}
	}
	h := &r.header
	if _, err := io.ReadFull(r.br, h[:]); err != nil {
		return nil, err
	}
	ahs := r.ahs[:h.AHSBytes()]
	if len(ahs) > 0 {
		if _, err := io.ReadFull(r.br, ahs); err != nil {
			return nil, noEOF(err)
		}
	}
	if r.HeaderDigest {
		if _, err := io.ReadFull(r.br, r.tail[:4]); err != nil {
			return nil, noEOF(err)
		}
		sum := crc32.Update(crc32.Checksum(h[:], castagnoli), castagnoli, ahs)
		if sum != binary.LittleEndian.Uint32(r.tail[:]) {
			return nil, ErrHeaderDigest
		}
	}
	if h.DataLen() > r.DataMax {
		return nil, fmt.Errorf("opcode %#02x with %d bytes: %w", byte(h.Opcode()), h.DataLen(), ErrTooLong)
	}
	r.left = h.DataLen()
	r.behind, r.sum = r.padded(r.left)-r.left, 0
	r.br.Segment(r.left)
	return h, nil
}

// ReadData reads the data segment into dst, whose length must be the header's DataLen.
func (r *Reader) ReadData(dst []byte) error {
	for len(dst) > 0 {
		n, err := r.ReadSome(dst)
		if err != nil {
			return err
		}
		dst = dst[n:]
	}
	return nil
}

// ReadSome reads what is there of the data segment, at least one byte, into dst, whose length must be that of what is left of it, and returns how much.
// With the last byte it checks the digest.
func (r *Reader) ReadSome(dst []byte) (int, error) {
	if len(dst) != r.left || r.left == 0 {
		panic(fmt.Sprintf("pdu: read of %d bytes, the segment has %d left", len(dst), r.left))
	}
	n, err := r.br.Some(dst)
	if n == 0 && err != nil {
		return 0, noEOF(err)
	}
	r.left -= n
	if r.DataDigest {
		r.sum = crc32.Update(r.sum, castagnoli, dst[:n])
	}
	if r.left > 0 {
		return n, nil
	}
	return n, r.endData()
}

// endData reads what is behind the data segment.
func (r *Reader) endData() error {
	if r.behind == 0 {
		return nil
	}
	tail := r.tail[:r.behind]
	r.behind = 0
	if _, err := io.ReadFull(r.br, tail); err != nil {
		return noEOF(err)
	}
	if !r.DataDigest {
		return nil
	}
	pad := len(tail) - 4
	if crc32.Update(r.sum, castagnoli, tail[:pad]) != binary.LittleEndian.Uint32(tail[pad:]) {
		return ErrDataDigest
	}
	return nil
}

// SkipData reads over the data segment, or what is left of it, without checking its digest.
func (r *Reader) SkipData() error {
	n := r.left + r.behind
	r.left, r.behind = 0, 0
	_, err := r.br.Discard(n)
	return noEOF(err)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
