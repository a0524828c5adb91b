package pdu

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
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

// readBuffer is the size of the stream buffer: several small PDUs per system call. Longer data segments bypass it.
const readBuffer = 64 << 10

// Reader splits a byte stream into PDUs: Next, then ReadData or SkipData, in turn. Not safe for concurrent use.
type Reader struct {
	// HeaderDigest and DataDigest are switched on after login, between PDUs.
	HeaderDigest, DataDigest bool
	// DataMax is the longest data segment accepted, in bytes.
	DataMax int

	br     *bufio.Reader
	ahs    [255 * 4]byte
	tail   [8]byte
	header Header
	left   int
}

// NewReader returns a Reader of r without digests.
func NewReader(r io.Reader, dataMax int) *Reader {
	return &Reader{br: bufio.NewReaderSize(r, readBuffer), DataMax: dataMax}
}

// Ready reports whether the next PDU can be read without waiting, with its data, also if the present data segment is skipped.
func (r *Reader) Ready() bool {
	skip := r.padded(r.left)
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
	return h, nil
}

// ReadData reads the data segment into dst, whose length must be the header's DataLen.
func (r *Reader) ReadData(dst []byte) error {
	if len(dst) != r.left {
		panic(fmt.Sprintf("pdu: ReadData of %d bytes, segment has %d", len(dst), r.left))
	}
	if r.left == 0 {
		return nil
	}
	r.left = 0
	if _, err := io.ReadFull(r.br, dst); err != nil {
		return noEOF(err)
	}
	pad := -len(dst) & 3
	n := pad
	if r.DataDigest {
		n += 4
	}
	if n == 0 {
		return nil
	}
	tail := r.tail[:n]
	if _, err := io.ReadFull(r.br, tail); err != nil {
		return noEOF(err)
	}
	if r.DataDigest {
		sum := crc32.Update(crc32.Checksum(dst, castagnoli), castagnoli, tail[:pad])
		if sum != binary.LittleEndian.Uint32(tail[pad:]) {
			return ErrDataDigest
		}
	}
	return nil
}

// SkipData reads over the data segment without checking its digest.
func (r *Reader) SkipData() error {
	n := r.left
	if n == 0 {
		return nil
	}
	r.left = 0
	n += -n & 3
	if r.DataDigest {
		n += 4
	}
	_, err := r.br.Discard(n)
	return noEOF(err)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
