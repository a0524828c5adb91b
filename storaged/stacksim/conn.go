package stacksim

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// conn is one end of a connection.
type conn struct {
	net           *network
	local, remote endpoint
	peer          *conn
	in            *pipe
	deadline      time.Time // of reads
	writeDeadline time.Time
	closed        bool
	reset         error
}

// resetLocked breaks a connection for both ends at once.
func (c *conn) resetLocked() {
	for _, x := range []*conn{c, c.peer} {
		x.reset = syscall.ECONNRESET
		x.in.wakeLocked()
	}
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	n := c.net
	for {
		n.mu.Lock()
		now := time.Now()
		wait := time.Duration(-1)
		switch {
		case c.closed:
			n.mu.Unlock()
			return 0, c.fail("read", net.ErrClosed)
		case c.reset != nil:
			n.mu.Unlock()
			return 0, c.fail("read", c.reset)
		case !c.deadline.IsZero() && !c.deadline.After(now):
			n.mu.Unlock()
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			n.mu.Unlock()
			return 0, nil
		}
		if !c.deadline.IsZero() {
			wait = c.deadline.Sub(now)
		}
		if len(c.in.queue) > 0 && !c.in.blocked() && !c.in.queue[0].held {
			s := &c.in.queue[0]
			if d := s.at.Sub(now); d > 0 {
				if wait < 0 || d < wait {
					wait = d
				}
			} else {
				got, err := c.takeLocked(b, s, now)
				n.mu.Unlock()
				return got, err
			}
		}
		n.mu.Unlock()
		if wait < 0 {
			<-c.in.wake
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-c.in.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// takeLocked fills b from what has arrived.
func (c *conn) takeLocked(b []byte, s *segment, now time.Time) (int, error) {
	if s.err != nil {
		c.in.wakeLocked() // for any other reader
		if errors.Is(s.err, io.EOF) {
			return 0, io.EOF
		}
		return 0, c.fail("read", s.err)
	}
	total := 0
	for total < len(b) && len(c.in.queue) > 0 {
		s := &c.in.queue[0]
		if s.err != nil || s.held || s.at.After(now) {
			break
		}
		k := copy(b[total:], s.data)
		total += k
		if s.data = s.data[k:]; len(s.data) == 0 {
			*s = segment{}
			c.in.queue = c.in.queue[1:]
		}
	}
	return total, nil
}

// Write implements net.Conn. It never waits.
func (c *conn) Write(b []byte) (int, error) {
	n := c.net
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case c.closed:
		return 0, c.fail("write", net.ErrClosed)
	case c.reset != nil:
		return 0, c.fail("write", c.reset)
	case c.brokenLocked():
		return 0, c.fail("write", syscall.EPIPE)
	case !c.writeDeadline.IsZero() && !c.writeDeadline.After(time.Now()):
		return 0, c.fail("write", os.ErrDeadlineExceeded)
	}
	if len(b) > 0 {
		c.peer.in.addLocked(segment{data: append([]byte(nil), b...)})
	}
	return len(b), nil
}

// brokenLocked reports whether this end has heard that the other one is gone.
func (c *conn) brokenLocked() bool {
	now := time.Now()
	for i := range c.in.queue {
		s := &c.in.queue[i]
		if s.err != nil && !errors.Is(s.err, io.EOF) && !s.held && !s.at.After(now) && !c.in.blocked() {
			return true
		}
	}
	return false
}

// Close implements net.Conn.
func (c *conn) Close() error {
	n := c.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	c.in.wakeLocked()
	c.peer.in.addLocked(segment{err: io.EOF})
	if c.peer.closed {
		delete(c.local.host.conns, c)
		delete(c.remote.host.conns, c.peer)
	}
	return nil
}

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetWriteDeadline(t)
	return c.SetReadDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.deadline = t
	c.in.wakeLocked()
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.writeDeadline = t
	return nil
}
