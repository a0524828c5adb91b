package vdisk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Async is a Disk that has many reads under way without a goroutine waiting for each. A goroutine that waits in a system call keeps a
// processor of the Go scheduler until that is taken from it, 20 µs later, or up to 10 ms where little else happens: with some dozen of them most of
// the time is spent on that, and with one for each processor nothing else in the process goes on meanwhile.
type Async interface {
	// TryRead takes a read that the next Kick begins. It never waits for the disk: a read that would have to ends with ErrWouldBlock, and false
	// says that there are too many already. Data must be whole pages at a page boundary.
	TryRead(r *Request) bool
	// Kick begins what TryRead has taken, many reads with one system call.
	Kick()
	// ReadAll performs reads at the same time and returns when all have ended, with the first error. It may wait for the disk already while
	// it begins them.
	ReadAll(rs []*Request) error
}

// ErrWouldBlock is the outcome of a read that could not be begun without waiting; ReadAll can do it.
var ErrWouldBlock = errors.New("the read would have to wait")

// Request is one request to a Disk: of callers always a read. It and Data are the disk's from TryRead until Owner is told.
type Request struct {
	Off  int64
	Data []byte
	// Owner is told of the end; not of requests of ReadAll.
	Owner ReadsEnded
	// User is the caller's.
	User any
	Err  error

	all *waitAll
	how how
}

// how a request is done: the operation, on which descriptor, and whether it may wait to be begun.
type how uint8

const (
	tryRead how = iota
	waitRead
	waitWrite
	waitDurable
	waitFlush
)

// ReadsEnded is told of reads that have ended together, with Err set. It is called from the disk's goroutine, or from within Kick, and must not
// block nor keep the slice.
type ReadsEnded interface{ ReadsEnded(rs []*Request) }

// waitAll counts down the requests of one caller that waits for them.
type waitAll struct {
	flying int // with the disk; guarded by requests.mu
	mu     sync.Mutex
	left   int
	done   chan struct{}
}

func (a *waitAll) ended() {
	a.mu.Lock()
	a.left--
	last := a.left == 0
	a.mu.Unlock()
	if last {
		a.done <- struct{}{}
	}
}

var waitAllPool = sync.Pool{New: func() any { return &waitAll{done: make(chan struct{}, 1)} }}

// iocb and ioEvent are struct iocb and struct io_event of linux/aio_abi.h, on little-endian machines.
type iocb struct {
	data    uint64
	_       uint32 // key
	rwFlags uint32
	opcode  uint16
	_       int16 // priority
	fd      uint32
	buf     uint64
	bytes   uint64
	off     int64
	_       uint64
	flags2  uint32 // aio_flags
	resfd   uint32
}

type ioEvent struct {
	data, _ uint64
	res, _  int64
}

const (
	requestDepth  = 256 // with the disk at a time
	readsWaiting  = 1024
	submitMax     = 64
	aioRead       = 0 // IOCB_CMD_PREAD
	aioWrite      = 1 // IOCB_CMD_PWRITE
	aioFlush      = 3 // IOCB_CMD_FDSYNC
	aioEventFD    = 1 // IOCB_FLAG_RESFD
	rwfNoWait     = 8 // RWF_NOWAIT
	eventNonblock = unix.EFD_NONBLOCK | unix.EFD_CLOEXEC
)

// requests performs the requests of a Real by the kernel's asynchronous I/O. Its goroutine sleeps in the runtime's poller until an eventfd tells
// that some have ended.
type requests struct {
	r       *Real
	ctx     uintptr
	event   *os.File
	eventFD uint32
	reaper  sync.WaitGroup

	mu     sync.Mutex
	idle   sync.Cond // flying has become 0
	room   sync.Cond // a slot was given back
	slots  [requestDepth]*Request
	free   []int32
	held   []*Request
	flying int
	closed bool
}

// submission is what one io_submit hands over.
type submission struct {
	n    int
	cbs  [submitMax]iocb
	ptrs [submitMax]*iocb
}

var submissionPool = sync.Pool{New: func() any { return new(submission) }}

// Async returns the disk's asynchronous reads, or nil where the kernel does not offer them without waiting: through the page cache, on some
// filesystems, in some sandboxes. They end with Close, which waits for what is under way.
func (r *Real) Async() Async {
	r.asyncOnce.Do(func() {
		if a := newRequests(r); a != nil {
			r.async = a
		}
	})
	if r.async == nil {
		return nil
	}
	return r.async
}

