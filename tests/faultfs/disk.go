package faultfs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/iomesh/iomesh/attach/fusefile"
)

// Op is a kind of request.
type Op uint8

// Kinds of requests.
const (
	Read Op = iota + 1
	Write
	Flush
)

// Fault is what happens to a request. The zero value is none.
type Fault struct {
	// Delay and Wait keep the request for a time, and until a channel is closed.
	Delay time.Duration
	Wait  <-chan struct{}
	// Err fails it, with nothing done.
	Err error
	// FlipBit answers a read with one bit of its first byte flipped; the disk's content stays as it is.
	FlipBit bool
}

// Rule decides what happens to a request.
type Rule func(op Op, offsetBytes, lengthBytes int64) Fault

// Fail fails all requests of a kind.
func Fail(kind Op, err error) Rule {
	return func(op Op, _, _ int64) Fault {
		if op == kind {
			return Fault{Err: err}
		}
		return Fault{}
	}
}

// Slow delays every request.
func Slow(d time.Duration) Rule { return func(Op, int64, int64) Fault { return Fault{Delay: d} } }

// Hang keeps every request until the channel is closed.
func Hang(until <-chan struct{}) Rule {
	return func(Op, int64, int64) Fault { return Fault{Wait: until} }
}

// Disk is a mounted disk. Safe for concurrent use.
type Disk struct {
	backing *os.File
	file    *fusefile.File
	rule    atomic.Pointer[Rule]
	faults  atomic.Uint64
}

// Mount serves backing, a file of sizeBytes, as a file in dir, which must exist and be empty. The page cache stands behind it: what it costs is that of
// memory, so that only the rules make it slow.
func Mount(dir, backing string, sizeBytes int64, log *slog.Logger) (*Disk, error) {
	f, err := os.OpenFile(backing, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	d := &Disk{backing: f}
	if d.file, err = fusefile.Mount(backend{d}, fusefile.Options{Dir: dir, Source: "faultfs", SizeBytes: sizeBytes, Log: log}); err != nil {
		f.Close()
		return nil, fmt.Errorf("disk with faults: %w", err)
	}
	return d, nil
}

// Path is what to give to a daemon.
func (d *Disk) Path() string { return d.file.Path() }

// Set replaces the rule; nil: none.
func (d *Disk) Set(r Rule) {
	if r == nil {
		d.rule.Store(nil)
		return
	}
	d.rule.Store(&r)
}

// Faults counts the requests that a rule has changed.
func (d *Disk) Faults() uint64 { return d.faults.Load() }

// Close unmounts. The daemon must have let go of the disk.
func (d *Disk) Close() error {
	d.Set(nil)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := d.file.Unmount(ctx)
	if cerr := d.backing.Close(); err == nil {
		err = cerr
	}
	return err
}

// apply waits as the rule says.
func (d *Disk) apply(ctx context.Context, op Op, off, n int64) (Fault, error) {
	r := d.rule.Load()
	if r == nil {
		return Fault{}, nil
	}
	f := (*r)(op, off, n)
	if f == (Fault{}) {
		return f, nil
	}
	d.faults.Add(1)
	if f.Delay > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(f.Delay):
		}
	}
	if f.Wait != nil {
		select {
		case <-ctx.Done():
		case <-f.Wait:
		}
	}
	if ctx.Err() != nil {
		return f, syscall.EIO
	}
	return f, f.Err
}

// backend implements fusefile.Backend.
type backend struct{ d *Disk }

func (b backend) ReadAt(ctx context.Context, p []byte, off int64) error {
	f, err := b.d.apply(ctx, Read, off, int64(len(p)))
	if err != nil {
		return err
	}
	if _, err := b.d.backing.ReadAt(p, off); err != nil {
		return err
	}
	if f.FlipBit && len(p) > 0 {
		p[0] ^= 1
	}
	return nil
}

func (b backend) WriteAt(ctx context.Context, p []byte, off int64) error {
	if _, err := b.d.apply(ctx, Write, off, int64(len(p))); err != nil {
		return err
	}
	_, err := b.d.backing.WriteAt(p, off)
	return err
}

func (b backend) Flush(ctx context.Context) error {
	_, err := b.d.apply(ctx, Flush, 0, 0)
	return err
}

func (b backend) Unmap(ctx context.Context, off, n int64) error { return b.WriteZeroes(ctx, off, n) }

func (b backend) WriteZeroes(ctx context.Context, off, n int64) error {
	return b.WriteAt(ctx, make([]byte, n), off)
}
