package vdisk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func fillPage(b byte, pages int) []byte { return bytes.Repeat([]byte{b}, pages*PageSize) }

func openFile(t *testing.T, size int64) *Real {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	var last int64
	if err := Prewrite(context.Background(), path, size, func(done, total int64) { last = done }); err != nil {
		t.Fatal(err)
	}
	if last != size {
		t.Errorf("progress ended at %d of %d", last, size)
	}
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDisksGiveBackWhatWasWritten(t *testing.T) {
	for name, d := range map[string]Disk{"file": openFile(t, 1<<20), "simulated": NewSim("sim", 1<<20), "faulty": NewFaulty(NewSim("sim", 1<<20))} {
		t.Run(name, func(t *testing.T) {
			// An odd address: direct I/O needs a copy.
			odd := make([]byte, 3*PageSize+1)[1:]
			copy(odd, fillPage(7, 3))
			if err := d.WriteAt(odd, 8*PageSize); err != nil {
				t.Fatal(err)
			}
			if err := d.WriteDurable(fillPage(8, 1), 9*PageSize); err != nil {
				t.Fatal(err)
			}
			if err := d.Flush(); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 4*PageSize+3)[3:]
			got = got[:4*PageSize]
			if err := d.ReadAt(got, 8*PageSize); err != nil {
				t.Fatal(err)
			}
			want := append(append(append(fillPage(7, 1), fillPage(8, 1)...), fillPage(7, 1)...), fillPage(0, 1)...)
			if !bytes.Equal(got, want) {
				t.Error("not what was written")
			}
			for _, bad := range []int64{-PageSize, 100, 1 << 20} {
				if d.WriteAt(fillPage(1, 1), bad) == nil {
					t.Errorf("a write at %d is accepted", bad)
				}
			}
		})
	}
}

func TestABatchWritesEveryRequest(t *testing.T) {
	d := openFile(t, 8<<20)
	buf := Aligned(8 << 20)
	var reqs []Req
	for i := range 500 {
		p := buf[i*2*PageSize : (i*2+1+i%2)*PageSize]
		for k := range p {
			p[k] = byte(i) + 1
		}
		reqs = append(reqs, Req{Off: int64((i * 2 * 37 % 1000) * PageSize), Data: p})
	}
	last := 0
	progress := func(ended int) {
		if ended < last || ended > len(reqs) {
			t.Errorf("%d have ended, after %d", ended, last)
		}
		last = ended
	}
	if err := d.WriteBatch(reqs, 16, progress); err != nil {
		t.Fatal(err)
	}
	if last < len(reqs)-16 {
		t.Errorf("only %d of %d were told to have ended", last, len(reqs))
	}
	got := Aligned(2 * PageSize)
	for i, q := range reqs {
		if err := d.ReadAt(got[:len(q.Data)], q.Off); err != nil || !bytes.Equal(got[:len(q.Data)], q.Data) {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if err := d.WriteBatch([]Req{{Off: 8 << 20, Data: buf[:PageSize]}}, 4, func(int) {}); err == nil {
		t.Error("a write beyond the end is accepted")
	}
	ro, err := OpenReadOnly(d.String())
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if err := ro.WriteBatch(reqs[:40], 4, func(int) {}); err == nil {
		t.Error("writes to a disk opened for reading are accepted")
	}
	if err := ro.WriteAt(buf[:PageSize], 0); err == nil {
		t.Error("a write to a disk opened for reading is accepted")
	}
}

func TestAPowerCutKeepsFlushedAndAnyPartOfUnflushed(t *testing.T) {
	torn, kept, lost := 0, 0, 0
	for seed := range uint64(64) {
		d := NewSim("sim", 1<<20)
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(d.WriteAt(fillPage(1, 4), 0))
		must(d.Flush())
		must(d.WriteAt(fillPage(2, 1), 0))
		must(d.WriteDurable(fillPage(3, 1), PageSize))
		d.Crash(seed)
		if err := d.ReadAt(make([]byte, PageSize), 0); !errors.Is(err, ErrPowerCut) {
			t.Fatalf("read after the cut: %v", err)
		}
		p := make([]byte, 4*PageSize)
		must(d.Clone().ReadAt(p, 0))
		if !bytes.Equal(p[PageSize:2*PageSize], fillPage(3, 1)) || !bytes.Equal(p[2*PageSize:], fillPage(1, 2)) {
			t.Fatal("what was durable is gone")
		}
		switch n := bytes.Count(p[:PageSize], []byte{2}); n {
		case 0:
			lost++
		case PageSize:
			kept++
		default:
			torn++
		}
	}
	if torn == 0 || kept == 0 || lost == 0 {
		t.Errorf("torn %d, kept %d, lost %d: every outcome must be tried", torn, kept, lost)
	}
}

func TestAFaultyDiskFailsLosesAndRots(t *testing.T) {
	sim := NewSim("sim", 1<<20)
	d := NewFaulty(sim)
	d.SetRule(FailWith(OpWrite, unix.EIO))
	if err := d.WriteAt(fillPage(1, 1), 0); !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	d.SetRule(FailWith(OpFlush, unix.EIO))
	if err := errors.Join(d.Flush(), d.WriteDurable(fillPage(1, 1), 0)); !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	d.SetRule(func(op Op, _, _ int64) Fault { return Fault{Lose: op == OpWrite, FlipBit: map[Op]int{OpRead: 9}[op]} })
	if err := d.WriteAt(fillPage(9, 1), PageSize); err != nil {
		t.Error(err)
	}
	p := make([]byte, PageSize)
	if err := d.ReadAt(p, PageSize); err != nil || p[0] != 0 || p[1] != 1 {
		t.Errorf("lost write and flipped bit: % x, %v", p[:2], err)
	}
}

func TestPrewriteLeavesAFinishedFileAndRemovesAnUnfinishedOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	ctx, cancel := context.WithCancel(context.Background())
	err := Prewrite(ctx, path, 16<<20, func(done, total int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("an unfinished file is left: %v", err)
	}
	if err := os.WriteFile(path, fillPage(5, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Prewrite(context.Background(), path, 2*PageSize, nil); err != nil {
		t.Error(err)
	}
	if p, _ := os.ReadFile(path); !bytes.Equal(p, fillPage(5, 2)) {
		t.Error("a finished file was written over")
	}
	if err := Prewrite(context.Background(), path, 3*PageSize, nil); err == nil {
		t.Error("a file of another size was accepted")
	}
}

func TestOpenRefusesWhatIsNoDisk(t *testing.T) {
	for _, path := range []string{t.TempDir(), "/dev/null", filepath.Join(t.TempDir(), "none")} {
		if d, err := Open(path); err == nil {
			d.Close()
			t.Errorf("%s is accepted", path)
		}
	}
}