func newRequests(r *Real) *requests {
	if !r.direct {
		return nil
	}
	a := &requests{r: r}
	a.idle.L, a.room.L = &a.mu, &a.mu
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, requestDepth, uintptr(unsafe.Pointer(&a.ctx)), 0); e != 0 {
		return nil
	}
	if !a.probe() {
		_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, a.ctx, 0, 0)
		return nil
	}
	fd, err := unix.Eventfd(0, eventNonblock)
	if err != nil {
		_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, a.ctx, 0, 0)
		return nil
	}
	a.event, a.eventFD = os.NewFile(uintptr(fd), "eventfd"), uint32(fd)
	for i := range int32(requestDepth) {
		a.free = append(a.free, requestDepth-1-i)
	}
	a.reaper.Go(a.reap)
	return a
}

// probe reads the first page without waiting, to see whether that is possible here at all.
func (a *requests) probe() bool {
	page := Aligned(PageSize)
	s := new(submission)
	a.fill(s, &Request{Data: page}, 0)
	s.cbs[0].flags2, s.cbs[0].resfd = 0, 0
	if n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, a.ctx, 1, uintptr(unsafe.Pointer(&s.ptrs[0]))); e != 0 || n != 1 {
		return false
	}
	var ev [1]ioEvent
	for {
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, a.ctx, 1, 1, uintptr(unsafe.Pointer(&ev)), 0, 0)
		if e == unix.EINTR {
			continue
		}
		runtime.KeepAlive(page)
		return e == 0 && n == 1 && (ev[0].res == PageSize || ev[0].res == -int64(unix.EAGAIN))
	}
}

// fill appends a request to a submission.
func (a *requests) fill(s *submission, r *Request, slot int32) {
	cb := &s.cbs[s.n]
	file, op, rw := a.r.file, uint16(aioRead), uint32(0)
	switch r.how {
	case tryRead:
		rw = rwfNoWait
	case waitWrite:
		op = aioWrite
	case waitDurable:
		op, file = aioWrite, a.r.dsync
	case waitFlush:
		op = aioFlush
	}
	*cb = iocb{
		data: uint64(slot), rwFlags: rw, opcode: op, fd: uint32(file.Fd()),
		buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.Data)))), bytes: uint64(len(r.Data)), off: r.Off,
		flags2: aioEventFD, resfd: a.eventFD,
	}
	s.ptrs[s.n] = cb
	s.n++
}

