package blockdev_test

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/blockdev/fakesys"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite the goldens")

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

func byName(devices []*blockdev.Device) map[string]*blockdev.Device {
	m := map[string]*blockdev.Device{}
	for _, d := range devices {
		m[d.KernelName] = d
	}
	return m
}

func TestScanOfAServer(t *testing.T) {
	text, err := os.ReadFile("testdata/server.txt")
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Name     string
		Device   *blockdev.Device
		Identity v1alpha1.Identity
	}
	var rows []row
	for _, d := range scan(t, string(text)) {
		rows = append(rows, row{d.Name(), d, d.Identity()})
	}
	got, err := json.MarshalIndent(rows, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "server.golden.json")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(want)) != string(got) {
		t.Errorf("the scan differs from %s; run with -update and read the diff", golden)
	}
}

const twoDisks = `
device sda pci/host0/target0/block/sda
dev 8:0
size 8GiB
device/wwid naa.1
device/serial A
device sdb pci/host1/target1/block/sdb
dev 8:16
size 8GiB
device/wwid naa.2
device/serial B
`

func TestNamesFollowTheDeviceAndNotTheKernelsName(t *testing.T) {
	before := byName(scan(t, twoDisks))
	swapped := strings.NewReplacer("naa.1", "naa.2", "naa.2", "naa.1", "serial A", "serial B", "serial B", "serial A").Replace(twoDisks)
	after := byName(scan(t, swapped))
	if before["sda"].Name() != after["sdb"].Name() || before["sdb"].Name() != after["sda"].Name() {
		t.Error("the name of a disk changed with its kernel name")
	}
	if before["sda"].Name() == before["sdb"].Name() {
		t.Error("two disks have one name")
	}
}

func TestIdentityIsTheSameWithAndWithoutUdev(t *testing.T) {
	without := byName(scan(t, twoDisks))["sdb"]
	with := byName(scan(t, twoDisks+"udev ID_WWN=0x2\nudev ID_SERIAL_SHORT=bbb\nudev ID_MODEL=x\nudev ID_VENDOR=y\n"))["sdb"]
	if without.Key.WWN != with.Key.WWN || without.Key.Serial != with.Key.Serial {
		t.Errorf("identity %+v without udev, %+v with", without.Key, with.Key)
	}
}

func TestSizeIsInTheFingerprintAndNotInTheName(t *testing.T) {
	small := byName(scan(t, twoDisks))["sda"]
	large := byName(scan(t, strings.ReplaceAll(twoDisks, "8GiB", "9GiB")))["sda"]
	a, b := small.Identity(), large.Identity()
	if small.Name() != large.Name() {
		t.Error("the name changed when the disk grew")
	}
	if a.Fingerprint() == b.Fingerprint() {
		t.Error("the fingerprint did not change when the disk grew")
	}
}

func TestLoopDevicesAreToldApartByNodeAndFile(t *testing.T) {
	const text = "device loop3 virtual/block/loop3\ndev 7:3\nsize 1GiB\nloop/backing_file /disks/a.img\n"
	d := scan(t, text)[0]
	if d.Key.Node != "worker-1" || d.Key.BackingFile != "/disks/a.img" || !d.Key.Stable() {
		t.Errorf("key %+v", d.Key)
	}
	if d.Name() == d.Key.On("worker-2").Name() {
		t.Error("the same file on two nodes has one name")
	}
}

func TestAMountUnderAnotherDeviceNumberIsFound(t *testing.T) {
	// btrfs mounts have a number of their own; only the source names the device.
	d := byName(scan(t, twoDisks+"mount 0:42 /data btrfs /dev/sdb\n"))["sdb"]
	if len(d.Mounts) != 1 || d.Mounts[0].Path != "/data" {
		t.Errorf("mounts %+v", d.Mounts)
	}
}

func TestADeviceThatCannotBeReadIsNotBlank(t *testing.T) {
	dir := t.TempDir()
	s, err := fakesys.Build(dir, twoDisks, "worker-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "dev/sda")); err != nil {
		t.Fatal(err)
	}
	devices, err := s.Scan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	id := byName(devices)["sda"].Identity()
	if id.Blank() || byName(devices)["sda"].ReadError == "" {
		t.Errorf("identity %+v", id)
	}
}

func TestWithoutTheMachinesMountsNothingIsKnownToBeFree(t *testing.T) {
	dir := t.TempDir()
	s, err := fakesys.Build(dir, twoDisks, "worker-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "proc/1/mountinfo")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Scan(context.Background()); err == nil || !strings.Contains(err.Error(), "hostPID") {
		t.Errorf("error %v", err)
	}
}
