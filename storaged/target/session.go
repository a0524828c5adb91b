package target

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/socket"
	"github.com/iomesh/iomesh/storaged/wakes"
)

const codeCapacityChanged = scsi.CapacityChanged

// session is one session with its one connection. Its goroutines: the reader (run, in the goroutine of the connection), the writer,
// and one for each of the rare commands that take several steps. Volumes complete commands from goroutines of their own.
type session struct {
	srv       *Server
	dev       *device // nil in a discovery session
	nexus     scsi.Nexus
	discovery bool
	tsih      uint16
	askedTSIH uint16
	cid       uint16
	grant     Grant
	conn      net.Conn
	portal    netip.AddrPort
	remote    netip.AddrPort
	since     time.Time
	log       *slog.Logger

	reader  *pdu.Reader
	batch   *pdu.Batch
	params  login.Params
	sendMax atomic.Int64 // the initiator's MaxRecvDataSegmentLength
	stats   counters

	// Command window. expCmdSN and outstanding are written by the reader, which counts a command before it moves expCmdSN.
	expCmdSN    atomic.Uint32
	outstanding atomic.Int32
	maxCmdSN    atomic.Uint32 // highest announced; by the writer
	statSN      uint32        // of the writer

	textRest []byte // of a SendTargets answer in parts; of the reader
	textTag  uint32

	received atomic.Uint64 // PDUs, for checkAlive
	flushes  atomic.Uint64 // odd while the writer writes

	// Of pinger.
	seenReceived, seenFlush uint64
	seenAt, flushAt         time.Time
	pinged                  bool

	hasUA atomic.Bool

	mu         sync.Mutex
	writerCond sync.Cond
	goneCond   sync.Cond // tasks left, or the session closed
	closed     bool
	running    bool
	stopWriter bool
	pen        pen
	corked     bool
	head, tail *out
	outBytes   int // data of the queue
	misc       int // entries of the out queue that belong to no task
	slots      []*task
	freeSlots  []int
	executing  int
	ua         []scsi.Code
	memUsed    int64
	memQueue   []*task
	managing   int // task management requests in progress

	wakes wakes.List // of the reader

	// Of whoever has the pen.
	sock   socket.Writer
	rest   *out // what is written in part
	ending bool // the connection is closed after it
	failed bool // the connection takes nothing any more

	ended chan struct{}
}

func newSession(s *Server, a *loginAttempt, n login.Names) *session {
	x := &session{srv: s, nexus: newNexus(n), discovery: n.Discovery, askedTSIH: n.TSIH, cid: n.CID, grant: a.place.Grant,
		conn: a.conn, portal: addrPort(a.conn.LocalAddr()), remote: addrPort(a.conn.RemoteAddr()), since: time.Now(),
		reader: a.reader, batch: a.batch, ended: make(chan struct{})}
	x.tsih = n.TSIH
	for x.tsih == 0 {
		x.tsih = uint16(s.lastTSIH.Add(1))
	}
	x.writerCond.L, x.goneCond.L = &x.mu, &x.mu
	x.log = s.opt.Log.With(slog.String("target", n.Target), slog.String("initiator", n.Initiator), slog.String("remote", x.remote.String()))
	return x
}

func (x *session) descriptorSense() bool { return x.dev != nil && x.dev.mode.Load().DescriptorSense }

// run serves the full feature phase until the connection ends, and returns when no command is in progress.
func (x *session) run(a *loginAttempt, out login.Outcome) {
	x.params = out.Params
	x.sendMax.Store(int64(out.SendMax))
	x.expCmdSN.Store(out.CmdSN)
	x.maxCmdSN.Store(out.CmdSN + uint32(x.srv.opt.QueueDepth) - 1)
	x.statSN = out.StatSN
	if t, ok := x.conn.(*net.TCPConn); ok {
		_ = t.SetNoDelay(true)
	}
	x.sock.Init(x.conn)
	x.log.Debug("session begins", slog.Bool("discovery", x.discovery))

	writerDone := make(chan struct{})
	x.mu.Lock()
	x.running = true
	x.mu.Unlock()
	go func() {
		defer close(writerDone)
		x.write()
	}()
	err := x.read()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		x.log.Info("session ends", slog.Any("error", err))
	}
	x.close("connection ended")

	x.mu.Lock()
	for x.executing > 0 || x.managing > 0 {
		x.goneCond.Wait()
	}
	x.stopWriter = true
	x.writerCond.Signal()
	x.mu.Unlock()
	<-writerDone
	x.mu.Lock()
	for _, t := range x.slots {
		if t != nil { // the reader left it half done
			x.freeLocked(t)
		}
	}
	x.mu.Unlock()
	x.end()
}

