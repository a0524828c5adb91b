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
// processor of the Go scheduler until that is taken from it, 20 µs later and more: with some dozen of them most of the time is spent on that.
type Async interface {
	// TryRead takes a read that the next Kick begins. It never waits for the disk: a read that would have to ends with ErrWouldBlock, and false
	// says that there are too many already. Data must be whole pages at a page boundary.
	TryRead(r *Read) bool
	// Kick begins what TryRead has taken, many reads with one system call.
	Kick()
	// ReadAll performs reads at the same time and returns when all have ended, with the first error. It may wait for the disk already while
	// it begins them.
	ReadAll(rs []*Read) error
}

// ErrWouldBlock is the outcome of a read that could not be begun without waiting; ReadAll can do it.
var ErrWouldBlock = errors.New("the read would have to wait")

// Read is one read of a Disk. It and Data are the disk's from TryRead until Owner is told.
type Read struct {
	Off  int64
	Data []byte
	// Owner is told of the end; not of reads of ReadAll.
	Owner ReadsEnded
	// User is the caller's.
	User any
	Err  error

	all *readAll
}

// ReadsEnded is told of reads that have ended together, with Err set. It is called from the disk's goroutine, or from within Kick, and must not
// block nor keep the slice.
type ReadsEnded interface{ ReadsEnded(rs []*Read) }

// readAll counts down the reads of one ReadAll.
type readAll struct {
	mu   sync.Mutex
	left int
	done chan struct{}
}

func (a *readAll) ended() {
	a.mu.Lock()
	a.left--
	last := a.left == 0
	a.mu.Unlock()
	if last {
		a.done <- struct{}{}
	}
}

var readAllPool = sync.Pool{New: func() any { return &readAll{done: make(chan struct{}, 1)} }}

const (
	readDepth     = 256 // with the disk at a time
	readsWaiting  = 1024
	submitMax     = 64
	aioRead       = 0 // IOCB_CMD_PREAD
	aioEventFD    = 1 // IOCB_FLAG_RESFD
	rwfNoWait     = 8 // RWF_NOWAIT
	eventNonblock = unix.EFD_NONBLOCK | unix.EFD_CLOEXEC
)

// reads performs the reads of a Real by the kernel's asynchronous I/O. Its goroutine sleeps in the runtime's poller until an eventfd tells that
// some have ended.
type reads struct {
	r       *Real
	ctx     uintptr
	event   *os.File
	eventFD uint32
	reaper  sync.WaitGroup

	mu     sync.Mutex
	idle   sync.Cond // flying has become 0
	room   sync.Cond // a slot was given back
	slots  [readDepth]*Read
	free   []int32
	held   []*Read
	flying int
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
		if a := newReads(r); a != nil {
			r.async = a
		}
	})
	if r.async == nil {
		return nil
	}
	return r.async
}

func newReads(r *Real) *reads {
	if !r.direct {
		return nil
	}
	a := &reads{r: r}
	a.idle.L, a.room.L = &a.mu, &a.mu
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, readDepth, uintptr(unsafe.Pointer(&a.ctx)), 0); e != 0 {
		return nil
	}
	if !a.probe() {
		unix.Syscall(unix.SYS_IO_DESTROY, a.ctx, 0, 0)
		return nil
	}
	fd, err := unix.Eventfd(0, eventNonblock)
	if err != nil {
		unix.Syscall(unix.SYS_IO_DESTROY, a.ctx, 0, 0)
		return nil
	}
	a.event, a.eventFD = os.NewFile(uintptr(fd), "eventfd"), uint32(fd)
	for i := range int32(readDepth) {
		a.free = append(a.free, readDepth-1-i)
	}
	a.reaper.Go(a.reap)
	return a
}