// TryRead implements Async.
func (a *requests) TryRead(r *Request) bool {
	if a.r.check(r.Data, r.Off) != nil || !IsAligned(r.Data) {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || len(a.held) >= readsWaiting {
		return false
	}
	r.Err, r.all, r.how = nil, nil, tryRead
	a.held = append(a.held, r)
	return true
}

// Kick implements Async.
func (a *requests) Kick() {
	for {
		a.mu.Lock()
		n := min(len(a.held), len(a.free), submitMax)
		if n == 0 {
			a.mu.Unlock()
			return
		}
		s := submissionPool.Get().(*submission)
		s.n = 0
		for _, r := range a.held[:n] {
			a.fill(s, r, a.take(r))
		}
		rest := copy(a.held, a.held[n:])
		clear(a.held[rest:])
		a.held = a.held[:rest]
		a.mu.Unlock()
		a.submit(s)
	}
}

// take gives a read a slot, which must be there; the caller holds mu.
func (a *requests) take(r *Request) int32 {
	k := a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	a.slots[k] = r
	a.flying++
	return k
}

// ReadAll implements Async.
func (a *requests) ReadAll(rs []*Request) error { return a.doAll(rs, waitRead, requestDepth, nil) }

// doAll performs requests, up to depth of them with the disk at a time, and waits for all. progress as in Batcher; nil: nobody asks.
func (a *requests) doAll(rs []*Request, h how, depth int, progress func(ended int)) error {
	if len(rs) == 0 {
		return nil
	}
	w := waitAllPool.Get().(*waitAll)
	w.left = len(rs)
	ended := 0
	for next := 0; next < len(rs); {
		if progress != nil {
			progress(ended)
		}
		s := submissionPool.Get().(*submission)
		s.n = 0
		a.mu.Lock()
		if w.flying >= depth {
			// Wait for a part, so that the next submission is a batch again.
			for w.flying > depth/2 {
				a.room.Wait()
			}
		}
		ended = next - w.flying
		for len(a.free) == 0 && !a.closed {
			a.room.Wait()
		}
		for next < len(rs) && s.n < submitMax && w.flying < depth && (len(a.free) > 0 || a.closed) {
			r := rs[next]
			next++
			r.all, r.how = w, h
			if r.Err = a.r.check(r.Data, r.Off); r.Err == nil && !IsAligned(r.Data) {
				r.Err = fmt.Errorf("%w: buffer for offset %d of %s is not at a page boundary", unix.EINVAL, r.Off, a.r.path)
			}
			if a.closed {
				r.Err = os.ErrClosed
			}
			if r.Err != nil {
				w.ended()
				continue
			}
			w.flying++
			a.fill(s, r, a.take(r))
		}
		a.mu.Unlock()
		a.submit(s)
	}
	<-w.done
	waitAllPool.Put(w)
	for _, r := range rs {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// submit hands reads with slots to the kernel; one it does not take ends with the reason.
func (a *requests) submit(s *submission) {
	for at := 0; at < s.n; {
		m, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, a.ctx, uintptr(s.n-at), uintptr(unsafe.Pointer(&s.ptrs[at])))
		switch {
		case e == unix.EINTR:
		case e != 0:
			var one [1]*Request
			a.mu.Lock()
			one[0] = a.endLocked(&ioEvent{data: s.cbs[at].data, res: -int64(e)})
			a.mu.Unlock()
			tell(one[:])
			at++
		default:
			at += int(m)
		}
	}
	clear(s.ptrs[:s.n])
	submissionPool.Put(s)
}

// endLocked takes a read that has ended out of the books.
func (a *requests) endLocked(ev *ioEvent) *Request {
	k := int32(ev.data)
	r := a.slots[k]
	a.slots[k] = nil
	a.free = append(a.free, k)
	if r.all != nil {
		r.all.flying--
	}
	a.room.Broadcast()
	if a.flying--; a.flying == 0 {
		a.idle.Broadcast()
	}
	switch {
	case ev.res == int64(len(r.Data)):
	case r.how == tryRead && (ev.res == -int64(unix.EAGAIN) || ev.res == -int64(unix.EOPNOTSUPP)):
		r.Err = ErrWouldBlock
	case r.how == waitFlush:
		r.Err = fmt.Errorf("flush %s: %w", a.r.path, unix.Errno(-ev.res))
	case r.how >= waitWrite:
		r.Err = a.r.outcome(&Req{Off: r.Off, Data: r.Data}, ev.res)
	case ev.res >= 0:
		r.Err = fmt.Errorf("read %d bytes at %d of %s: %w", len(r.Data), r.Off, a.r.path, io.ErrUnexpectedEOF)
	default:
		r.Err = fmt.Errorf("read %d bytes at %d of %s: %w", len(r.Data), r.Off, a.r.path, unix.Errno(-ev.res))
	}
	return r
}

// reap tells of what has ended, until Close.
func (a *requests) reap() {
	var events [submitMax]ioEvent
	var ended []*Request
	var zero unix.Timespec
	var count [8]byte
	for {
		if _, err := a.event.Read(count[:]); err != nil {
			return
		}
		for more := true; more; {
			n, _, e := unix.RawSyscall6(unix.SYS_IO_GETEVENTS, a.ctx, 0, submitMax, uintptr(unsafe.Pointer(&events)), uintptr(unsafe.Pointer(&zero)), 0)
			if e == unix.EINTR {
				continue
			}
			if e != 0 {
				// The context is ours and the arguments are constant: nothing that has ended could be told of any more.
				panic(fmt.Sprintf("vdisk: io_getevents: %v", e))
			}
			more = n == submitMax
			ended = ended[:0]
			a.mu.Lock()
			for i := range events[:n] {
				ended = append(ended, a.endLocked(&events[i]))
			}
			a.mu.Unlock()
			a.Kick()
			tell(ended)
			clear(ended)
		}
	}
}

// tell reports ended reads, those with the same owner that stand together with one call.
func tell(rs []*Request) {
	for i := 0; i < len(rs); {
		if w := rs[i].all; w != nil {
			w.ended()
			i++
			continue
		}
		j := i + 1
		for j < len(rs) && rs[j].all == nil && rs[j].Owner == rs[i].Owner {
			j++
		}
		rs[i].Owner.ReadsEnded(rs[i:j])
		i = j
	}
}

// one performs a single request and waits for it.
func (a *requests) one(p []byte, off int64, h how) error {
	r := requestPool.Get().(*Request)
	r.Off, r.Data, r.Err = off, p, nil
	all := [1]*Request{r}
	err := a.doAll(all[:], h, 1, nil)
	*r = Request{}
	requestPool.Put(r)
	return err
}

var requestPool = sync.Pool{New: func() any { return new(Request) }}

// close waits for the requests under way and ends the goroutine.
func (a *requests) close() {
	a.Kick()
	a.mu.Lock()
	for a.flying > 0 || len(a.held) > 0 {
		a.idle.Wait()
	}
	a.closed = true
	a.room.Broadcast()
	a.mu.Unlock()
	a.event.Close()
	a.reaper.Wait()
	_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, a.ctx, 0, 0)
}
