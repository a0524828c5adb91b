package peer

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/wire"
)

// Class separates traffic that must not wait for other traffic.
type Class uint8

// The classes of connections.
const (
	Data Class = iota
	Control
	classes
)

func (c Class) String() string {
	switch c {
	case Data:
		return "data"
	case Control:
		return "control"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// QueueMaxBytes bounds what may wait to be sent on one connection.
const QueueMaxBytes = 128 << 20

var errQueueFull = errors.New("the peer does not read: send queue full")

// Conn is one established connection. Send is safe for concurrent use.
type Conn struct {
	// Peer is the chunk at the other end, Boot the start of its process, Class what the connection is for.
	Peer  block.ChunkID
	Boot  uint64
	Class Class
	// Outgoing is true when this side dialled.
	Outgoing bool

	// Value is for the Handler's own use, set in Up.
	Value any

	nc net.Conn

	mu     sync.Mutex
	wake   sync.Cond
	queue  []outFrame
	queued int
	closed bool
	err    error
	heads  [][]byte
}

type outFrame struct {
	head []byte
	data []byte
	buf  *pagebuf.Buf
}

func newConn(nc net.Conn, h Hello, class Class, outgoing bool) *Conn {
	c := &Conn{Peer: h.Chunk, Boot: h.Boot, Class: class, Outgoing: outgoing, nc: nc}
	c.wake.L = &c.mu
	return c
}

// Head returns an empty buffer with room for a frame header already taken (its length is wire.HeaderSize), to which the
// caller appends the head and which it passes to Send.
func (c *Conn) Head() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.heads); n > 0 {
		h := c.heads[n-1]
		c.heads = c.heads[:n-1]
		return h[:wire.HeaderSize]
	}
	return make([]byte, wire.HeaderSize, 256)
}

// Send queues a sealed frame (see Head and wire.SealFrame). data, if any, belongs to buf, of which Send takes over one
// reference: it is released once the bytes are sent or the connection is gone. Frames arrive in the order of Send.
func (c *Conn) Send(head, data []byte, buf *pagebuf.Buf) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		buf.Release()
		return
	}
	c.queue = append(c.queue, outFrame{head, data, buf})
	c.queued += len(head) + len(data)
	full := c.queued > QueueMaxBytes
	if len(c.queue) == 1 {
		c.wake.Signal()
	}
	c.mu.Unlock()
	if full {
		c.Close(errQueueFull)
	}
}

// Close ends the connection for the stated reason; Handler.Down follows once its goroutines have ended.
func (c *Conn) Close(reason error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.err = reason
	c.wake.Broadcast()
	c.mu.Unlock()
	// Closing also ends a read or write in progress.
	_ = c.nc.Close()
}

// writeLoop sends what is queued until the connection closes.
func (c *Conn) writeLoop() {
	var batch []outFrame
	var vec net.Buffers
	for {
		c.mu.Lock()
		for _, f := range batch {
			if cap(f.head) <= 4096 && len(c.heads) < 256 {
				c.heads = append(c.heads, f.head)
			}
		}
		clear(batch)
		batch = batch[:0]
		for len(c.queue) == 0 && !c.closed {
			c.wake.Wait()
		}
		if c.closed {
			rest := c.queue
			c.queue = nil
			c.mu.Unlock()
			for _, f := range rest {
				f.buf.Release()
			}
			return
		}
		batch, c.queue = c.queue, batch
		c.queued = 0
		c.mu.Unlock()

		vec = vec[:0]
		for _, f := range batch {
			vec = append(vec, f.head)
			if len(f.data) > 0 {
				vec = append(vec, f.data)
			}
		}
		// WriteTo consumes the slice it is called on; keep ours for the next round.
		v := vec
		_, err := v.WriteTo(c.nc)
		clear(vec)
		for _, f := range batch {
			f.buf.Release()
		}
		if err != nil {
			c.Close(fmt.Errorf("send to chunk %s: %w", c.Peer, err))
		}
	}
}

// readLoop hands frames to h until the connection closes.
func (c *Conn) readLoop(r *wire.Reader, h Handler) {
	var f wire.Frame
	for {
		if err := r.Read(&f); err != nil {
			c.Close(fmt.Errorf("receive from chunk %s: %w", c.Peer, err))
			return
		}
		h.Frame(c, &f)
		if r.Buffered() < wire.HeaderSize {
			h.Idle(c)
		}
	}
}

// Err is why the connection was closed; nil while it is open.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
