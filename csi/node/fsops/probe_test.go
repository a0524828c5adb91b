package fsops

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

const deviceSize = 1 << 20

// reader is a device in memory that fails to read at one offset.
type reader struct {
	*bytes.Reader
	failAt int64
}

func (r reader) ReadAt(p []byte, off int64) (int, error) {
	if r.failAt >= off && r.failAt < off+int64(len(p)) {
		return 0, errors.New("medium error")
	}
	return r.Reader.ReadAt(p, off)
}

func TestBlank(t *testing.T) {
	for _, tc := range []struct {
		name   string
		fill   func([]byte)
		failAt int64
		blank  bool
		fails  bool
	}{
		{"nothing written", func([]byte) {}, -1, true, false},
		{"one byte at the start", func(b []byte) { b[0] = 1 }, -1, false, false},
		{"one byte in the last sector", func(b []byte) { b[deviceSize-1] = 1 }, -1, false, false},
		{"one byte at the edge that is looked at", func(b []byte) { b[edgeBytes-1] = 1 }, -1, false, false},
		{"the middle is what mkfs.ext4 leaves when it is cut off", func(b []byte) { b[deviceSize/2] = 1 }, -1, true, false},
		{"an unfinished xfs", func(b []byte) { copy(b, "XFSB"); b[126] = 1 }, -1, true, false},
		{"a finished xfs", func(b []byte) { copy(b, "XFSB") }, -1, false, false},
		{"a read error at the start is not blank", func([]byte) {}, 100, false, true},
		{"a read error at the end is not blank", func([]byte) {}, deviceSize - 1, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := make([]byte, deviceSize)
			tc.fill(b)
			got, what, err := blank(reader{bytes.NewReader(b), tc.failAt})
			if got != tc.blank || (err != nil) != tc.fails {
				t.Errorf("blank %t (%s), %v", got, what, err)
			}
			if !got && err == nil && what == "" {
				t.Error("it is not said what stands there")
			}
		})
	}
}

func ext(blocksLow, blocksHigh, logBlock, incompat uint32) []byte {
	b := make([]byte, 4096)
	sb := b[extSuperblockOffset:]
	binary.LittleEndian.PutUint32(sb[4:], blocksLow)
	binary.LittleEndian.PutUint32(sb[24:], logBlock)
	binary.LittleEndian.PutUint16(sb[56:], extMagic)
	binary.LittleEndian.PutUint32(sb[96:], incompat)
	binary.LittleEndian.PutUint32(sb[336:], blocksHigh)
	return b
}

func xfs(blockBytes uint32, blocks uint64) []byte {
	b := make([]byte, 4096)
	copy(b, "XFSB")
	binary.BigEndian.PutUint32(b[4:], blockBytes)
	binary.BigEndian.PutUint64(b[8:], blocks)
	return b
}

func TestFilesystemBytes(t *testing.T) {
	for _, tc := range []struct {
		name, fstype string
		block        []byte
		want         uint64
		ok           bool
	}{
		{"ext4 of 4 KiB blocks", "ext4", ext(1000, 0, 2, 0), 4096 * 1000, true},
		{"the high half counts only with the 64-bit feature", "ext4", ext(1000, 1, 2, 0), 4096 * 1000, true},
		{"ext4 of more than 16 TiB", "ext4", ext(0, 2, 2, 0x80), 4096 << 33, true},
		{"ext2 of 1 KiB blocks", "ext2", ext(8, 0, 0, 0), 8192, true},
		{"a block size that cannot be", "ext4", ext(8, 0, 31, 0), 0, false},
		{"no blocks", "ext4", ext(0, 0, 2, 0), 0, false},
		{"xfs", "xfs", xfs(4096, 81920), 320 << 20, true},
		{"xfs that overflows", "xfs", xfs(65536, 1<<62), 0, false},
		{"xfs asked for ext4", "ext4", xfs(4096, 81920), 0, false},
		{"a filesystem unknown here", "btrfs", xfs(4096, 81920), 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := filesystemBytes(bytes.NewReader(tc.block), tc.fstype)
			if got != tc.want || (err == nil) != tc.ok {
				t.Errorf("%d, %v; want %d", got, err, tc.want)
			}
		})
	}
}

func FuzzFilesystemBytes(f *testing.F) {
	f.Add(ext(1000, 0, 2, 0x80), "ext4")
	f.Add(xfs(4096, 81920), "xfs")
	f.Fuzz(func(t *testing.T, b []byte, fstype string) {
		if n, err := filesystemBytes(io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))), fstype); err == nil && n == 0 {
			t.Error("a filesystem of no bytes")
		}
	})
}

func TestOurMountOptionsDoNotOverrideTheClass(t *testing.T) {
	for _, tc := range []struct {
		r    Request
		want string
	}{
		{Request{FSType: "ext4"}, "errors=remount-ro"},
		{Request{FSType: "ext4", Flags: []string{"errors=panic", "noatime"}}, "errors=panic noatime"},
		{Request{FSType: "ext4", ReadOnly: true}, "noload errors=remount-ro ro"},
		{Request{FSType: "ext2", ReadOnly: true, Flags: []string{"ro"}}, "ro errors=remount-ro"},
		{Request{FSType: "xfs", ReadOnly: true}, "nouuid norecovery ro"},
	} {
		got := ""
		for i, o := range mountOptions(tc.r) {
			if i > 0 {
				got += " "
			}
			got += o
		}
		if got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.r, got, tc.want)
		}
	}
}
