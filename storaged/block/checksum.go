package block

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Seeder computes the checksums of the blocks of one extent: CRC32C, begun at a value made of the lineage (the volume at
// the root of the clone tree), the extent and the block, so that a block read from a wrong place does not verify (I8).
// It is a value without state; copies may be used concurrently.
type Seeder struct{ base uint32 }

// NewSeeder returns the Seeder of extent index of the volumes of a lineage.
func NewSeeder(lineage VolumeID, index ExtentIndex) Seeder {
	var b [20]byte
	copy(b[:], lineage[:])
	binary.LittleEndian.PutUint32(b[16:], uint32(index))
	return Seeder{base: crc32.Update(0, castagnoli, b[:])}
}

// Sum is the checksum of data, which must be the Size bytes of block n.
func (s Seeder) Sum(n No, data []byte) uint32 {
	// An odd multiplier keeps distinct blocks at distinct seeds.
	return crc32.Update(s.base^(uint32(n)*0x9e3779b1), castagnoli, data[:Size])
}

// SumRange fills sums[i] with the checksum of block r.Start+i of data. len(data) is r.SizeBytes(), len(sums) ≥ r.Count.
func (s Seeder) SumRange(r Range, data []byte, sums []uint32) {
	for i := range r.Count {
		off := int(i) * Size
		sums[i] = s.Sum(r.Start+No(i), data[off:off+Size])
	}
}

// CRC32C is the plain Castagnoli checksum used for structures that carry their own identity.
func CRC32C(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// CRC32CUpdate continues a CRC32C with more data.
func CRC32CUpdate(crc uint32, data []byte) uint32 { return crc32.Update(crc, castagnoli, data) }
