package peer

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/iomesh/iomesh/storaged/block"
)

// Hello is what each side says of itself first. On the wire, little endian, 48 bytes:
//
//	 0  u32  magic "IOMH"
//	 4  u16  protocol version, 1
//	 6  u16  feature level
//	 8  16 B cluster id
//	24  u32  chunk
//	28  u8   class
//	29  u8   1 if the sender wants payload encryption
//	30  u16  0
//	32  u64  boot id
//	40  u32  chunk the sender believes to talk to
//	44  u32  CRC32C of bytes [0, 44)
type Hello struct {
	Cluster block.ClusterID
	Chunk   block.ChunkID
	Boot    uint64
	Feature block.Feature
	Class   Class
	Encrypt bool
	To      block.ChunkID
}

const (
	helloSize    = 48
	helloMagic   = 0x484d4f49
	helloVersion = 1
)

func (h Hello) encode() []byte {
	b := make([]byte, helloSize)
	binary.LittleEndian.PutUint32(b[0:], helloMagic)
	binary.LittleEndian.PutUint16(b[4:], helloVersion)
	binary.LittleEndian.PutUint16(b[6:], uint16(h.Feature))
	copy(b[8:24], h.Cluster[:])
	binary.LittleEndian.PutUint32(b[24:], uint32(h.Chunk))
	b[28] = uint8(h.Class)
	if h.Encrypt {
		b[29] = 1
	}
	binary.LittleEndian.PutUint64(b[32:], h.Boot)
	binary.LittleEndian.PutUint32(b[40:], uint32(h.To))
	binary.LittleEndian.PutUint32(b[44:], block.CRC32C(b[:44]))
	return b
}

func decodeHello(b []byte) (Hello, error) {
	if len(b) != helloSize || binary.LittleEndian.Uint32(b) != helloMagic {
		return Hello{}, fmt.Errorf("not a chunk's hello")
	}
	if want, got := binary.LittleEndian.Uint32(b[44:]), block.CRC32C(b[:44]); want != got {
		return Hello{}, fmt.Errorf("hello checksum %#08x, computed %#08x", want, got)
	}
	if v := binary.LittleEndian.Uint16(b[4:]); v != helloVersion {
		return Hello{}, fmt.Errorf("protocol version %d, this build speaks %d: upgrade the older side", v, helloVersion)
	}
	h := Hello{
		Feature: block.Feature(binary.LittleEndian.Uint16(b[6:])),
		Chunk:   block.ChunkID(binary.LittleEndian.Uint32(b[24:])),
		Class:   Class(b[28]),
		Encrypt: b[29] == 1,
		Boot:    binary.LittleEndian.Uint64(b[32:]),
		To:      block.ChunkID(binary.LittleEndian.Uint32(b[40:])),
	}
	copy(h.Cluster[:], b[8:24])
	if h.Class >= classes {
		return Hello{}, fmt.Errorf("hello with unknown class %d", h.Class)
	}
	return h, nil
}

func readHello(r io.Reader) (Hello, error) {
	b := make([]byte, helloSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	return decodeHello(b)
}

// check compares what the other side said with what this side is.
func (h Hello) check(self Hello) error {
	switch {
	case h.Cluster != self.Cluster:
		return fmt.Errorf("chunk %s belongs to cluster %s, this one to %s", h.Chunk, h.Cluster, self.Cluster)
	case h.To != self.Chunk:
		return fmt.Errorf("chunk %s wanted chunk %s at this address, which is chunk %s", h.Chunk, h.To, self.Chunk)
	}
	return nil
}
