package vdisk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A block device that two stores write to is lost; whoever comes second is told so.
func TestABlockDeviceIsClaimed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Skipf("no loop device to be had: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "--detach", dev).Run()
	first, err := Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.WriteDurable(Aligned(4096), 0); err != nil {
		t.Error(err)
	}
	if second, err := Open(dev); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second time: %v, %v", second, err)
	}
	look, err := OpenReadOnly(dev)
	if err != nil {
		t.Errorf("looking at it: %v", err)
	} else {
		_ = look.Close()
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(dev)
	if err != nil {
		t.Fatalf("after the first let go: %v", err)
	}
	_ = again.Close()
}
