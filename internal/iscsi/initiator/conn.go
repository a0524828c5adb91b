package initiator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/internal/beat"
	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
)

// Tags: those of requests are slot numbers, these are of the connection itself.
const (
	tagPing   = 0xfffffff0
	tagLogout = 0xfffffff1
)

// conn is one connection in full feature phase. Fields without a note are under Session.mu.
type conn struct {
	s       *Session
	net     net.Conn
	address string
	reader  *pdu.Reader // of the reader
	batch   pdu.Batch   // of the writer
	params  login.Params

	received atomic.Uint64 // PDUs

	cond      sync.Cond // of the writer
	idle      bool
	stopped   bool
	cmdSN     uint32
	expStatSN uint32
	maxCmdSN  uint32
	inFlight  int
	r2ts      list2
	pings     []uint32 // target transfer tags of pings to answer
	ping      bool     // send a ping of our own
	leaving   bool     // nothing new is sent; the target asked for a logout
	logoutNow bool
	loggedOut chan struct{}
}

// list2 queues requests with an R2T to answer.
type list2 struct{ head, tail *Request }

func (l *list2) push(r *Request) {
	r.r2t.next, r.r2t.queued = nil, true
	if l.tail == nil {
		l.head = r
	} else {
		l.tail.r2t.next = r
	}
	l.tail = r
}

func (l *list2) pop() *Request {
	r := l.head
	if r != nil {
		l.head = r.r2t.next
		if l.head == nil {
			l.tail = nil
		}
		r.r2t.next, r.r2t.queued = nil, false
	}
	return r
}

func newConn(s *Session, n net.Conn, address string) *conn {
	if t, ok := n.(*net.TCPConn); ok {
		_ = t.SetNoDelay(true)
	}
	c := &conn{s: s, net: n, address: address, reader: pdu.NewReader(n, login.SegmentMax), loggedOut: make(chan struct{})}
	c.cond.L = &s.mu
	return c
}

var errLogoutAsked = errors.New("target asked for a logout")

// serve runs the connection until it fails, and returns when its goroutines have ended.
func (c *conn) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.net.Close() })
	defer stop()
	var wg sync.WaitGroup
	errs := make(chan error, 3)
	end := make(chan struct{})
	wg.Go(func() { errs <- c.read(); c.net.Close(); c.stopWriter() })
	wg.Go(func() { errs <- c.write(); c.net.Close() })
	wg.Go(func() {
		if err := c.watch(end); err != nil {
			errs <- err
			c.net.Close()
		}
	})
	err := <-errs
	close(end)
	c.net.Close()
	c.stopWriter()
	wg.Wait()
	return err
}

func (c *conn) stopWriter() {
	c.s.mu.Lock()
	c.stopped = true
	c.cond.Broadcast()
	c.s.mu.Unlock()
}

// idlePings is how many times longer a target may be silent before it is pinged while nothing is asked of it. A frozen one is then noticed as soon
// as it matters: the first request finds the silence long enough for a ping at once. Idle sessions ping all at the same time, at the multiples of this
// interval, so that many of them wake an initiator, and a target, once and not once each.
const idlePings = 5

// watch pings a silent target, and gives the connection up when it does not answer.
func (c *conn) watch(end <-chan struct{}) error {
	every, idle := c.s.opt.NOPInterval/4, idlePings*c.s.opt.NOPInterval
	seen, seenAt := c.received.Load(), time.Now()
	slot := seenAt.Truncate(idle) // of the last look
	tick := beat.Every(every)
	defer tick.Stop()
	var pinged time.Time
	for {
		select {
		case <-end:
			return nil
		case now := <-tick.C:
			before := slot
			slot = now.Truncate(idle)
			if n := c.received.Load(); n != seen {
				seen, seenAt, pinged = n, now, time.Time{}
				continue
			}
			silent := now.Sub(seenAt)
			switch {
			case !pinged.IsZero() && now.Sub(pinged) > c.s.opt.NOPTimeout:
				return fmt.Errorf("portal %s has been silent for %s", c.address, silent.Round(time.Millisecond))
			case silent >= c.s.opt.NOPInterval && pinged.IsZero():
				c.s.mu.Lock()
				if c.s.busyLocked() || !slot.Equal(before) || silent >= 2*idle {
					pinged = now
					c.ping = true
					c.wakeLocked()
				}
				c.s.mu.Unlock()
			}
		}
	}
}

