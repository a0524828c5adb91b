package target

import (
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
)

// flushBytes is how much is collected before it is written. inlineBytes is how much data is written by a goroutine that has completed commands;
// more is left to the writer.
const (
	flushBytes  = 1 << 20
	inlineBytes = 128 << 10
)

// pen says who writes to the connection. Whoever has it goes on until the out queue is empty.
type pen uint8

const (
	penFree   pen = iota
	penInline     // a goroutine in Wake, which does not wait
	penWriter     // the writer, awake or about to be
)

// wakeWriterLocked leaves the out queue to the writer.
func (x *session) wakeWriterLocked() {
	if x.pen == penFree {
		x.pen = penWriter
	}
	x.writerCond.Signal()
}

// Wake implements wakes.Sleeper. What the out queue holds is written by the calling goroutine, as far as the socket takes it without waiting:
// that spares short responses the way through another goroutine.
func (x *session) Wake() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.pen == penFree && x.head != nil && !x.corked {
		if x.closed || x.outBytes > inlineBytes || !x.sock.Able() {
			x.wakeWriterLocked()
			return
		}
		list := x.head
		x.head, x.tail, x.outBytes = nil, nil, 0
		x.pen = penInline
		x.mu.Unlock()
		list = x.gather(list, nil)
		x.flushes.Add(1)
		done := x.sock.Try(x.batch.Buffers())
		if done {
			x.flushes.Add(1)
			x.batch.Reset()
			x.written(list, nil)
		}
		x.mu.Lock()
		if done {
			x.pen = penFree
		} else {
			x.rest, x.pen = list, penWriter
		}
		if !done || x.closed || x.stopWriter {
			x.wakeWriterLocked()
		}
	}
}

// write is the writer: it turns the out queue into PDUs, many per system call, where that takes longer than others may wait. After the session
// has closed it only empties the queue, until run stops it.
func (x *session) write() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		for x.pen != penWriter && !(x.stopWriter && x.pen == penFree) {
			x.writerCond.Wait()
		}
		x.pen = penWriter
		x.failed = x.failed || x.closed
		list, begun := x.rest, x.rest != nil || x.batch.Len() > 0
		if !begun {
			list = x.head
			x.head, x.tail, x.outBytes = nil, nil, 0
		}
		if list == nil && !begun {
			if x.stopWriter {
				return
			}
			x.pen = penFree
			continue
		}
		x.rest = nil
		x.mu.Unlock()
		if begun {
			x.flush()
			x.written(list, nil)
			list = nil
		}
		for list != nil {
			list = x.writeSome(list)
		}
		x.mu.Lock()
	}
}

// writeSome writes entries up to flushBytes and returns the rest.
func (x *session) writeSome(list *out) (rest *out) {
	end, n := list, 0
	for ; end != nil && n < flushBytes; end = end.next {
		if end.t != nil && !end.r2t {
			n += len(end.t.data)
		}
	}
	list = x.gather(list, end)
	x.flushes.Add(1)
	x.batch.Buffers()
	x.flush()
	x.written(list, end)
	return end
}

// gather makes PDUs of [list, end), of which it returns what is left: R2Ts are done with. Nothing is encoded for a connection that takes nothing.
func (x *session) gather(list, end *out) *out {
	r2ts := false
	x.ending = false
	for o := list; o != end; o = o.next {
		if !x.failed {
			x.encode(o)
		}
		r2ts = r2ts || o.r2t
		x.ending = x.ending || o.last
	}
	if r2ts {
		list = x.solicited(list, end)
	}
	return list
}

// flush writes what gather has left in the batch, or what of it Wake has left.
func (x *session) flush() {
	if !x.failed {
		if _, err := x.batch.Rest().WriteTo(x.conn); err != nil {
			x.failed = true
			x.conn.Close()
		}
	}
	x.flushes.Add(1)
	x.batch.Reset()
}

// written ends the tasks of [list, end), whose PDUs are written.
func (x *session) written(list, end *out) {
	freed := false
	x.mu.Lock()
	for o := list; o != end; {
		next := o.next
		switch {
		case o.t == nil:
			x.misc--
			*o = out{}
			outPool.Put(o)
			freed = true
		default:
			x.freeLocked(o.t)
		}
		o = next
	}
	if freed {
		x.goneCond.Broadcast()
	}
	waiting := len(x.memQueue) > 0
	x.mu.Unlock()
	if waiting {
		x.pump()
	}
	if x.ending {
		x.close("logged out")
	}
}

