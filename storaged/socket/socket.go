// Package socket writes to a connection what its socket takes at once, so that a short answer can be sent by the goroutine that has it, without
// the way through one that may wait.
package socket

import (
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectorMax is how many pieces one system call takes (UIO_MAXIOV).
const vectorMax = 1024

// Writer writes to one connection without waiting. Not safe for concurrent use, nor beside another writer of the same connection.
type Writer struct {
	raw   syscall.RawConn
	iov   []unix.Iovec
	n     int
	errno unix.Errno
	call  func(fd uintptr) bool
}

// Init prepares the Writer for a connection. Without a socket of its own (TLS, a pipe) it never takes anything.
func (w *Writer) Init(c net.Conn) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return
	}
	w.raw = raw
	// Made once: a function literal in Try would be an allocation for each write.
	w.call = func(fd uintptr) bool {
		for {
			n, _, e := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(unsafe.SliceData(w.iov))), uintptr(len(w.iov)))
			if e == unix.EINTR {
				continue
			}
			w.n, w.errno = int(n), e
			return true
		}
	}
}

// Able reports whether Try can write at all.
func (w *Writer) Able() bool { return w.raw != nil }

// Try writes what the socket takes now and consumes it from v, as net.Buffers.WriteTo does. It reports whether that was everything. An error is
// not told: whoever writes the rest meets it again.
func (w *Writer) Try(v *net.Buffers) bool {
	if w.raw == nil || len(*v) > vectorMax {
		return false
	}
	w.iov = w.iov[:0]
	total := 0
	for _, p := range *v {
		if len(p) == 0 {
			continue
		}
		x := unix.Iovec{Base: unsafe.SliceData(p)}
		x.SetLen(len(p))
		w.iov = append(w.iov, x)
		total += len(p)
	}
	if total == 0 {
		*v = nil
		return true
	}
	w.n, w.errno = 0, 0
	err := w.raw.Write(w.call)
	clear(w.iov)
	if err != nil || w.errno != 0 {
		return false
	}
	Consume(v, w.n)
	return w.n == total
}

// Consume takes the first n bytes off v.
func Consume(v *net.Buffers, n int) {
	for len(*v) > 0 {
		if first := len((*v)[0]); first > n {
			(*v)[0] = (*v)[0][n:]
			return
		} else {
			n -= first
		}
		(*v)[0] = nil
		*v = (*v)[1:]
	}
}
