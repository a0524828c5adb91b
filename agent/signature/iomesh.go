package signature

import "encoding/hex"

// iomeshMagic begins the superblock of a disk of IOMesh.
const iomeshMagic = "IOMESH"

// probeIOMesh recognises our own disks.
func probeIOMesh(im *image) []Found {
	sb := im.bytes(0, 4096)
	if sb == nil || string(sb[:len(iomeshMagic)]) != iomeshMagic {
		return nil
	}
	return []Found{{Kind: KindIOMesh, Usage: Storage, Magic: hex.EncodeToString([]byte(iomeshMagic)), UUID: uuid(sb[16:32]), DiskID: uuid(sb[32:48])}}
}

// Superblock returns a superblock as [Probe] recognises it, for tests of others.
func Superblock(cluster, disk [16]byte) []byte {
	b := make([]byte, 4096)
	copy(b, iomeshMagic)
	copy(b[16:], cluster[:])
	copy(b[32:], disk[:])
	return b
}
