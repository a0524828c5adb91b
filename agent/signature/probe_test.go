package signature

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

const size = 128 * mib

// sparse is a device that is zero except for the given pieces.
type sparse struct {
	pieces    map[int64][]byte
	sizeBytes int64
	readOnly  bool
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.sizeBytes {
		return 0, io.EOF
	}
	clear(p)
	for at, b := range s.pieces {
		lo, hi := max(at, off), min(at+int64(len(b)), off+int64(len(p)))
		if lo < hi {
			copy(p[lo-off:hi-off], b[lo-at:hi-at])
		}
	}
	return len(p), nil
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	if s.readOnly {
		return 0, errors.New("write protected")
	}
	for at, b := range s.pieces {
		lo, hi := max(at, off), min(at+int64(len(b)), off+int64(len(p)))
		if lo < hi {
			copy(b[lo-at:hi-at], p[lo-off:hi-off])
		}
	}
	return len(p), nil
}

func device(pieces map[int64][]byte) *sparse { return &sparse{pieces: pieces, sizeBytes: size} }

func ext(compat, incompat uint32) []byte {
	sb := make([]byte, 256)
	sb[0x38], sb[0x39] = 0x53, 0xef
	binary.LittleEndian.PutUint32(sb[0x5c:], compat)
	binary.LittleEndian.PutUint32(sb[0x60:], incompat)
	for i := range 16 {
		sb[0x68+i] = byte(i + 1)
	}
	copy(sb[0x78:], "data\x1b[31m")
	return sb
}

func at(n int, b string) []byte { return append(make([]byte, n), b...) }

