package vdisk

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Req is one write of a batch.
type Req struct {
	Off  int64
	Data []byte
}

// Batcher is a Disk that can take many scattered writes with few system calls.
type Batcher interface {
	// WriteBatch is WriteAt for each request, up to depth of them with the disk at a time. The first error is returned when all
	// have ended; which of them arrived is then not known.
	WriteBatch(reqs []Req, depth int) error
}

// iocb and ioEvent are struct iocb and struct io_event of linux/aio_abi.h, on little-endian machines.
type iocb struct {
	data    uint64
	key     uint32
	rwFlags uint32
	opcode  uint16
	prio    int16
	fd      uint32
	buf     uint64
	bytes   uint64
	off     int64
	_       uint64
	flags2  uint32 // aio_flags
	resfd   uint32
}

type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

const (
	aioWrite = 1 // IOCB_CMD_PWRITE
	aioDepth = 128
)

// aio is a context of the kernel's asynchronous I/O, used by one batch at a time.
type aio struct {
	mu     sync.Mutex
	ctx    uintptr
	broken bool // the kernel or a sandbox does not offer it
	cbs    [aioDepth]iocb
	ptrs   [aioDepth]*iocb
	events [aioDepth]ioEvent
	free   []int32
}

// setup makes the context at first use.
func (a *aio) setup() bool {
	if a.ctx == 0 && !a.broken {
		if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, aioDepth, uintptr(unsafe.Pointer(&a.ctx)), 0); e != 0 {
			a.broken = true
		}
	}
	return !a.broken
}

func (a *aio) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ctx != 0 {
		unix.Syscall(unix.SYS_IO_DESTROY, a.ctx, 0, 0)
		a.ctx = 0
	}
	a.broken = true
}

// WriteBatch implements Batcher. Without asynchronous I/O, or with the page cache in between where that would block, it writes
// one after the other.
func (r *Real) WriteBatch(reqs []Req, depth int) error {
	a := &r.aio
	a.mu.Lock()
	defer a.mu.Unlock()
	if !r.direct || !a.setup() {
		return r.writeEach(reqs)
	}
	for _, q := range reqs {
		if err := r.check(q.Data, q.Off); err != nil {
			return err
		}
		if !IsAligned(q.Data) {
			return r.writeEach(reqs)
		}
	}
	depth = max(1, min(depth, aioDepth))
	a.free = a.free[:0]
	for i := range depth {
		a.free = append(a.free, int32(i))
	}
	fd := uint32(r.file.Fd())
	var first error
	next, flying := 0, 0
	for next < len(reqs) && first == nil || flying > 0 {
		n := 0
		for first == nil && next < len(reqs) && len(a.free) > 0 {
			k := a.free[len(a.free)-1]
			a.free = a.free[:len(a.free)-1]
			q := &reqs[next]
			a.cbs[k] = iocb{
				data: uint64(next)<<8 | uint64(k), opcode: aioWrite, fd: fd,
				buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(q.Data)))), bytes: uint64(len(q.Data)), off: q.Off,
			}
			a.ptrs[n] = &a.cbs[k]
			n++
			next++
		}
		for at := 0; at < n; {
			m, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, a.ctx, uintptr(n-at), uintptr(unsafe.Pointer(&a.ptrs[at])))
			switch {
			case e == unix.EINTR || e == unix.EAGAIN:
			case e != 0:
				if first == nil {
					first = fmt.Errorf("submit %d writes to %s: %w", n-at, r.path, e)
				}
				n = at
			default:
				at += int(m)
				flying += int(m)
			}
		}
		if flying == 0 {
			continue
		}
		// Wait for a part, so that the next submission is a batch again.
		least := max(1, min(flying, depth/2))
		if next >= len(reqs) || first != nil {
			least = flying
		}
		m, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, a.ctx, uintptr(least), aioDepth, uintptr(unsafe.Pointer(&a.events)), 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			// Writes may still be under way into memory we are about to give back: there is no way on.
			panic(fmt.Sprintf("vdisk: io_getevents: %v", e))
		}
		for _, ev := range a.events[:m] {
			flying--
			a.free = append(a.free, int32(ev.data&0xff))
			if err := r.outcome(&reqs[ev.data>>8], ev.res); err != nil && first == nil {
				first = err
			}
		}
	}
	runtime.KeepAlive(reqs)
	return first
}

// outcome judges one completed write.
func (r *Real) outcome(q *Req, res int64) error {
	var err error
	switch {
	case res == int64(len(q.Data)):
		return nil
	case res >= 0:
		err = io.ErrShortWrite
	default:
		err = unix.Errno(-res)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
	}
	return fmt.Errorf("write %d bytes at %d of %s: %w", len(q.Data), q.Off, r.path, err)
}

func (r *Real) writeEach(reqs []Req) error {
	for _, q := range reqs {
		if err := r.WriteAt(q.Data, q.Off); err != nil {
			return err
		}
	}
	return nil
}