// busyLocked reports whether a request is with the target or waits to be sent.
func (s *Session) busyLocked() bool { return len(s.free) < len(s.slots) || s.queue.head != nil }

func (c *conn) wakeLocked() {
	if c.idle {
		c.idle = false
		c.cond.Signal()
	}
}

// logout asks the target to end the session and waits a little for its answer.
func (c *conn) logout(patience time.Duration) {
	c.s.mu.Lock()
	c.leaving, c.logoutNow = true, true
	c.wakeLocked()
	c.s.mu.Unlock()
	select {
	case <-c.loggedOut:
	case <-time.After(patience):
	}
}

// flushBytes is how much the writer collects for one system call.
const flushBytes = 512 << 10

// write is the writer.
func (c *conn) write() error {
	s := c.s
	for {
		s.mu.Lock()
		for !c.stopped && !c.workLocked() {
			c.idle = true
			c.cond.Wait()
		}
		c.idle = false
		if c.stopped {
			s.mu.Unlock()
			return net.ErrClosed
		}
		for c.batch.Len() < flushBytes && c.encodeLocked() {
		}
		s.mu.Unlock()
		if _, err := c.batch.WriteTo(c.net); err != nil {
			return err
		}
	}
}

func (c *conn) workLocked() bool {
	return c.r2ts.head != nil || c.ping || len(c.pings) > 0 || c.logoutNow || c.maySendLocked()
}

func (c *conn) maySendLocked() bool {
	return c.s.queue.head != nil && !c.leaving && len(c.s.free) > 0 && !pdu.After(c.cmdSN, c.maxCmdSN)
}

// encodeLocked adds the next thing to be sent to the batch.
func (c *conn) encodeLocked() bool {
	switch {
	case c.r2ts.head != nil:
		c.dataOut(c.r2ts.pop())
	case len(c.pings) > 0:
		ttt := c.pings[0]
		c.pings = c.pings[1:]
		c.nop(pdu.NoTag, ttt)
	case c.ping:
		c.ping = false
		c.nop(tagPing, pdu.NoTag)
	case c.maySendLocked():
		c.command(c.s.queue.pop())
	case c.logoutNow:
		c.logoutNow = false
		var h pdu.Header
		h.SetImmediate(pdu.LogoutReq)
		h.SetFlags(pdu.Final) // reason 0: close the session
		h.SetITT(tagLogout)
		h.SetCmdSN(c.cmdSN)
		h.SetExpStatSN(c.expStatSN)
		c.batch.Add(&h, nil)
	default:
		return false
	}
	return true
}

func (c *conn) nop(itt, ttt uint32) {
	var h pdu.Header
	h.SetImmediate(pdu.NopOut)
	h.SetFlags(pdu.Final)
	h.SetITT(itt)
	h.SetTTT(ttt)
	h.SetCmdSN(c.cmdSN)
	h.SetExpStatSN(c.expStatSN)
	c.batch.Add(&h, nil)
}

// command sends a request with as much data as may go with it.
func (c *conn) command(r *Request) {
	s := c.s
	n := len(s.free)
	r.tag = s.free[n-1]
	s.free = s.free[:n-1]
	s.slots[r.tag] = r
	r.sent = true
	c.inFlight++
	var h pdu.Header
	h.SetOpcode(pdu.SCSICmd)
	flags := byte(1) // simple task
	var now []byte
	if r.out {
		flags |= pdu.Write
		h.SetExpectedLen(uint32(len(r.body)))
		if c.params.ImmediateData {
			now = r.body[:min(len(r.body), c.params.FirstBurst, c.params.SendMax)]
		}
	}
	if r.in {
		flags |= pdu.Read
		h.SetExpectedLen(uint32(len(r.Data)))
	}
	first := min(len(r.body), c.params.FirstBurst)
	more := r.out && !c.params.InitialR2T && len(now) < first
	if !more {
		flags |= pdu.Final
	}
	h.SetFlags(flags)
	if !r.LUN0 {
		h.SetLUN(pdu.LUNOf(s.opt.LUN))
	}
	h.SetITT(r.tag)
	h.SetCmdSN(c.cmdSN)
	h.SetExpStatSN(c.expStatSN)
	copy(h.CDB(), r.cdb[:])
	c.cmdSN++
	c.batch.Add(&h, now)
	if more {
		c.sequence(r, pdu.NoTag, len(now), first)
	}
}

