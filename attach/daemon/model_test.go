package daemon_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/fs.h.
const (
	blkDiscard = 0x1277
	blkZeroOut = 0x127f
)

// TestTheDeviceBehavesLikeABlockOfMemory runs random operations of every kind, at any sector, against a byte slice.
func TestTheDeviceBehavesLikeABlockOfMemory(t *testing.T) {
	const size, sector, most = 8 * mib, 512, 1 * mib
	r := newRig(t)
	if err := r.store.Create(targetIQN, size); err != nil {
		t.Fatal(err)
	}
	a := r.attach(request())
	fd, err := unix.Open(a.Device, unix.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	model, buf := make([]byte, size), aligned(most)
	for i := range 600 {
		length := sector * (1 + rnd.IntN(most/sector))
		if rnd.IntN(2) == 0 {
			length = sector * (1 + rnd.IntN(20)) // around the block size
		}
		offset := sector * rnd.IntN((size-length)/sector+1)
		what := model[offset : offset+length]
		span := [2]uint64{uint64(offset), uint64(length)}
		switch op := rnd.IntN(5); op {
		case 0, 1:
			for j := range buf[:length] {
				buf[j] = byte(rnd.Uint32())
			}
			copy(what, buf)
			if _, err := unix.Pwrite(fd, buf[:length], int64(offset)); err != nil {
				t.Fatalf("seed %d, step %d: write: %v", seed, i, err)
			}
		case 2, 3:
			request := uint(blkDiscard)
			if op == 3 {
				request = blkZeroOut
			}
			clear(what)
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&span))); errno != 0 {
				t.Fatalf("seed %d, step %d: ioctl %#x: %v", seed, i, request, errno)
			}
			if op == 2 {
				// A discard promises nothing for the parts of blocks at its ends; read them to learn what is there.
				if _, err := unix.Pread(fd, buf[:length], int64(offset)); err != nil {
					t.Fatal(err)
				}
				copy(what, buf)
				lo, hi := (offset+4095)/4096*4096, (offset+length)/4096*4096
				if lo < hi && bytes.ContainsFunc(model[lo:hi], func(c rune) bool { return c != 0 }) {
					t.Fatalf("seed %d, step %d: whole blocks of [%d, %d) are not zero after a discard", seed, i, offset, offset+length)
				}
			}
		default:
			if n, err := unix.Pread(fd, buf[:length], int64(offset)); err != nil || n != length || !bytes.Equal(buf[:length], what) {
				t.Fatalf("seed %d, step %d: read [%d, %d) differs (%d, %v)", seed, i, offset, offset+length, n, err)
			}
		}
	}
	all := aligned(size)
	if _, err := unix.Pread(fd, all, 0); err != nil || !bytes.Equal(all, model) {
		t.Errorf("seed %d: the content differs at the end (%v)", seed, err)
	}
	unix.Close(fd)
	lun := r.store.Open(targetIQN)
	if lun.Unmaps.Load() == 0 || lun.Zeroes.Load() == 0 {
		t.Errorf("%d unmaps and %d zeroings: both kinds have to be tried", lun.Unmaps.Load(), lun.Zeroes.Load())
	}
	r.detach()
}
