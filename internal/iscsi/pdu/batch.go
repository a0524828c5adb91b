package pdu

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
)

// inlineMax is the longest data segment copied behind its header instead of getting a vector element of its own: below it
// the copy is cheaper than the element.
const inlineMax = 1024

// Batch collects PDUs and writes them with one system call. Not safe for concurrent use. The zero value is ready.
type Batch struct {
	// HeaderDigest and DataDigest are switched on after login.
	HeaderDigest, DataDigest bool

	bytes  []byte   // headers, digests, padding and short data
	cuts   []cut    // long data segments and where they belong in bytes
	vector [][]byte // what is written, made in WriteTo
	bufs   net.Buffers
	size   int
}

// zeros is padding; never written.
var zeros [3]byte

type cut struct {
	at   int // len(bytes) when the data was added
	data []byte
}

// Add appends a PDU. It sets the header's data length. Data is not copied if it is long, and must then stay unchanged until
// WriteTo has returned.
func (b *Batch) Add(h *Header, data []byte) {
	h[4] = 0
	h.SetDataLen(len(data))
	start := len(b.bytes)
	b.bytes = append(b.bytes, h[:]...)
	if b.HeaderDigest {
		b.bytes = binary.LittleEndian.AppendUint32(b.bytes, crc32.Checksum(b.bytes[start:], castagnoli))
	}
	b.size += Size + len(data)
	if len(data) == 0 {
		return
	}
	if len(data) <= inlineMax {
		b.bytes = append(b.bytes, data...)
	} else {
		b.cuts = append(b.cuts, cut{at: len(b.bytes), data: data})
	}
	pad := zeros[:-len(data)&3]
	b.bytes = append(b.bytes, pad...)
	if b.DataDigest {
		sum := crc32.Update(crc32.Checksum(data, castagnoli), castagnoli, pad)
		b.bytes = binary.LittleEndian.AppendUint32(b.bytes, sum)
	}
}

// Len is the number of bytes waiting, digests and padding not counted.
func (b *Batch) Len() int { return b.size }

// WriteTo writes everything collected and empties the batch, also on error.
func (b *Batch) WriteTo(w io.Writer) (int64, error) {
	defer b.Reset()
	if len(b.cuts) == 0 {
		n, err := w.Write(b.bytes)
		return int64(n), err
	}
	return b.Buffers().WriteTo(w)
}

// Buffers returns everything collected, for a caller that writes it in its own way: nothing may be added before Reset.
func (b *Batch) Buffers() *net.Buffers {
	at := 0
	for _, c := range b.cuts {
		if c.at > at {
			b.vector = append(b.vector, b.bytes[at:c.at])
		}
		b.vector = append(b.vector, c.data)
		at = c.at
	}
	if at < len(b.bytes) {
		b.vector = append(b.vector, b.bytes[at:])
	}
	b.bufs = net.Buffers(b.vector)
	return &b.bufs
}

// Rest is what of the Buffers returned last has not been consumed.
func (b *Batch) Rest() *net.Buffers { return &b.bufs }

// Reset empties the batch.
func (b *Batch) Reset() {
	// A burst must not keep its memory for ever.
	if cap(b.bytes) > 256<<10 {
		b.bytes = nil
	}
	b.bytes = b.bytes[:0]
	clear(b.cuts)
	b.cuts = b.cuts[:0]
	clear(b.vector[:cap(b.vector)])
	b.vector = b.vector[:0]
	b.bufs = nil
	b.size = 0
}