// probe reads the first page without waiting, to see whether that is possible here at all.
func (a *reads) probe() bool {
	page := Aligned(PageSize)
	s := new(submission)
	a.fill(s, &Read{Data: page}, 0, rwfNoWait)
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

// fill appends a read to a submission.
func (a *reads) fill(s *submission, r *Read, slot int32, rw uint32) {
	cb := &s.cbs[s.n]
	*cb = iocb{
		data: uint64(slot), rwFlags: rw, opcode: aioRead, fd: uint32(a.r.file.Fd()),
		buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.Data)))), bytes: uint64(len(r.Data)), off: r.Off,
		flags2: aioEventFD, resfd: a.eventFD,
	}
	s.ptrs[s.n] = cb
	s.n++
}

// TryRead implements Async.
func (a *reads) TryRead(r *Read) bool {
	if a.r.check(r.Data, r.Off) != nil || !IsAligned(r.Data) {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.held) >= readsWaiting {
		return false
	}
	r.Err, r.all = nil, nil
	a.held = append(a.held, r)
	return true
}

// Kick implements Async.
func (a *reads) Kick() {
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
			a.fill(s, r, a.take(r), rwfNoWait)
		}
		rest := copy(a.held, a.held[n:])
		clear(a.held[rest:])
		a.held = a.held[:rest]
		a.mu.Unlock()
		a.submit(s)
	}
}

// take gives a read a slot, which must be there; the caller holds mu.
func (a *reads) take(r *Read) int32 {
	k := a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	a.slots[k] = r
	a.flying++
	return k
}

// ReadAll implements Async.
func (a *reads) ReadAll(rs []*Read) error {
	if len(rs) == 0 {
		return nil
	}
	w := readAllPool.Get().(*readAll)
	w.left = len(rs)
	for next := 0; next < len(rs); {
		s := submissionPool.Get().(*submission)
		s.n = 0
		a.mu.Lock()
		for len(a.free) == 0 {
			a.room.Wait()
		}
		for next < len(rs) && s.n < submitMax && len(a.free) > 0 {
			r := rs[next]
			next++
			r.all = w
			if r.Err = a.r.check(r.Data, r.Off); r.Err == nil && !IsAligned(r.Data) {
				r.Err = fmt.Errorf("read at %d of %s: buffer is not at a page boundary", r.Off, a.r.path)
			}
			if r.Err != nil {
				w.ended()
				continue
			}
			a.fill(s, r, a.take(r), 0)
		}
		a.mu.Unlock()
		a.submit(s)
	}
	<-w.done
	readAllPool.Put(w)
	for _, r := range rs {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// submit hands reads with slots to the kernel; one it does not take ends with the reason.
func (a *reads) submit(s *submission) {
	for at := 0; at < s.n; {
		m, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, a.ctx, uintptr(s.n-at), uintptr(unsafe.Pointer(&s.ptrs[at])))
		switch {
		case e == unix.EINTR:
		case e != 0:
			var one [1]*Read
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
func (a *reads) endLocked(ev *ioEvent) *Read {
	k := int32(ev.data)
	r := a.slots[k]
	a.slots[k] = nil
	a.free = append(a.free, k)
	a.room.Signal()
	if a.flying--; a.flying == 0 {
		a.idle.Broadcast()
	}
	switch {
	case ev.res == int64(len(r.Data)):
	case ev.res == -int64(unix.EAGAIN) || ev.res == -int64(unix.EOPNOTSUPP):
		r.Err = ErrWouldBlock
	case ev.res >= 0:
		r.Err = fmt.Errorf("read %d bytes at %d of %s: %w", len(r.Data), r.Off, a.r.path, io.ErrUnexpectedEOF)
	default:
		r.Err = fmt.Errorf("read %d bytes at %d of %s: %w", len(r.Data), r.Off, a.r.path, unix.Errno(-ev.res))
	}
	return r
}

// reap tells of what has ended, until Close.
func (a *reads) reap() {
	var events [submitMax]ioEvent
	var ended []*Read
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
func tell(rs []*Read) {
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

// close waits for the reads under way and ends the goroutine.
func (a *reads) close() {
	a.Kick()
	a.mu.Lock()
	for a.flying > 0 || len(a.held) > 0 {
		a.idle.Wait()
	}
	a.mu.Unlock()
	a.event.Close()
	a.reaper.Wait()
	unix.Syscall(unix.SYS_IO_DESTROY, a.ctx, 0, 0)
}