func TestProbeTellsWhatIsOnADevice(t *testing.T) {
	mdEnd := int64(size/512-16) &^ 7 * 512
	cases := []struct {
		name   string
		pieces map[int64][]byte
		want   []string // tokens
	}{
		{"a blank device has nothing", nil, nil},
		{"random data is unknown content", map[int64][]byte{4711: []byte("x")}, []string{"unknown@0"}},
		{"data in the last MiB only is unknown content", map[int64][]byte{size - 5: []byte("x")}, []string{"unknown@0"}},
		{"data in the middle is not seen", map[int64][]byte{size / 2: []byte("x")}, nil},
		{"ext2 has no journal", map[int64][]byte{1024: ext(0, 2)}, []string{"ext2@1080:01020304-0506-0708-090a-0b0c0d0e0f10"}},
		{"ext3 has a journal", map[int64][]byte{1024: ext(4, 2)}, []string{"ext3@1080:01020304-0506-0708-090a-0b0c0d0e0f10"}},
		{"ext4 has extents", map[int64][]byte{1024: ext(4, 0x42)}, []string{"ext4@1080:01020304-0506-0708-090a-0b0c0d0e0f10"}},
		{"xfs", map[int64][]byte{0: []byte("XFSB")}, []string{"xfs@0"}},
		{"btrfs with its mirror", map[int64][]byte{64*kib + 64: []byte("_BHRfS_M"), 64*mib + 64: []byte("_BHRfS_M")}, []string{"btrfs@65600", "btrfs@67108928"}},
		{"LUKS 1", map[int64][]byte{0: []byte("LUKS\xba\xbe")}, []string{"crypto_LUKS@0"}},
		{"LVM in the second sector", map[int64][]byte{512: at(0, "LABELONE................LVM2 001abc")}, []string{"LVM2_member@512:abc"}},
		{"Linux RAID 1.2", map[int64][]byte{4096: []byte("\xfc\x4e\x2b\xa9")}, []string{"linux_raid_member@4096"}},
		{"Linux RAID 1.0 at the end", map[int64][]byte{mdEnd: []byte("\xfc\x4e\x2b\xa9")}, []string{"linux_raid_member@134209536"}},
		{"Linux RAID 0.90 at the end", map[int64][]byte{size - 64*kib: []byte("\xfc\x4e\x2b\xa9")}, []string{"linux_raid_member@134152192"}},
		{"zfs by its last label only", map[int64][]byte{size - 256*kib + 128*kib + 3*kib: []byte("\x0c\xb1\xba\x00\x00\x00\x00\x00")}, []string{"zfs_member@134089728"}},
		{"swap", map[int64][]byte{4086: []byte("SWAPSPACE2")}, []string{"swap@4086"}},
		{"vfat is not taken for a partition table", map[int64][]byte{0x52: []byte("FAT32   "), 510: []byte("\x55\xaa")}, []string{"vfat@82"}},
		{"an empty DOS table", map[int64][]byte{510: []byte("\x55\xaa")}, []string{"dos@510:00000000"}},
		{"GPT with protective table and backup", map[int64][]byte{510: []byte("\x55\xaa"), 512: []byte("EFI PART"), size - 512: []byte("EFI PART")},
			[]string{"dos@510:00000000", "gpt@512", "gpt@134217216"}},
		{"GPT of a disk with 4 KiB sectors", map[int64][]byte{4096: []byte("EFI PART")}, []string{"gpt@4096"}},
		{"a GPT whose primary header is gone", map[int64][]byte{size - 512: []byte("EFI PART")}, []string{"gpt@134217216"}},
		{"a disk of IOMesh with both copies of its superblock", map[int64][]byte{0: Superblock([16]byte{1}, [16]byte{2}), size - 64*kib: Superblock([16]byte{1}, [16]byte{2})},
			[]string{"iomesh@0:01000000-0000-0000-0000-000000000000", "iomesh@134152192:01000000-0000-0000-0000-000000000000"}},
		{"a damaged superblock says no cluster", map[int64][]byte{0: append([]byte("IOMESHSB"), make([]byte, 4088)...)}, []string{"iomesh@0"}},
		{"ceph", map[int64][]byte{0: []byte("bluestore block device\n")}, []string{"ceph_bluestore@0"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			found, err := Probe(device(c.pieces), size)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, f.Token())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

func TestLabelsHoldNoControlCharacters(t *testing.T) {
	found, err := Probe(device(map[int64][]byte{1024: ext(0, 0)}), size)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if found[0].Label != "data[31m" {
		t.Errorf("label %q: escape sequences must not reach a terminal", found[0].Label)
	}
}

func TestProbeKnowsRealFilesystems(t *testing.T) {
	for _, c := range []struct {
		kind string
		argv []string
	}{
		{"ext4", []string{"mkfs.ext4", "-q", "-F", "-U", "6b6d7b0e-7f3e-4b6a-9d6a-1c2d3e4f5a6b"}},
		{"xfs", []string{"mkfs.xfs", "-q", "-m", "uuid=6b6d7b0e-7f3e-4b6a-9d6a-1c2d3e4f5a6b"}},
		{"swap", []string{"mkswap", "-q", "-U", "6b6d7b0e-7f3e-4b6a-9d6a-1c2d3e4f5a6b"}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			if _, err := exec.LookPath(c.argv[0]); err != nil {
				t.Skipf("%s is not installed", c.argv[0])
			}
			f, err := os.Create(filepath.Join(t.TempDir(), "image"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			const sizeBytes = 320 * mib
			if err := f.Truncate(sizeBytes); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(c.argv[0], append(c.argv[1:], f.Name())...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			found, err := Probe(f, sizeBytes)
			if err != nil || len(found) != 1 || found[0].Kind != c.kind || found[0].UUID != "6b6d7b0e-7f3e-4b6a-9d6a-1c2d3e4f5a6b" {
				t.Fatalf("found %+v, %v", found, err)
			}
			if err := Erase(f, sizeBytes, found); err != nil {
				t.Fatal(err)
			}
			if found, err := Probe(f, sizeBytes); err != nil || len(found) != 0 {
				t.Errorf("after erasing: %v, %v", found, err)
			}
		})
	}
}

func TestEraseRefusesASignatureThatHasChanged(t *testing.T) {
	d := device(map[int64][]byte{64*mib + 64: []byte("_BHRfS_M"), 64*kib + 64: []byte("_BHRfS_M")})
	found, err := Probe(d, size)
	if err != nil {
		t.Fatal(err)
	}
	copy(d.pieces[64*mib+64], "whatever")
	if err := Erase(d, size, found); err == nil {
		t.Error("erased something else than what was named")
	}
	if bytes.Equal(d.pieces[64*kib+64], make([]byte, 8)) {
		t.Error("the first MiB was erased although the plan did not hold")
	}
}

func TestEraseLeavesTheMiddleAlone(t *testing.T) {
	d := device(map[int64][]byte{0: []byte("XFSB"), 2 * mib: []byte("mine"), size - 4: []byte("last")})
	found, _ := Probe(d, size)
	if err := Erase(d, size, found); err != nil {
		t.Fatal(err)
	}
	if string(d.pieces[2*mib]) != "mine" {
		t.Error("bytes outside the first and last MiB were changed")
	}
	if blank, err := Blank(d, size); err != nil || !blank {
		t.Errorf("blank %v, %v", blank, err)
	}
}

func TestClearKeepsTheFirstBlockUntilTheEnd(t *testing.T) {
	var order []int64
	w := writerFunc(func(p []byte, off int64) (int, error) {
		order = append(order, off)
		return len(p), nil
	})
	if err := Clear(w, size); err != nil {
		t.Fatal(err)
	}
	if last := order[len(order)-1]; last != 0 || !slices.IsSortedFunc(order, func(a, b int64) int { return int(b - a) }) {
		t.Errorf("order of writes %v", order)
	}
}

type writerFunc func([]byte, int64) (int, error)

func (f writerFunc) WriteAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestProbeOfADeviceThatCannotBeReadIsAnError(t *testing.T) {
	if _, err := Probe(brokenReader{}, size); err == nil {
		t.Error("an unreadable device was taken for a blank one")
	}
}

type brokenReader struct{}

func (brokenReader) ReadAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }

func FuzzProbe(f *testing.F) {
	f.Add([]byte("XFSB"), int64(0), uint64(size))
	f.Add([]byte("EFI PART"), int64(512), uint64(700))
	f.Add([]byte("LABELONE"), int64(0), uint64(20))
	f.Fuzz(func(t *testing.T, b []byte, off int64, sizeBytes uint64) {
		sizeBytes %= 8 * mib
		d := &sparse{pieces: map[int64][]byte{off & (8*mib - 1): b}, sizeBytes: int64(sizeBytes)}
		found, err := Probe(d, sizeBytes)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			if blank, err := Blank(d, sizeBytes); err != nil || !blank {
				t.Fatalf("nothing found on a device that is not blank (%v)", err)
			}
		}
	})
}
