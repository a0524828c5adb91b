// Command verifier is the workload of the end-to-end tests: it writes numbered records to a file or block device, each made
// durable before the next, says on standard output up to which number, and checks the whole history when it starts again.
//
// Record n lies in slot n mod slots, 4096 bytes: magic, n, checksum, and bytes made of n. So after any interruption the newest records must be
// an unbroken row: a lost acknowledged write is a gap or an end below what was said.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
)

const (
	recordSize = 4096
	magic      = 0x494f4d5645524946
)

func main() {
	slots := flag.Int64("slots", 4096, "records kept; the newest ones")
	every := flag.Duration("every", 20*time.Millisecond, "pause between writes")
	flag.Usage = func() { fmt.Fprintln(os.Stderr, "usage: verifier [flags] write|check PATH") }
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, flag.Arg(0), flag.Arg(1), *slots, *every); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, verb, path string, slots int64, every time.Duration) error {
	mode := os.O_RDWR
	if verb == "check" {
		mode = os.O_RDONLY
	}
	if st, err := os.Stat(path); err == nil && st.Mode()&os.ModeDevice != 0 {
		mode |= syscall.O_DIRECT
	} else if verb == "write" {
		mode |= os.O_CREATE
	}
	f, err := os.OpenFile(path, mode, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	last, err := check(f, slots)
	if err != nil {
		return err
	}
	fmt.Printf("verified %d\n", last)
	if verb == "check" {
		return nil
	}
	return write(ctx, f, last, slots, every)
}

// check reads all slots and returns the number of the newest record.
func check(f *os.File, slots int64) (uint64, error) {
	seen := map[uint64]bool{}
	var last uint64
	p := aligned(recordSize)
	for slot := range slots {
		n, err := f.ReadAt(p, slot*recordSize)
		if errors.Is(err, io.EOF) && n < recordSize {
			break
		}
		if err != nil {
			return 0, err
		}
		if allZero(p) {
			continue
		}
		seq := binary.LittleEndian.Uint64(p[8:])
		want := aligned(recordSize)
		fill(want, seq)
		if int64(seq%uint64(slots)) != slot || string(want) != string(p) {
			return 0, fmt.Errorf("slot %d does not hold a good record (number %d)", slot, seq)
		}
		seen[seq] = true
		last = max(last, seq)
	}
	first := uint64(1)
	if last > uint64(slots) {
		first = last - uint64(slots) + 1
	}
	for seq := first; seq <= last; seq++ {
		if !seen[seq] {
			return 0, fmt.Errorf("record %d is missing, the newest is %d", seq, last)
		}
	}
	return last, nil
}

func write(ctx context.Context, f *os.File, last uint64, slots int64, every time.Duration) error {
	p := aligned(recordSize)
	said := time.Time{}
	for ctx.Err() == nil {
		last++
		fill(p, last)
		start := time.Now()
		if _, err := f.WriteAt(p, int64(last%uint64(slots))*recordSize); err != nil {
			return fmt.Errorf("write of record %d: %w", last, err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("flush of record %d: %w", last, err)
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			fmt.Printf("stall %d ms at %d\n", took.Milliseconds(), last)
		}
		if time.Since(said) > 100*time.Millisecond {
			said = time.Now()
			fmt.Printf("acked %d\n", last)
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
	fmt.Printf("acked %d\n", last)
	return nil
}

func fill(p []byte, seq uint64) {
	binary.LittleEndian.PutUint64(p[0:], magic)
	binary.LittleEndian.PutUint64(p[8:], seq)
	x := seq*0x9e3779b97f4a7c15 + 1
	for i := 24; i < recordSize; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p[i:], x)
	}
	binary.LittleEndian.PutUint64(p[16:], uint64(crc32.ChecksumIEEE(p[24:])))
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// aligned returns memory that O_DIRECT accepts.
func aligned(n int) []byte {
	raw := make([]byte, n+4096)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw))) & 4095)
	return raw[off : off+n]
}
