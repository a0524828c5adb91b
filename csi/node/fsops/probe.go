package fsops

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// edgeBytes is how much of both ends of a device must be zero for it to be blank.
const edgeBytes = 64 << 10

// device is what of a block device is read here.
type device interface {
	io.ReaderAt
	io.Seeker
}

// blank says whether nothing has been written to the ends of a device, and if not, what stands there.
func blank(d device) (bool, string, error) {
	size, err := d.Seek(0, io.SeekEnd)
	if err != nil {
		return false, "", fmt.Errorf("size of the device: %w", err)
	}
	if size < 2*edgeBytes {
		return false, "", fmt.Errorf("the device has only %d bytes", size)
	}
	buf := make([]byte, edgeBytes)
	for _, at := range []int64{0, size - edgeBytes} {
		if _, err := d.ReadAt(buf, at); err != nil {
			return false, "", fmt.Errorf("read the device at %d: %w", at, err)
		}
		if at == 0 && unfinishedXFS(buf) {
			return true, "", nil
		}
		if i := bytes.IndexFunc(buf, func(r rune) bool { return r != 0 }); i >= 0 {
			return false, fmt.Sprintf("%d bytes from offset %d begin with %x", len(buf)-i, at+int64(i), buf[i:min(i+16, len(buf))]), nil
		}
	}
	return true, "", nil
}

const (
	xfsMagic            = "XFSB"
	xfsInProgressOffset = 126
	extSuperblockOffset = 1024
	extMagic            = 0xef53
)

// unfinishedXFS says whether the block is a superblock of xfs whose mkfs did not come to its end.
func unfinishedXFS(b []byte) bool {
	return len(b) > xfsInProgressOffset && string(b[:4]) == xfsMagic && b[xfsInProgressOffset] == 1
}

// clearUnfinishedXFS empties the first block of a device if it is the superblock of an unfinished xfs.
func clearUnfinishedXFS(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, 4096)
	if _, err := f.ReadAt(b, 0); err != nil {
		return false, fmt.Errorf("read superblock: %w", err)
	}
	if !unfinishedXFS(b) {
		return false, nil
	}
	clear(b)
	if _, err := f.WriteAt(b, 0); err != nil {
		return false, fmt.Errorf("clear unfinished superblock: %w", err)
	}
	return true, f.Sync()
}

// errNoSuperblock is returned by filesystemBytes.
var errNoSuperblock = errors.New("no superblock of this filesystem")

// filesystemBytes reads the size that a filesystem gives itself.
func filesystemBytes(d io.ReaderAt, fstype string) (uint64, error) {
	b := make([]byte, 4096)
	if _, err := d.ReadAt(b, 0); err != nil {
		return 0, fmt.Errorf("read superblock: %w", err)
	}
	switch fstype {
	case "xfs":
		return xfsBytes(b)
	case "ext2", "ext3", "ext4":
		return extBytes(b[extSuperblockOffset:])
	}
	return 0, fmt.Errorf("%s: %w", fstype, errNoSuperblock)
}

// xfsBytes: sb_blocksize at 4 and sb_dblocks at 8, big endian (xfs_format.h).
func xfsBytes(sb []byte) (uint64, error) {
	if string(sb[:4]) != xfsMagic {
		return 0, errNoSuperblock
	}
	blockBytes, blocks := uint64(binary.BigEndian.Uint32(sb[4:])), binary.BigEndian.Uint64(sb[8:])
	return product(blockBytes, blocks)
}

// extBytes: s_blocks_count at 4, s_log_block_size at 24, s_magic at 56, s_feature_incompat at 96, s_blocks_count_hi at 336,
// little endian (fs/ext4/ext4.h).
func extBytes(sb []byte) (uint64, error) {
	const incompat64Bit = 0x80
	if binary.LittleEndian.Uint16(sb[56:]) != extMagic {
		return 0, errNoSuperblock
	}
	shift := binary.LittleEndian.Uint32(sb[24:])
	if shift > 6 { // 64 KiB
		return 0, fmt.Errorf("block size 2^%d: %w", 10+uint64(shift), errNoSuperblock)
	}
	blocks := uint64(binary.LittleEndian.Uint32(sb[4:]))
	if binary.LittleEndian.Uint32(sb[96:])&incompat64Bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(sb[336:])) << 32
	}
	return product(1024<<shift, blocks)
}

func product(blockBytes, blocks uint64) (uint64, error) {
	if blockBytes < 512 || blockBytes > 64<<10 || blocks == 0 || blocks > (1<<62)/blockBytes {
		return 0, fmt.Errorf("%d blocks of %d bytes: %w", blocks, blockBytes, errNoSuperblock)
	}
	return blockBytes * blocks, nil
}

// deviceBytes is the size of an open device.
func deviceBytes(f *os.File) (uint64, error) {
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return uint64(n), nil
}