// solicited takes the R2Ts, which are encoded, out of [list, end). From here on Data-Out for their tasks is expected: it may come, and the
// task be done, reused and in the queue again, before the write below returns. So they must not be touched after this.
func (x *session) solicited(list, end *out) *out {
	x.mu.Lock()
	defer x.mu.Unlock()
	head := end
	link := &head
	for o := list; o != end; {
		next := o.next
		if o.r2t {
			o.t.queued = false
			if o.t.dead {
				x.freeLocked(o.t)
			}
		} else {
			*link = o
			o.next = end
			link = &o.next
		}
		o = next
	}
	return head
}

func (x *session) stamp(h *pdu.Header, takes bool) {
	h.SetStatSN(x.statSN)
	if takes {
		x.statSN++
	}
	x.window(h)
}

// window fills in ExpCmdSN and MaxCmdSN, which never goes back.
func (x *session) window(h *pdu.Header) {
	// expCmdSN before outstanding would count a command in neither; the reader counts first, so read in reverse.
	exp := x.expCmdSN.Load()
	free := int32(x.srv.opt.QueueDepth) - x.outstanding.Load()
	most := exp + uint32(max(free, 0)) - 1
	if known := x.maxCmdSN.Load(); pdu.After(most, known) {
		x.maxCmdSN.Store(most)
	} else {
		most = known
	}
	h.SetExpCmdSN(exp)
	h.SetMaxCmdSN(most)
}

func (x *session) encode(o *out) {
	switch {
	case o.t == nil:
		x.stamp(&o.hdr, o.stat)
		x.batch.Add(&o.hdr, o.data)
	case o.r2t:
		x.stamp(&o.hdr, false)
		x.batch.Add(&o.hdr, nil)
	default:
		x.encodeResponse(o.t)
	}
}

// encodeResponse appends the Data-In PDUs and the status of a task. Good status travels in the last Data-In.
func (x *session) encodeResponse(t *task) {
	if t.counted {
		t.counted = false
		x.outstanding.Add(-1)
	}
	flags, residual := byte(0), uint32(0)
	data, expected := t.data, t.expectedLen
	if len(data) > 0 && !t.flagR {
		expected = 0 // the initiator has no place for it
	}
	switch {
	case t.dataFrom > uint64(expected):
		flags, residual = pdu.Overflow, uint32(min(t.dataFrom-uint64(expected), 1<<32-1))
	case t.dataFrom < uint64(expected):
		flags, residual = pdu.Underflow, expected-uint32(t.dataFrom)
	}
	if len(data) > int(expected) {
		data = data[:expected]
	}
	if t.status == scsi.Good && len(data) > 0 {
		x.encodeData(t, data, flags, residual)
		return
	}
	var h pdu.Header
	h.SetOpcode(pdu.SCSIResp)
	h.SetFlags(pdu.Final | flags)
	h.SetSCSIStatus(byte(t.status))
	h.SetITT(t.itt)
	h.SetResidualCount(residual)
	x.stamp(&h, true)
	if t.status != scsi.Good {
		x.stats.errors.Add(1)
	}
	if len(t.sense) == 0 {
		x.batch.Add(&h, nil)
		return
	}
	var b [2 + len(t.senseBuf)]byte
	b[0], b[1] = 0, byte(len(t.sense))
	n := 2 + copy(b[2:], t.sense)
	x.batch.Add(&h, b[:n])
}

func (x *session) encodeData(t *task, data []byte, flags byte, residual uint32) {
	segment := int(x.sendMax.Load())
	burst := x.params.MaxBurst
	at, sn := 0, uint32(0)
	inBurst := 0
	for {
		n := min(len(data)-at, segment, burst-inBurst)
		var h pdu.Header
		h.SetOpcode(pdu.DataIn)
		h.SetITT(t.itt)
		h.SetTTT(pdu.NoTag)
		h.SetDataSN(sn)
		h.SetBufferOffset(uint32(at))
		inBurst += n
		if at+n == len(data) {
			h.SetFlags(pdu.Final | pdu.HasStatus | flags)
			h.SetSCSIStatus(byte(scsi.Good))
			h.SetResidualCount(residual)
			x.stamp(&h, true)
			x.batch.Add(&h, data[at:])
			return
		}
		if inBurst == burst {
			h.SetFlags(pdu.Final)
			inBurst = 0
		}
		x.window(&h)
		x.batch.Add(&h, data[at:at+n])
		at += n
		sn++
	}
}
