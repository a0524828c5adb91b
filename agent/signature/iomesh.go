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
	return []Found{{Kind: KindIOMesh, Usage: Storage, Magic: hex.EncodeToString([]byte(iomeshMagic))}}
}