// dataOut answers an R2T.
func (c *conn) dataOut(r *Request) {
	c.sequence(r, r.r2t.ttt, int(r.r2t.offset), int(r.r2t.offset+r.r2t.length))
}

// sequence sends body[from:to) as one sequence of Data-Out PDUs.
func (c *conn) sequence(r *Request, ttt uint32, from, to int) {
	for sn := uint32(0); from < to; sn++ {
		n := min(to-from, c.params.SendMax)
		var h pdu.Header
		h.SetOpcode(pdu.DataOut)
		if from+n == to {
			h.SetFlags(pdu.Final)
		}
		if !r.LUN0 {
			h.SetLUN(pdu.LUNOf(c.s.opt.LUN))
		}
		h.SetITT(r.tag)
		h.SetTTT(ttt)
		h.SetExpStatSN(c.expStatSN)
		h.SetDataSN(sn)
		h.SetBufferOffset(uint32(from))
		c.batch.Add(&h, r.body[from:from+n])
		from += n
	}
}

// read is the reader.
func (c *conn) read() error {
	var sense [256 + 2]byte
	for {
		h, err := c.reader.Next()
		if err != nil {
			return err
		}
		c.received.Add(1)
		switch op := h.Opcode(); op {
		case pdu.DataIn:
			err = c.dataIn(h)
		case pdu.SCSIResp:
			err = c.response(h, sense[:])
		case pdu.R2T:
			err = c.readyToTransfer(h)
		case pdu.NopIn:
			c.nopIn(h)
		case pdu.AsyncMsg:
			err = c.async(h)
		case pdu.LogoutResp:
			close(c.loggedOut)
			return errLogoutAsked
		case pdu.Reject:
			err = fmt.Errorf("target rejected a PDU, reason %#02x", h.Response())
		case pdu.TaskResp, pdu.TextResp:
			c.s.mu.Lock()
			c.advance(h, true)
			c.s.mu.Unlock()
		default:
			err = fmt.Errorf("unexpected opcode %#02x of the target", byte(op))
		}
		if err != nil {
			return err
		}
	}
}

// advance takes over the sequence numbers of a PDU of the target.
func (c *conn) advance(h *pdu.Header, status bool) {
	if status {
		c.expStatSN = h.StatSN() + 1
	}
	if pdu.After(h.MaxCmdSN(), c.maxCmdSN) {
		c.maxCmdSN = h.MaxCmdSN()
		if c.s.queue.head != nil {
			c.wakeLocked()
		}
	}
}

func (c *conn) find(tag uint32) *Request {
	if int(tag) < len(c.s.slots) {
		return c.s.slots[tag]
	}
	return nil
}

func (c *conn) dataIn(h *pdu.Header) error {
	n, at := h.DataLen(), int(h.BufferOffset())
	s := c.s
	s.mu.Lock()
	r := c.find(h.ITT())
	s.mu.Unlock()
	if r == nil || !r.in || at+n > len(r.Data) {
		return fmt.Errorf("target sent %d bytes at %d for tag %d, which does not want them", n, at, h.ITT())
	}
	// The request stays ours until its status is processed below, by this goroutine.
	if err := c.reader.ReadData(r.Data[at : at+n]); err != nil {
		return err
	}
	if h.Flags()&pdu.HasStatus != 0 {
		return c.finish(r, h, scsi.Status(h.SCSIStatus()))
	}
	s.mu.Lock()
	c.advance(h, false)
	s.mu.Unlock()
	return nil
}

func (c *conn) response(h *pdu.Header, buf []byte) error {
	s := c.s
	s.mu.Lock()
	r := c.find(h.ITT())
	s.mu.Unlock()
	if r == nil {
		return fmt.Errorf("target answered tag %d, which is not in use", h.ITT())
	}
	n := h.DataLen()
	if n > len(buf) {
		buf = make([]byte, n)
	}
	if err := c.reader.ReadData(buf[:n]); err != nil {
		return err
	}
	if n >= 2 {
		length := int(buf[0])<<8 | int(buf[1])
		if length <= n-2 {
			r.Sense, _ = scsi.ParseSense(buf[2 : 2+length])
		}
	}
	if h.Response() != 0 {
		return c.finish(r, h, scsi.CheckCondition)
	}
	return c.finish(r, h, scsi.Status(h.SCSIStatus()))
}