// close ends the session: nothing new is started, nothing more is answered. It does not wait.
func (x *session) close(reason string) {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return
	}
	x.closed = true
	for _, t := range x.slots {
		if t != nil {
			x.abandonLocked(t)
		}
	}
	x.goneCond.Broadcast()
	x.wakeWriterLocked()
	x.mu.Unlock()
	x.log.Debug("session closes", slog.String("reason", reason))
	x.conn.Close()
}

// end takes the session out of the books. Its commands have ended.
func (x *session) end() {
	s := x.srv
	s.mu.Lock()
	delete(s.sessions, x)
	s.changes++
	if x.dev != nil {
		delete(x.dev.sessions, x)
		x.dev.past.add(x.stats.value())
	}
	s.mu.Unlock()
	if x.dev != nil {
		// RESERVE (6) ends with the I_T nexus (SPC-2 5.5.1).
		x.dev.holder.CompareAndSwap(x, nil)
	}
	close(x.ended)
}

// awaitEnd waits until the session has ended and its commands are completed.
func (x *session) awaitEnd(ctx context.Context) error {
	select {
	case <-x.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// abandonLocked makes sure that a task gets no response and, unless it is executing already, no effect.
func (x *session) abandonLocked(t *task) {
	switch t.state {
	case taskMemory:
		t.aborted = true
		if i := slices.Index(x.memQueue, t); i >= 0 {
			x.memQueue = slices.Delete(x.memQueue, i, i+1)
		}
		if !t.filling {
			x.freeLocked(t)
		}
	case taskCollecting:
		t.aborted = true
		switch {
		case t.queued:
			t.dead = true // the writer frees it
		case !t.filling:
			x.freeLocked(t)
		}
	case taskExecuting:
		t.aborted = true
		t.cmd.aborting.Store(true)
	}
}

// add gives a new task a place. It fails if the initiator has more commands in progress than it may.
func (x *session) add(t *task, counted bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false
	}
	n := len(x.freeSlots)
	if n == 0 {
		// Twice the window, since places are given back only after the response was written, and some for immediate commands.
		if len(x.slots) >= 2*x.srv.opt.QueueDepth+64 {
			return false
		}
		x.slots = append(x.slots, nil)
		x.freeSlots = append(x.freeSlots, len(x.slots)-1)
		n = 1
	}
	t.slot = x.freeSlots[n-1]
	x.freeSlots = x.freeSlots[:n-1]
	x.slots[t.slot] = t
	t.counted = counted
	if counted {
		x.outstanding.Add(1)
	}
	return true
}

// freeLocked ends the life of a task.
func (x *session) freeLocked(t *task) {
	if t.counted {
		t.counted = false
		x.outstanding.Add(-1)
	}
	x.slots[t.slot] = nil
	x.freeSlots = append(x.freeSlots, t.slot)
	t.serial++
	t.state = taskIdle
	t.held.Release()
	t.held = nil
	t.cmd.Buf.Release() // the target's, or one lent by the volume, which released the target's
	t.cmd.Buf, t.cmd.Data, t.buf = nil, nil, nil
	if t.mem > 0 {
		x.memUsed -= t.mem
		x.srv.bytes.Add(-t.mem)
		t.mem = 0
	}
	x.goneCond.Broadcast()
	t.s = nil
	x.srv.tasks.Put(t)
}

// reserveLocked charges n bytes to the session, if it may have them now.
func (x *session) reserveLocked(t *task, n int64) bool {
	o := &x.srv.opt
	if x.memUsed > 0 && (x.memUsed+n > o.SessionBytesMax || x.srv.bytes.Load()+n > o.TotalBytesMax) {
		return false
	}
	t.mem = n
	x.memUsed += n
	x.srv.bytes.Add(n)
	return true
}

// pump starts tasks that wait for memory, as far as there is some again.
func (x *session) pump() {
	for {
		x.mu.Lock()
		if x.closed || len(x.memQueue) == 0 || x.memQueue[0].filling || !x.reserveLocked(x.memQueue[0], int64(x.memQueue[0].need)) {
			x.mu.Unlock()
			return
		}
		t := x.memQueue[0]
		x.memQueue = slices.Delete(x.memQueue, 0, 1)
		x.buffer(t)
		if t.held != nil {
			copy(t.buf.B, t.held.B[:t.got])
			t.held.Release()
			t.held = nil
		}
		t.state = taskCollecting
		t.filling = true
		x.mu.Unlock()
		x.advance(t, nil)
	}
}

func (x *session) buffer(t *task) {
	if t.need > 0 && !t.lent {
		t.buf = x.srv.opt.Pool.Get(int(t.need))
		t.cmd.Buf, t.cmd.Data = t.buf, t.buf.B
	}
}

// attention queues a unit attention for the next command.
func (x *session) attention(c scsi.Code) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.ua) < 16 && !slices.Contains(x.ua, c) {
		x.ua = append(x.ua, c)
	}
	x.hasUA.Store(true)
}

