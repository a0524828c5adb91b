package signature

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// fixed is a magic at one place. A negative offset counts from the end of the device.
type fixed struct {
	kind   string
	usage  Usage
	offset int64
	magic  string
	// uuid and label are offsets relative to the start of the device (or of the negative offset's place); zero length = none.
	uuid, label       int64
	uuidLen, labelLen int
	uuidText          bool // the UUID is stored as text
}

// fixedKinds are the kinds told by a magic at one known place.
var fixedKinds = []fixed{
	{kind: "xfs", usage: Filesystem, magic: "XFSB", uuid: 32, uuidLen: 16, label: 108, labelLen: 12},
	{kind: "btrfs", usage: Filesystem, offset: 64*kib + 0x40, magic: "_BHRfS_M", uuid: 64*kib + 0x20, uuidLen: 16, label: 64*kib + 0x12b, labelLen: 256},
	{kind: "btrfs", usage: Filesystem, offset: 64*mib + 0x40, magic: "_BHRfS_M", uuid: 64*mib + 0x20, uuidLen: 16},
	{kind: "f2fs", usage: Filesystem, offset: 1024, magic: "\x10\x20\xf5\xf2"},
	{kind: "nilfs2", usage: Filesystem, offset: 1024 + 6, magic: "\x34\x34"},
	{kind: "jfs", usage: Filesystem, offset: 32 * kib, magic: "JFS1"},
	{kind: "reiserfs", usage: Filesystem, offset: 64*kib + 52, magic: "ReIsEr"},
	{kind: "iso9660", usage: Filesystem, offset: 32*kib + 1, magic: "CD001"},
	{kind: "squashfs", usage: Filesystem, magic: "hsqs"},
	{kind: "exfat", usage: Filesystem, offset: 3, magic: "EXFAT   "},
	{kind: "ntfs", usage: Filesystem, offset: 3, magic: "NTFS    "},
	{kind: "vfat", usage: Filesystem, offset: 0x52, magic: "FAT32   ", label: 0x47, labelLen: 11},
	{kind: "vfat", usage: Filesystem, offset: 0x36, magic: "FAT16   ", label: 0x2b, labelLen: 11},
	{kind: "vfat", usage: Filesystem, offset: 0x36, magic: "FAT12   ", label: 0x2b, labelLen: 11},
	{kind: "crypto_LUKS", usage: Crypto, magic: "LUKS\xba\xbe", uuid: 168, uuidLen: 40, uuidText: true},
	{kind: "crypto_LUKS", usage: Crypto, offset: 16 * kib, magic: "SKUL\xba\xbe"},
	{kind: "bcache", usage: Other, offset: 4096 + 24, magic: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{kind: "bcachefs", usage: Filesystem, offset: 4096 + 24, magic: "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
	{kind: "ceph_bluestore", usage: Other, magic: "bluestore block device"},
	{kind: "stratis", usage: Other, offset: 512 + 4, magic: "!Stra0tis\x86\xff\x02^\x41rh"},
	{kind: "linux_raid_member", usage: RAID, magic: "\xfc\x4e\x2b\xa9", uuid: 16, uuidLen: 16},
	{kind: "linux_raid_member", usage: RAID, offset: 4096, magic: "\xfc\x4e\x2b\xa9", uuid: 4096 + 16, uuidLen: 16},
	{kind: "swap", usage: Swap, offset: 4096 - 10, magic: "SWAPSPACE2", uuid: 1024 + 12, uuidLen: 16, label: 1024 + 28, labelLen: 16},
	{kind: "swap", usage: Swap, offset: 64*kib - 10, magic: "SWAPSPACE2", uuid: 1024 + 12, uuidLen: 16},
	{kind: "swap", usage: Swap, offset: 4096 - 10, magic: "SWAP-SPACE"},
	{kind: "gpt", usage: PartitionTable, offset: 512, magic: "EFI PART", uuid: 512 + 56, uuidLen: 16},
	{kind: "gpt", usage: PartitionTable, offset: 4096, magic: "EFI PART", uuid: 4096 + 56, uuidLen: 16},
	{kind: "gpt", usage: PartitionTable, offset: -512, magic: "EFI PART"},
	{kind: "gpt", usage: PartitionTable, offset: -4096, magic: "EFI PART"},
}

// probers look where one fixed place is not enough.
var probers = []func(*image) []Found{probeExt, probeLVM, probeMDEnd, probeZFS, probeMBR, probeIOMesh}

func probeFixed(im *image) []Found {
	var out []Found
	for _, k := range fixedKinds {
		at := k.offset
		if at < 0 {
			at += im.sizeBytes
		}
		if at < 0 || !bytes.Equal(im.bytes(at, len(k.magic)), []byte(k.magic)) {
			continue
		}
		f := Found{Kind: k.kind, Usage: k.usage, OffsetBytes: uint64(at), Magic: hex.EncodeToString([]byte(k.magic))}
		if k.uuidLen > 0 {
			raw := im.bytes(k.uuid, k.uuidLen)
			switch {
			case k.uuidText:
				f.UUID = text(raw)
			case k.kind == "gpt":
				f.UUID = guid(raw)
			default:
				f.UUID = uuid(raw)
			}
		}
		if k.labelLen > 0 {
			f.Label = text(im.bytes(k.label, k.labelLen))
		}
		out = append(out, f)
	}
	return out
}

// probeExt tells ext2, ext3 and ext4 apart by their feature bits.
func probeExt(im *image) []Found {
	sb := im.bytes(1024, 0x100)
	if sb == nil || sb[0x38] != 0x53 || sb[0x39] != 0xef {
		return nil
	}
	const compatJournal, incompatJournalDev, incompatExt4 = 0x4, 0x8, 0x40 | 0x80 | 0x200
	kind := "ext2"
	compat, incompat := binary.LittleEndian.Uint32(sb[0x5c:]), binary.LittleEndian.Uint32(sb[0x60:])
	switch {
	case incompat&incompatJournalDev != 0:
		kind = "jbd"
	case incompat&incompatExt4 != 0:
		kind = "ext4"
	case compat&compatJournal != 0:
		kind = "ext3"
	}
	return []Found{{Kind: kind, Usage: Filesystem, OffsetBytes: 1024 + 0x38, Magic: "53ef", UUID: uuid(sb[0x68:0x78]), Label: text(sb[0x78:0x88])}}
}

// probeLVM looks for an LVM2 label, which may be in any of the first four sectors.
func probeLVM(im *image) []Found {
	for sector := int64(0); sector < 4; sector++ {
		label := im.bytes(sector*512, 64)
		if label == nil || string(label[:8]) != "LABELONE" || string(label[24:32]) != "LVM2 001" {
			continue
		}
		return []Found{{Kind: "LVM2_member", Usage: RAID, OffsetBytes: uint64(sector * 512), Magic: hex.EncodeToString(label[:8]), UUID: text(label[32:64])}}
	}
	return nil
}

// probeMDEnd looks for the two formats of Linux RAID whose superblock is near the end of the device.
func probeMDEnd(im *image) []Found {
	var out []Found
	sectors := im.sizeBytes / 512
	for _, at := range []int64{((sectors - 16) &^ 7) * 512, (im.sizeBytes &^ (64*kib - 1)) - 64*kib} {
		if at <= 4096 || string(im.bytes(at, 4)) != "\xfc\x4e\x2b\xa9" {
			continue
		}
		out = append(out, Found{Kind: "linux_raid_member", Usage: RAID, OffsetBytes: uint64(at), Magic: "fc4e2ba9", UUID: uuid(im.bytes(at+16, 16))})
	}
	return out
}

// probeZFS looks for an uberblock in the four labels; each has a ring of them 128 KiB into the label, in the writer's byte order.
func probeZFS(im *image) []Found {
	const labelBytes = 256 * kib
	end := im.sizeBytes &^ (labelBytes - 1)
	for _, label := range []int64{0, labelBytes, end - 2*labelBytes, end - labelBytes} {
		ring := im.bytes(label+128*kib, 128*kib)
		for i := 0; i+8 <= len(ring); i += kib {
			le, be := binary.LittleEndian.Uint64(ring[i:]), binary.BigEndian.Uint64(ring[i:])
			if le == 0x00bab10c || be == 0x00bab10c {
				at := label + 128*kib + int64(i)
				return []Found{{Kind: "zfs_member", Usage: Filesystem, OffsetBytes: uint64(at), Magic: hex.EncodeToString(ring[i : i+8])}}
			}
		}
	}
	return nil
}

// probeMBR reports a DOS partition table. The same two bytes end the boot sector of FAT and NTFS, which are no tables.
func probeMBR(im *image) []Found {
	s := im.bytes(0, 512)
	if s == nil || s[510] != 0x55 || s[511] != 0xaa {
		return nil
	}
	for _, boot := range []struct {
		at    int
		magic string
	}{{3, "NTFS    "}, {3, "EXFAT   "}, {0x52, "FAT32   "}, {0x36, "FAT16   "}, {0x36, "FAT12   "}} {
		if string(s[boot.at:boot.at+len(boot.magic)]) == boot.magic {
			return nil
		}
	}
	return []Found{{Kind: "dos", Usage: PartitionTable, OffsetBytes: 510, Magic: "55aa", UUID: hex.EncodeToString(s[440:444])}}
}

func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	// Labels go to objects, tables and terminals: nothing but printable ASCII leaves here.
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, string(b)))
}

func uuid(b []byte) string {
	if len(b) != 16 || bytes.Equal(b, make([]byte, 16)) {
		return ""
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// guid formats the mixed byte order that UEFI uses.
func guid(b []byte) string {
	if len(b) != 16 {
		return ""
	}
	return uuid([]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]})
}
