package peer

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/socket"
	"github.com/iomesh/iomesh/storaged/wakes"
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
	pen    pen
	closed bool
	err    error
	heads  [][]byte

	// Of whoever has the pen: what is being sent, what of it is left, and the place of that.
	batch []outFrame
	left  net.Buffers
	vec   net.Buffers
	sock  socket.Writer
}

// pen says who writes. Whoever has it goes on until the queue is empty.
type pen uint8

const (
	penFree   pen = iota
	penInline     // a goroutine in Wake, which does not wait
	penWriter     // writeLoop, awake or about to be
)

type outFrame struct {
	head []byte
	data []byte
	buf  *pagebuf.Buf
}

func newConn(nc net.Conn, h Hello, class Class, outgoing bool) *Conn {
	c := &Conn{Peer: h.Chunk, Boot: h.Boot, Class: class, Outgoing: outgoing, nc: nc}
	c.wake.L = &c.mu
	c.sock.Init(nc)
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
// reference: it is released once the bytes are sent or the connection is gone. Frames arrive in the order of Send. They go out with the Wake
// that later is left, or at once without one.
func (c *Conn) Send(head, data []byte, buf *pagebuf.Buf, later *wakes.List) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		buf.Release()
		return
	}
	c.queue = append(c.queue, outFrame{head, data, buf})
	c.queued += len(head) + len(data)
	full := c.queued > QueueMaxBytes
	free := c.pen == penFree
	c.mu.Unlock()
	if full {
		c.Close(errQueueFull)
	}
	if free {
		later.Later(c)
	}
}

// inlineMax is how many bytes, and inlineFrames how many frames, are sent by the goroutine that has work sent; more is left to the writer.
const (
	inlineMax    = 128 << 10
	inlineFrames = 256
)

// Wake implements wakes.Sleeper. What is queued is sent by the calling goroutine, as far as the socket takes it without waiting: that spares
// short messages the way through another goroutine.
func (c *Conn) Wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.pen == penFree && !c.closed && len(c.queue) > 0 {
		if !c.sock.Able() || c.queued > inlineMax || len(c.queue) > inlineFrames {
			c.pen = penWriter
			c.wake.Signal()
			return
		}
		c.pen = penInline
		c.take()
		c.mu.Unlock()
		c.gather()
		done := c.sock.Try(&c.left)
		if done {
			c.release()
		}
		c.mu.Lock()
		if done {
			c.recycle()
			c.pen = penFree
		}
		if !done || c.closed {
			c.pen = penWriter
			c.wake.Signal()
		}
	}
}

// take makes the queue the batch. mu is held.
func (c *Conn) take() {
	c.batch, c.queue = c.queue, c.batch[:0]
	c.queued = 0
}

// gather makes a vector of the batch.
func (c *Conn) gather() {
	c.vec = c.vec[:0]
	for _, f := range c.batch {
		c.vec = append(c.vec, f.head)
		if len(f.data) > 0 {
			c.vec = append(c.vec, f.data)
		}
	}
	c.left = c.vec
}

// release gives back the data of the batch.
func (c *Conn) release() {
	clear(c.vec)
	for _, f := range c.batch {
		f.buf.Release()
	}
}

// recycle keeps the heads of the batch for Head. mu is held.
func (c *Conn) recycle() {
	for _, f := range c.batch {
		if cap(f.head) <= 4096 && len(c.heads) < 256 {
			c.heads = append(c.heads, f.head)
		}
	}
	clear(c.batch)
	c.batch = c.batch[:0]
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

// writeLoop sends what Wake leaves to it until the connection closes.
func (c *Conn) writeLoop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		// A goroutine in Wake does not wait, and hands the pen over when the connection closes meanwhile.
		for c.pen != penWriter && (!c.closed || c.pen == penInline) {
			c.wake.Wait()
		}
		if c.closed {
			for _, f := range append(c.batch, c.queue...) {
				f.buf.Release()
			}
			c.batch, c.queue = nil, nil
			return
		}
		if len(c.batch) == 0 {
			if len(c.queue) == 0 {
				c.pen = penFree
				continue
			}
			c.take()
			c.gather()
		}
		c.mu.Unlock()
		_, err := c.left.WriteTo(c.nc)
		c.release()
		if err != nil {
			c.Close(fmt.Errorf("send to chunk %s: %w", c.Peer, err))
		}
		c.mu.Lock()
		c.recycle()
	}
}

// readLoop hands frames to h until the connection closes.
func (c *Conn) readLoop(r *wire.Reader, h Handler) {
	defer h.Idle(c)
	var f wire.Frame
	for {
		if err := r.Read(&f); err != nil {
			c.Close(fmt.Errorf("receive from chunk %s: %w", c.Peer, err))
			return
		}
		h.Frame(c, &f)
		if !r.Ready() {
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
