package target

import (
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
)

// flushBytes is how much is collected before it is written.
const flushBytes = 1 << 20

// write is the writer: it turns the out queue into PDUs, many per system call. After the session has closed it only empties the
// queue, until run stops it.
func (x *session) write() {
	failed := false
	for {
		x.mu.Lock()
		for x.head == nil && !x.stopWriter {
			x.writerIdle = true
			x.writerCond.Wait()
		}
		x.writerIdle = false
		list := x.head
		x.head, x.tail = nil, nil
		stop := x.stopWriter && list == nil
		failed = failed || x.closed
		x.mu.Unlock()
		if stop {
			return
		}
		for list != nil {
			list = x.writeSome(list, &failed)
		}
	}
}

// writeSome writes entries up to flushBytes and returns the rest.
func (x *session) writeSome(list *out, failed *bool) (rest *out) {
	end := list
	r2ts, last := false, false
	for ; end != nil && x.batch.Len() < flushBytes; end = end.next {
		if !*failed {
			x.encode(end)
		}
		r2ts = r2ts || end.r2t
		last = last || end.last
	}
	if r2ts {
		list = x.solicited(list, end)
	}
	if !*failed {
		x.flushes.Add(1)
		_, err := x.batch.WriteTo(x.conn)
		x.flushes.Add(1)
		if err != nil {
			*failed = true
			x.conn.Close()
		}
	}
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
	if last {
		x.close("logged out")
	}
	return end
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
