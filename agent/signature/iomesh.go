package signature

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
)

// iomeshMagic begins the superblock of a disk of IOMesh.
const iomeshMagic = "IOMESHSB"

// Layout of the superblock, which has two copies: at the start and 64 KiB before the end (the size rounded down to 4 KiB).
//
//	0     8   magic
//	16    16  UUID of the cluster
//	32    16  UUID of the disk
//	4092  4   CRC32C of bytes 0 to 4091, little endian
const (
	superBytes = 4096
	superTail  = 64 * kib
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// probeIOMesh recognises our own disks. A copy whose checksum is wrong is reported without UUIDs: it says nothing reliable, and it is not
// nothing.
func probeIOMesh(im *image) []Found {
	var out []Found
	for _, at := range []int64{0, im.sizeBytes&^(superBytes-1) - superTail} {
		sb := im.bytes(at, superBytes)
		if sb == nil || string(sb[:len(iomeshMagic)]) != iomeshMagic {
			continue
		}
		f := Found{Kind: KindIOMesh, Usage: Storage, OffsetBytes: uint64(at), Magic: hex.EncodeToString([]byte(iomeshMagic))}
		if binary.LittleEndian.Uint32(sb[superBytes-4:]) == crc32.Checksum(sb[:superBytes-4], castagnoli) {
			f.UUID, f.DiskID = uuid(sb[16:32]), uuid(sb[32:48])
		}
		out = append(out, f)
	}
	return out
}

// Superblock returns a superblock as [Probe] recognises it, for tests of others.
func Superblock(cluster, disk [16]byte) []byte {
	b := make([]byte, superBytes)
	copy(b, iomeshMagic)
	copy(b[16:], cluster[:])
	copy(b[32:], disk[:])
	binary.LittleEndian.PutUint32(b[superBytes-4:], crc32.Checksum(b[:superBytes-4], castagnoli))
	return b
}
