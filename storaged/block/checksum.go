package block

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seedShift is what a block's start value contributes to its checksum, by the value's bytes: the CRC of a block is linear in where it begins.
var seedShift = func() (t [4][256]uint32) {
	var zeros [Size]byte
	none := CRC32C(zeros[:])
	for i := range t {
		for v := range t[i] {
			t[i][v] = crc32.Update(uint32(v)<<(8*i), castagnoli, zeros[:]) ^ none
		}
	}
	return t
}()

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

// seed is where the checksum of block n begins. An odd multiplier keeps distinct blocks at distinct seeds.
func (s Seeder) seed(n No) uint32 { return s.base ^ uint32(n)*0x9e3779b1 }

// Sum is the checksum of data, which must be the Size bytes of block n.
func (s Seeder) Sum(n No, data []byte) uint32 {
	return crc32.Update(s.seed(n), castagnoli, data[:Size])
}

// SumOf is the checksum of block n whose Size bytes have the CRC32C plain, without a look at them: for bytes whose CRC was taken as they arrived, before
// anybody knew which block they are.
func (s Seeder) SumOf(n No, plain uint32) uint32 {
	x := s.seed(n)
	return plain ^ seedShift[0][x&0xff] ^ seedShift[1][x>>8&0xff] ^ seedShift[2][x>>16&0xff] ^ seedShift[3][x>>24]
}

// SumRange fills sums[i] with the checksum of block r.Start+i of data. len(data) is r.SizeBytes(), len(sums) ≥ r.Count. plain, if not nil, are the CRC32Cs of
// the blocks, one for each: then data is not looked at.
func (s Seeder) SumRange(r Range, data []byte, plain, sums []uint32) {
	if plain != nil {
		for i, x := range plain[:r.Count] {
			sums[i] = s.SumOf(r.Start+No(i), x)
		}
		return
	}
	for i := range r.Count {
		off := int(i) * Size
		sums[i] = s.Sum(r.Start+No(i), data[off:off+Size])
	}
}

// CRC32C is the plain Castagnoli checksum used for structures that carry their own identity.
func CRC32C(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// CRC32CUpdate continues a CRC32C with more data.
func CRC32CUpdate(crc uint32, data []byte) uint32 { return crc32.Update(crc, castagnoli, data) }
