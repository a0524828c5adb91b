package faultfs

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

func TestADiskDoesWhatItIsTold(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse here")
	}
	dir := t.TempDir()
	backing, mnt := filepath.Join(dir, "backing"), filepath.Join(dir, "mnt")
	if err := errors.Join(os.WriteFile(backing, make([]byte, 1<<20), 0o600), os.Mkdir(mnt, 0o700)); err != nil {
		t.Fatal(err)
	}
	d, err := Mount(mnt, backing, 1<<20, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	disk, err := vdisk.Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	want, got := vdisk.Aligned(4096), vdisk.Aligned(4096)
	for i := range want {
		want[i] = byte(i)
	}
	if err := disk.WriteDurable(want, 8192); err != nil {
		t.Fatal(err)
	}
	if err := disk.ReadAt(got, 8192); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read back: %v", err)
	}
	d.Set(Fail(Write, syscall.EIO))
	if err := disk.WriteDurable(want, 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write to fail: %v", err)
	}
	d.Set(func(op Op, _, _ int64) Fault { return Fault{FlipBit: op == Read} })
	if err := disk.ReadAt(got, 8192); err != nil || got[0] != want[0]^1 || !bytes.Equal(got[1:], want[1:]) {
		t.Errorf("a rotten read: %v, %v", got[0], err)
	}
	until := make(chan struct{})
	d.Set(Hang(until))
	done := make(chan error, 1)
	go func() { done <- disk.ReadAt(got, 8192) }()
	for d.Faults() < 3 {
		select {
		case err := <-done:
			t.Fatalf("it does not hang: %v", err)
		default:
		}
	}
	close(until)
	if err := <-done; err != nil || !bytes.Equal(got, want) {
		t.Errorf("after the hang: %v", err)
	}
	d.Set(nil)
	if err := errors.Join(disk.Close(), d.Close()); err != nil {
		t.Error(err)
	}
}
