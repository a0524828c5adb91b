package vdisk

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Op names a kind of request for a Fault.
type Op uint8

// The kinds of requests.
const (
	OpRead Op = iota
	OpWrite
	OpFlush // Flush, and the durability of WriteDurable
)

// Fault decides what happens to one request before it reaches the disk below.
type Fault struct {
	// Err fails the request; nothing reaches the disk.
	Err error
	// Lose lets a write return success without reaching the disk, or a flush without flushing.
	Lose bool
	// MoveBytes shifts the place of a write: a misdirected write.
	MoveBytes int64
	// FlipBit, if not 0, inverts bit FlipBit-1 of the data read or written.
	FlipBit int
	// Wait, if not nil, is waited for before the request goes on: a stall.
	Wait <-chan struct{}
}

// Faulty is a disk whose requests are subject to a rule.
type Faulty struct {
	Disk
	mu   sync.Mutex
	rule func(op Op, off, n int64) Fault
}

// NewFaulty wraps a disk; it behaves like it until SetRule.
func NewFaulty(d Disk) *Faulty { return &Faulty{Disk: d} }

// SetRule sets the rule; nil removes it. It is called with one request at a time.
func (f *Faulty) SetRule(rule func(op Op, off, n int64) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = rule
}

// FailWith returns a rule that fails all requests of one kind, as with unix.EIO.
func FailWith(op Op, err error) func(Op, int64, int64) Fault {
	return func(o Op, _, _ int64) Fault {
		if o == op {
			return Fault{Err: err}
		}
		return Fault{}
	}
}

// EIO is the error of a medium.
const EIO = unix.EIO

func (f *Faulty) fault(op Op, off, n int64) Fault {
	f.mu.Lock()
	var x Fault
	if f.rule != nil {
		x = f.rule(op, off, n)
	}
	f.mu.Unlock()
	if x.Wait != nil {
		<-x.Wait
	}
	return x
}

// ReadAt implements Disk.
func (f *Faulty) ReadAt(p []byte, off int64) error {
	x := f.fault(OpRead, off, int64(len(p)))
	if x.Err != nil {
		return x.Err
	}
	if err := f.Disk.ReadAt(p, off+x.MoveBytes); err != nil {
		return err
	}
	flip(p, x.FlipBit)
	return nil
}

// WriteAt implements Disk.
func (f *Faulty) WriteAt(p []byte, off int64) error {
	x := f.fault(OpWrite, off, int64(len(p)))
	switch {
	case x.Err != nil:
		return x.Err
	case x.Lose:
		return nil
	}
	return f.Disk.WriteAt(rotten(p, x.FlipBit), off+x.MoveBytes)
}

// WriteDurable implements Disk.
func (f *Faulty) WriteDurable(p []byte, off int64) error {
	x := f.fault(OpWrite, off, int64(len(p)))
	y := f.fault(OpFlush, off, int64(len(p)))
	switch {
	case x.Err != nil:
		return x.Err
	case x.Lose:
		return nil
	case y.Err != nil:
		// The data may have arrived or not.
		_ = f.Disk.WriteAt(p, off)
		return y.Err
	case y.Lose:
		return f.Disk.WriteAt(rotten(p, x.FlipBit), off+x.MoveBytes)
	}
	return f.Disk.WriteDurable(rotten(p, x.FlipBit), off+x.MoveBytes)
}

// Flush implements Disk.
func (f *Faulty) Flush() error {
	x := f.fault(OpFlush, 0, 0)
	switch {
	case x.Err != nil:
		return x.Err
	case x.Lose:
		return nil
	}
	return f.Disk.Flush()
}

func rotten(p []byte, bit int) []byte {
	if bit == 0 {
		return p
	}
	q := append([]byte(nil), p...)
	flip(q, bit)
	return q
}

func flip(p []byte, bit int) {
	if bit > 0 && len(p) > 0 {
		bit = (bit - 1) % (8 * len(p))
		p[bit/8] ^= 1 << (bit % 8)
	}
}