// takeAttention removes the oldest unit attention.
func (x *session) takeAttention() (scsi.Code, bool) {
	if !x.hasUA.Load() {
		return 0, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.ua) == 0 {
		return 0, false
	}
	c := x.ua[0]
	x.ua = slices.Delete(x.ua, 0, 1)
	x.hasUA.Store(len(x.ua) > 0)
	return c, true
}

// checkAlive is called from time to time: it pings a silent initiator and closes the connection of one that stays silent, or that
// does not take its responses.
func (x *session) checkAlive(now time.Time) {
	o := &x.srv.opt
	if f := x.flushes.Load(); f&1 == 0 || f != x.seenFlush {
		x.seenFlush, x.flushAt = f, now
	} else if now.Sub(x.flushAt) > o.WriteTimeout {
		x.close("initiator does not take its responses")
		return
	}
	if r := x.received.Load(); r != x.seenReceived || x.seenAt.IsZero() {
		x.seenReceived, x.seenAt, x.pinged = r, now, false
		return
	}
	silent := now.Sub(x.seenAt)
	switch {
	case silent > o.NOPInterval+o.NOPTimeout:
		x.close("initiator is silent")
	case silent >= o.NOPInterval && !x.pinged:
		x.pinged = true
		x.ping()
	}
}

func (x *session) info() SessionInfo {
	i := SessionInfo{Target: x.dev.iqn, Initiator: x.nexus.Initiator, ISID: x.nexus.ISID, TSIH: x.tsih, Remote: x.remote, Portal: x.portal,
		Grant: x.grant.Generation, ReadOnly: x.grant.ReadOnly, Since: x.since, InProgress: int(x.outstanding.Load()), Counters: x.stats.value()}
	x.mu.Lock()
	if x.running {
		i.HeaderDigest, i.DataDigest = x.params.HeaderDigest, x.params.DataDigest
	}
	i.DataBytes = x.memUsed
	x.mu.Unlock()
	return i
}

// out is an entry of the queue to the writer: a response or R2T of a task, or a PDU of its own.
type out struct {
	next *out
	t    *task
	r2t  bool
	hdr  pdu.Header
	data []byte
	stat bool // takes a StatSN
	last bool // the connection is closed once this is written
}

var outPool = sync.Pool{New: func() any { return &out{} }}

// enqueueLocked appends to the queue and wakes the writer, unless the reader is about to bring more.
func (x *session) enqueueLocked(o *out) {
	x.appendLocked(o)
	if !x.corked {
		x.wakeWriterLocked()
	}
}

// appendLocked appends to the queue.
func (x *session) appendLocked(o *out) {
	o.next = nil
	if o.t != nil && !o.r2t {
		x.outBytes += len(o.t.data)
	}
	if x.tail == nil {
		x.head = o
	} else {
		x.tail.next = o
	}
	x.tail = o
}

// send queues a PDU that belongs to no task. stat says that it takes a StatSN.
func (x *session) send(h pdu.Header, data []byte, stat, last bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return
	}
	o := outPool.Get().(*out)
	*o = out{hdr: h, data: data, stat: stat, last: last}
	x.misc++
	x.enqueueLocked(o)
}

// miscMax is how many PDUs of their own may wait for the writer before nothing more is read from an initiator that causes them.
const miscMax = 128

func (x *session) throttle() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.misc > miscMax && !x.closed {
		x.goneCond.Wait()
	}
}

func (x *session) ping() {
	var h pdu.Header
	h.SetOpcode(pdu.NopIn)
	h.SetFlags(pdu.Final)
	h.SetITT(pdu.NoTag)
	h.SetTTT(0)
	x.send(h, nil, false, false)
}

// requestLogout asks the initiator to log out and in again (RFC 7143 §11.9.1, event 1).
func (x *session) requestLogout() {
	var h pdu.Header
	h.SetOpcode(pdu.AsyncMsg)
	h.SetFlags(pdu.Final)
	h.SetITT(pdu.NoTag)
	h.SetAsyncEvent(1)
	h.SetParameters(0, 0, uint16(max(1, x.srv.opt.MoveGrace/time.Second)))
	x.send(h, nil, true, false)
}