// finish ends a request, or sends it again if its status says that it had no effect and may do next time.
func (c *conn) finish(r *Request, h *pdu.Header, status scsi.Status) error {
	s := c.s
	r.Status = status
	r.Residual = 0
	switch {
	case h.Flags()&pdu.Underflow != 0:
		r.Residual = int(h.ResidualCount())
	case h.Flags()&pdu.Overflow != 0:
		r.Residual = -int(h.ResidualCount())
	}
	resized := status == scsi.CheckCondition && r.Sense.Key == scsi.UnitAttention && r.Sense.Code == scsi.CapacityChanged
	again := status != scsi.Good && r.passing() && r.tries < triesMax
	// A target that does less than asked with status GOOD is not believed.
	short := status == scsi.Good && r.Op != Raw && r.Residual != 0
	s.mu.Lock()
	s.slots[r.tag] = nil
	s.free = append(s.free, r.tag)
	r.sent = false
	c.inFlight--
	c.advance(h, true)
	if r.r2t.queued {
		s.mu.Unlock()
		return fmt.Errorf("target answered tag %d and still wants its data", h.ITT())
	}
	if again {
		r.tries++
		r.Sense = scsi.Sense{}
		s.queue.push(r)
		c.wakeLocked()
	} else {
		s.counters.Commands++
		s.counters.LongestCommand = max(s.counters.LongestCommand, time.Since(r.started))
		if s.queue.head != nil {
			c.wakeLocked()
		}
	}
	s.mu.Unlock()
	if resized {
		s.lookAtSize()
	}
	if again {
		return nil
	}
	switch {
	case status != scsi.Good:
		r.Err = &StatusError{Status: status, Sense: r.Sense}
	case short:
		r.Err = fmt.Errorf("target left %d bytes of the command undone", r.Residual)
	}
	r.Done(r)
	return nil
}

func (c *conn) readyToTransfer(h *pdu.Header) error {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	r := c.find(h.ITT())
	if r == nil || !r.out || r.r2t.queued || uint64(h.BufferOffset())+uint64(h.DesiredLen()) > uint64(len(r.body)) {
		return fmt.Errorf("target wants %d bytes at %d of tag %d, which has none", h.DesiredLen(), h.BufferOffset(), h.ITT())
	}
	r.r2t.ttt, r.r2t.offset, r.r2t.length = h.TTT(), h.BufferOffset(), h.DesiredLen()
	c.r2ts.push(r)
	c.advance(h, false)
	c.wakeLocked()
	return nil
}

// pingsMax bounds pings of the target that wait for an answer.
const pingsMax = 64

func (c *conn) nopIn(h *pdu.Header) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.advance(h, h.ITT() != pdu.NoTag)
	if h.TTT() != pdu.NoTag && len(c.pings) < pingsMax {
		c.pings = append(c.pings, h.TTT())
		c.wakeLocked()
	}
}

// Asynchronous events (RFC 7143 §11.9.1).
const (
	eventLogout      = 1
	eventConnDrop    = 2
	eventSessionDrop = 3
)

func (c *conn) async(h *pdu.Header) error {
	c.s.mu.Lock()
	c.advance(h, true)
	c.s.mu.Unlock()
	switch h.AsyncEvent() {
	case eventLogout:
		// Commands in progress end first, so that none has to be repeated.
		c.s.wg.Go(func() {
			c.drain(500 * time.Millisecond)
			c.logout(500 * time.Millisecond)
			c.net.Close()
		})
	case eventConnDrop, eventSessionDrop:
		return errors.New("target drops the connection")
	}
	return nil
}

// drain stops sending new commands and waits until those in progress have ended.
func (c *conn) drain(patience time.Duration) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		c.s.mu.Lock()
		c.leaving = true
		none := c.inFlight == 0 || c.stopped
		c.s.mu.Unlock()
		if none {
			return
		}
		select {
		case <-deadline.C:
			return
		case <-tick.C:
		}
	}
}
