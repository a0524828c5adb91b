package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/iomesh/iomesh/internal/readahead"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
)

// Frame geometry; part of the wire format.
const (
	// HeaderSize is the size of a frame's fixed header in bytes.
	HeaderSize = 32
	// HeadMax bounds the head of a frame in bytes.
	HeadMax = 4 << 20
	// DataMax bounds the data of a frame in bytes.
	DataMax = pagebuf.MaxSize

	magic = 0x314d4f49 // "IOM1", little endian
)

// ErrCorrupt is wrapped by every error that means the byte stream cannot be trusted any more.
var ErrCorrupt = errors.New("corrupt frame")

// Frame is one message on a connection: a head (the encoded message) and data (whole blocks). Head is valid until the
// next Read on the same Reader; Buf, when not nil, holds Data and is owned by the receiver of the Frame.
type Frame struct {
	Type    Type
	Flags   uint8
	Feature block.Feature
	Head    []byte
	Data    []byte
	Buf     *pagebuf.Buf
}

// SealFrame fills in the header of a frame whose first HeaderSize bytes of b were left free and whose head is the rest
// of b. It avoids a second buffer for the head.
func SealFrame(b []byte, t Type, flags uint8, feature block.Feature, dataLen int) {
	h, head := b[:HeaderSize], b[HeaderSize:]
	clear(h)
	binary.LittleEndian.PutUint32(h[0:], magic)
	h[4] = uint8(t)
	h[5] = flags
	binary.LittleEndian.PutUint16(h[6:], uint16(feature))
	binary.LittleEndian.PutUint32(h[8:], uint32(len(head)))
	binary.LittleEndian.PutUint32(h[12:], uint32(dataLen))
	binary.LittleEndian.PutUint32(h[24:], crcOf(h[:24], head))
}

// Reader reads frames from a connection. Not safe for concurrent use.
type Reader struct {
	// Sums says that data are for somebody who will verify them: their CRCs are taken as they arrive (pagebuf.Buf.Sums). Set before the first Read.
	Sums bool

	r    *readahead.Reader
	pool *pagebuf.Pool
	head []byte
}

// NewReader returns a Reader that puts data into buffers of pool.
func NewReader(r io.Reader, pool *pagebuf.Pool) *Reader {
	return &Reader{r: readahead.New(r), pool: pool}
}

// Ready reports whether the next Read returns without waiting for the peer.
func (r *Reader) Ready() bool {
	n := r.r.Buffered()
	if n < HeaderSize {
		return false
	}
	h, err := r.r.Peek(HeaderSize)
	return err == nil && uint64(n) >= HeaderSize+uint64(binary.LittleEndian.Uint32(h[8:]))+uint64(binary.LittleEndian.Uint32(h[12:]))
}

// Read returns the next frame. io.EOF means the peer closed between frames; any other error, and every one that wraps
// ErrCorrupt, means that the connection must be dropped.
func (r *Reader) Read(f *Frame) error {
	h, err := r.r.Peek(HeaderSize)
	if err != nil {
		if errors.Is(err, io.EOF) && len(h) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if m := binary.LittleEndian.Uint32(h[0:]); m != magic {
		return fmt.Errorf("%w: magic %#08x", ErrCorrupt, m)
	}
	headLen := binary.LittleEndian.Uint32(h[8:])
	dataLen := binary.LittleEndian.Uint32(h[12:])
	if headLen > HeadMax || dataLen > DataMax {
		return fmt.Errorf("%w: head of %d bytes, data of %d bytes", ErrCorrupt, headLen, dataLen)
	}
	var fixed [HeaderSize]byte
	copy(fixed[:], h)
	if _, err := r.r.Discard(HeaderSize); err != nil {
		return err
	}
	if cap(r.head) < int(headLen) {
		r.head = make([]byte, max(int(headLen), 1024))
	}
	r.head = r.head[:headLen]
	if _, err := io.ReadFull(r.r, r.head); err != nil {
		return fmt.Errorf("read the head of a frame: %w", unexpected(err))
	}
	if want, got := binary.LittleEndian.Uint32(fixed[24:]), crcOf(fixed[:24], r.head); want != got {
		return fmt.Errorf("%w: header checksum %#08x, computed %#08x", ErrCorrupt, want, got)
	}
	*f = Frame{
		Type:    Type(fixed[4]),
		Flags:   fixed[5],
		Feature: block.Feature(binary.LittleEndian.Uint16(fixed[6:])),
		Head:    r.head,
	}
	r.r.Segment(int(dataLen))
	if dataLen == 0 {
		return nil
	}
	buf := r.pool.Get(int(dataLen))
	if err := r.fill(buf); err != nil {
		buf.Release()
		return fmt.Errorf("read the data of a frame: %w", unexpected(err))
	}
	f.Buf, f.Data = buf, buf.B
	return nil
}

func (r *Reader) fill(buf *pagebuf.Buf) error {
	for at := 0; at < len(buf.B); {
		n, err := r.r.Some(buf.B[at:])
		if n == 0 && err != nil {
			return err
		}
		if r.Sums {
			buf.Filled(at, at+n)
		}
		at += n
	}
	return nil
}

func crcOf(header, head []byte) uint32 {
	return block.CRC32CUpdate(block.CRC32C(header), head)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
