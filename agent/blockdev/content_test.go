package blockdev

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestADeviceOnWhichAReadHangsIsNotReadAgain(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sda"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Scanner{DevDir: dir, reading: map[string]bool{"sda/7": true}}
	d := &Device{KernelName: "sda", Path: "/dev/sda", DiskSeq: 7, SizeBytes: 4096}
	s.readContent(context.Background(), d)
	if !strings.Contains(d.ReadError, "not returned") {
		t.Errorf("read error %q", d.ReadError)
	}
	// Another disk that got the name is a new chance.
	d = &Device{KernelName: "sda", Path: "/dev/sda", DiskSeq: 8, SizeBytes: 4096}
	s.readContent(context.Background(), d)
	if d.ReadError != "" || s.reading["sda/8"] {
		t.Errorf("read error %q, reading %v", d.ReadError, s.reading)
	}
}

func TestNaturalOrder(t *testing.T) {
	for _, c := range [][2]string{{"sda", "sdb"}, {"loop9", "loop10"}, {"nvme0n1", "nvme0n1p1"}, {"nvme0n2", "nvme1n1"}} {
		if natural(c[0], c[1]) >= 0 || natural(c[1], c[0]) <= 0 {
			t.Errorf("%s does not come before %s", c[0], c[1])
		}
	}
}

// A volume that nobody serves at the moment keeps its readers in the kernel.
func TestVolumesOfOursAreNotRead(t *testing.T) {
	for _, d := range []*Device{{Type: Disk, Key: Key{Vendor: "IOMESH"}}, {Type: Partition, Key: Key{Vendor: "IOMESH", PartitionNumber: 1}}, {Type: Loop, Key: Key{BackingFile: "/run/iomesh/volumes/a/disk"}}} {
		if wantsContent(d) {
			t.Errorf("the content of %+v is read", d.Key)
		}
	}
	if !wantsContent(&Device{Type: Loop, Key: Key{BackingFile: "/disks/a.img"}}) || !wantsContent(&Device{Type: Disk, Key: Key{Vendor: "ACME"}}) {
		t.Error("the content of other devices is not read")
	}
}
