package eligibility_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/blockdev/fakesys"
	"github.com/iomesh/iomesh/agent/eligibility"
)

func scan(t *testing.T, text string) []*blockdev.Device {
	t.Helper()
	s, err := fakesys.Build(t.TempDir(), text, "worker-1")
	if err != nil {
		t.Fatal(err)
	}
	devices, err := s.Scan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return devices
}

func codes(p *eligibility.Policy, name string, all []*blockdev.Device) []string {
	var out []string
	for _, d := range all {
		if d.KernelName == name {
			for _, r := range p.Evaluate(d, all) {
				out = append(out, r.Code)
			}
		}
	}
	return out
}

func TestEveryReasonOfAServerIsGiven(t *testing.T) {
	text, err := os.ReadFile("../blockdev/testdata/server.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := scan(t, string(text))
	p := &eligibility.Policy{MinDiskBytes: eligibility.MinDiskBytesDefault, MinLoopBytes: eligibility.MinLoopBytesDefault,
		LoopBackingFiles: []string{"/disks/a.img"}, DuplicateOf: eligibility.Duplicates(all)}
	for name, want := range map[string]string{
		"sda":     "SystemDisk InUse HasPartitions",
		"sda1":    "SystemDisk HasFilesystem TooSmall",
		"sda2":    "SystemDisk InUse HasFilesystem",
		"sdb":     "",
		"sdc":     "InUse DuplicateIdentity",
		"sdd":     "InUse DuplicateIdentity",
		"dm-1":    "",
		"sde":     "OwnVolume",
		"sdf":     "Removable",
		"nvme0n1": "Mounted HasFilesystem",
		"vda":     "NoIdentity",
		"loop0":   "UnsuitableType NoIdentity TooSmall",
		"loop1":   "Mounted HasFilesystem NotListed ReadOnly",
		"loop2":   "",
		"zram0":   "InUse UnsuitableType NoIdentity TooSmall",
	} {
		if got := strings.Join(codes(p, name, all), " "); got != want {
			t.Errorf("%s: reasons %q, want %q", name, got, want)
		}
	}
}

func TestOnlyListedLoopDevicesAreOffered(t *testing.T) {
	all := scan(t, "device loop2 virtual/block/loop2\ndev 7:2\nsize 8GiB\nloop/backing_file /disks/a.img\n")
	for _, c := range []struct {
		name  string
		files []string
		want  bool
	}{
		{"not listed", nil, false},
		{"listed", []string{"/disks/a.img"}, true},
		{"listed with a path that is not clean", []string{"/disks/../disks//a.img"}, true},
		{"a prefix is not enough", []string{"/disks"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &eligibility.Policy{LoopBackingFiles: c.files}
			if got := p.Listed(all[0]); got != c.want {
				t.Errorf("published: %v", got)
			}
			if got := slices.Contains(codes(p, "loop2", all), eligibility.NotListed); got == c.want {
				t.Errorf("reason NotListed: %v", got)
			}
		})
	}
}

const disk = "device sdb pci/host1/target1/block/sdb\ndev 8:16\nsize 100GiB\ndevice/wwid naa.2\n"

func TestContentIsAReason(t *testing.T) {
	for _, c := range []struct{ name, content, want string }{
		{"a file system", `content 0 XFSB`, "HasFilesystem"},
		{"remains of two", "content 0 XFSB\ncontent 65600 _BHRfS_M", "HasFilesystem HasFilesystem"},
		{"an empty partition table", `content 510 \x55\xaa`, "HasPartitionTable"},
		{"a GPT without partitions is named once", "content 510 \\x55\\xaa\ncontent 512 EFI PART", "HasPartitionTable"},
		{"data of no known kind", `content 300000 hello`, "UnknownContent"},
		{"nothing", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := scan(t, disk+c.content)
			if got := strings.Join(codes(&eligibility.Policy{}, "sdb", all), " "); got != c.want {
				t.Errorf("reasons %q, want %q", got, c.want)
			}
		})
	}
}

func TestAPartitionOfTheSystemDiskIsTheSystemDisk(t *testing.T) {
	all := scan(t, disk+"device sdb1 pci/host1/target1/block/sdb/sdb1\ndev 8:17\nsize 10GiB\npartition 1\n"+
		"device sdb2 pci/host1/target1/block/sdb/sdb2\ndev 8:18\nsize 70GiB\npartition 2\nmount 8:17 /boot ext4 /dev/sdb1\n")
	if got := codes(&eligibility.Policy{}, "sdb2", all); !slices.Contains(got, eligibility.SystemDisk) {
		t.Errorf("reasons of the free partition %q", got)
	}
}
