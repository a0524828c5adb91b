package target

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// errLogout ends the reader after a logout request.
var errLogout = errors.New("initiator logs out")

// protocolError is a violation after which the connection cannot go on.
func protocolError(format string, a ...any) error {
	return fmt.Errorf("protocol error of the initiator: "+format, a...)
}

// read is the reader: it takes PDUs until the connection ends. nil means a logout.
func (x *session) read() error {
	corked := false
	defer x.wakes.Wake()
	for {
		// While more requests are in the buffer, responses are collected, and so is what the volume has to do; before waiting all is let go.
		more := x.reader.Ready()
		if more != corked {
			corked = more
			x.mu.Lock()
			x.corked = more
			x.mu.Unlock()
		}
		if !more {
			x.wakes.Wake()
			x.Wake()
		}
		h, err := x.reader.Next()
		if err != nil {
			if errors.Is(err, pdu.ErrHeaderDigest) {
				x.stats.digestErrors.Add(1)
			}
			return err
		}
		x.received.Add(1)
		switch op := h.Opcode(); op {
		case pdu.SCSICmd:
			err = x.scsiCommand(h)
		case pdu.DataOut:
			err = x.dataOut(h)
		case pdu.NopOut:
			err = x.nopOut(h)
		case pdu.TaskReq:
			err = x.taskManagement(h)
		case pdu.TextReq:
			err = x.text(h)
		case pdu.LogoutReq:
			err = x.logout(h)
		case pdu.SNACK:
			// Error recovery level 0 has none (RFC 7143 §7.1.4.1).
			err = x.reject(h, rejectUnsupported)
		default:
			err = x.reject(h, rejectUnsupported)
		}
		if errors.Is(err, errLogout) {
			return x.lingerAfterLogout()
		}
		if err != nil {
			return err
		}
		x.throttle()
	}
}

// Reasons of a Reject (RFC 7143 §11.17.1).
const (
	rejectDataDigest  = 0x02
	rejectProtocol    = 0x04
	rejectUnsupported = 0x05
	rejectImmediate   = 0x06
)

func (x *session) reject(bad *pdu.Header, reason byte) error {
	var h pdu.Header
	h.SetOpcode(pdu.Reject)
	h.SetFlags(pdu.Final)
	h.SetResponse(reason)
	h.SetITT(pdu.NoTag)
	copyOf := *bad
	x.send(h, copyOf[:], true, false)
	return nil
}

// sequence checks the CmdSN of a request (RFC 7143 §4.2.2.1). skip says to ignore it silently.
func (x *session) sequence(h *pdu.Header) (skip bool, err error) {
	if h.Immediate() {
		return false, nil
	}
	sn, exp := h.CmdSN(), x.expCmdSN.Load()
	switch {
	case sn == exp && !pdu.After(sn, x.maxCmdSN.Load()):
		return false, nil
	case pdu.After(exp, sn), pdu.After(sn, x.maxCmdSN.Load()):
		return true, nil
	}
	// One connection delivers in order, so that what is missing will never come.
	return true, protocolError("CmdSN %d, expected %d", sn, exp)
}

// pass moves ExpCmdSN over a request. Commands that take a place in the window are counted before.
func (x *session) pass(h *pdu.Header) {
	if !h.Immediate() {
		x.expCmdSN.Store(h.CmdSN() + 1)
	}
}

func (x *session) nopOut(h *pdu.Header) error {
	skip, err := x.sequence(h)
	if skip || err != nil {
		return err
	}
	x.pass(h)
	if h.ITT() == pdu.NoTag {
		return nil // the answer to our ping
	}
	var r pdu.Header
	r.SetOpcode(pdu.NopIn)
	r.SetFlags(pdu.Final)
	r.SetLUN(h.LUN())
	r.SetITT(h.ITT())
	r.SetTTT(pdu.NoTag)
	var data []byte
	if n := h.DataLen(); n > 0 {
		// Echoed as far as the initiator accepts; bounded by what we accept.
		data = make([]byte, n)
		if err := x.reader.ReadData(data); errors.Is(err, pdu.ErrDataDigest) {
			x.stats.digestErrors.Add(1)
			return x.reject(h, rejectDataDigest)
		} else if err != nil {
			return err
		}
		data = data[:min(n, int(x.sendMax.Load()))]
	}
	x.send(r, data, true, false)
	return nil
}

// scsiCommand takes a command from its header to where it waits for memory or data, or is done.
func (x *session) scsiCommand(h *pdu.Header) error {
	skip, err := x.sequence(h)
	if skip || err != nil {
		return err
	}
	if x.discovery {
		x.pass(h)
		return x.reject(h, rejectProtocol)
	}
	t := x.srv.tasks.Get().(*task)
	t.reset()
	t.s = x
	t.itt, t.cmdSN, t.lun = h.ITT(), h.CmdSN(), h.LUN()
	t.expectedLen = h.ExpectedLen()
	t.flagR, t.flagW = h.Flags()&pdu.Read != 0, h.Flags()&pdu.Write != 0
	if !x.add(t, !h.Immediate()) {
		x.srv.tasks.Put(t)
		x.pass(h)
		return x.reject(h, rejectImmediate)
	}
	x.pass(h)
	if t.flagW && h.DataLen() > 0 && !x.params.ImmediateData {
		return protocolError("immediate data, which was not agreed")
	}
	if h.DataLen() > 0 && (!t.flagW || h.DataLen() > int(t.expectedLen) || h.DataLen() > x.params.FirstBurst) {
		return protocolError("%d bytes of immediate data with a command that expects %d", h.DataLen(), t.expectedLen)
	}
	if t.flagW && !h.Final() && x.params.InitialR2T {
		return protocolError("unsolicited data, which was not agreed")
	}
	x.prepare(t, h.CDB())
	t.filling = true
	if t.start == nil { // already decided
		x.respond(t)
		return nil
	}
	return x.collect(t, h)
}

// respond queues the response of a task that executes nothing.
func (x *session) respond(t *task) {
	x.mu.Lock()
	t.filling = false
	if x.closed {
		x.freeLocked(t)
	} else {
		t.state = taskQueued
		t.out = out{t: t}
		x.enqueueLocked(&t.out)
	}
	x.mu.Unlock()
}

// collect gets memory for a task and reads its immediate data.
func (x *session) collect(t *task, h *pdu.Header) error {
	t.unsolicited = t.want > 0 && t.flagW && !h.Final()
	t.firstEnd = uint32(min(uint64(x.params.FirstBurst), uint64(t.want)))
	x.mu.Lock()
	switch {
	case x.closed:
		x.freeLocked(t)
		x.mu.Unlock()
		return io.EOF
	case t.need == 0 || (len(x.memQueue) == 0 && x.reserveLocked(t, int64(t.need))):
		t.state = taskCollecting
		x.buffer(t)
	default:
		t.state = taskMemory
		if t.want > 0 && (h.DataLen() > 0 || t.unsolicited) {
			t.held = x.srv.opt.Pool.Get(int(t.firstEnd))
		}
		x.memQueue = append(x.memQueue, t)
	}
	x.mu.Unlock()
	if err := x.fill(t, h); err != nil {
		return err
	}
	waits := t.state == taskMemory // only this goroutine changes it while filling is set
	x.advance(t, &x.wakes)
	if waits {
		x.pump()
	}
	return nil
}

// fill reads the data segment of a command or Data-Out to its place in the task's buffer. Bytes beyond what the command takes
// are dropped (the residual says so).
func (x *session) fill(t *task, h *pdu.Header) error {
	n := h.DataLen()
	if n == 0 {
		return nil
	}
	dst := t.cmd.Data
	if t.state == taskMemory {
		dst = t.held.B
	}
	at := int(t.got)
	take := min(n, int(t.want)-at)
	var err error
	if take == n {
		err = x.readData(t, dst, at, n)
	} else {
		whole := make([]byte, n)
		if err = x.reader.ReadData(whole); err == nil {
			copy(dst[at:], whole[:take])
		}
	}
	if errors.Is(err, pdu.ErrDataDigest) {
		// The connection is in step, only this command is damaged (RFC 7143 §7.8).
		x.stats.digestErrors.Add(1)
		_ = x.reject(h, rejectDataDigest)
		t.fail(scsi.Sense{Key: scsi.AbortedCommand, Code: scsi.ProtocolServiceCRC})
		t.start = damaged
		err = nil
	}
	t.got += uint32(take)
	return err
}

// readData reads the n bytes of a data segment to dst[at:]. The task's buffer takes the CRCs of its blocks as they come: whoever makes checksums of them
// need not look at the bytes again.
func (x *session) readData(t *task, dst []byte, at, n int) error {
	for end := at + n; at < end; {
		k, err := x.reader.ReadSome(dst[at:end])
		if k > 0 && t.buf != nil && t.state != taskMemory {
			t.buf.Filled(at, at+k)
		}
		if err != nil {
			return err
		}
		at += k
	}
	return nil
}

// damaged ends a command whose data did not arrive whole.
func damaged(t *task) { t.s.finishTask(t) }

// advance moves a task on after data or memory have come. The caller has set filling. later is for what the volume has to do.
func (x *session) advance(t *task, later *wakes.List) {
	x.mu.Lock()
	t.filling = false
	t.cmd.Wakes = later
	switch {
	case t.aborted || x.closed:
		if t.queued {
			t.dead = true
		} else {
			x.freeLocked(t)
		}
	case t.state == taskMemory:
	case t.got >= t.want:
		t.state = taskExecuting
		x.executing++
		x.mu.Unlock()
		x.execute(t)
		return
	case !t.unsolicited:
		x.solicitLocked(t)
	}
	x.mu.Unlock()
}

// solicitLocked asks for the next burst of data.
func (x *session) solicitLocked(t *task) {
	n := min(t.want-t.got, uint32(x.params.MaxBurst))
	t.burstEnd = t.got + n
	t.dataSN = 0
	t.ttt = uint32(x.srv.serials.Add(1))<<12&^0xfff | uint32(t.slot)&0xfff
	if t.ttt == pdu.NoTag {
		t.ttt &^= 1 << 31
	}
	t.ask = out{t: t, r2t: true}
	h := &t.ask.hdr
	h.SetOpcode(pdu.R2T)
	h.SetFlags(pdu.Final)
	h.SetLUN(t.lun)
	h.SetITT(t.itt)
	h.SetTTT(t.ttt)
	h.SetDataSN(t.r2tSN)
	h.SetBufferOffset(t.got)
	h.SetDesiredLen(n)
	t.r2tSN++
	t.queued = true
	x.enqueueLocked(&t.ask)
}

// dataOut takes a Data-Out PDU, unsolicited or in answer to an R2T.
func (x *session) dataOut(h *pdu.Header) error {
	if x.discovery {
		return x.reject(h, rejectProtocol)
	}
	x.mu.Lock()
	var t *task
	if ttt := h.TTT(); ttt == pdu.NoTag {
		i := slices.IndexFunc(x.slots, func(t *task) bool {
			return t != nil && t.itt == h.ITT() && t.unsolicited && (t.state == taskCollecting || t.state == taskMemory)
		})
		if i >= 0 {
			t = x.slots[i]
		}
	} else if slot := int(ttt & 0xfff); slot < len(x.slots) {
		if c := x.slots[slot]; c != nil && c.state == taskCollecting && c.ttt == ttt && c.itt == h.ITT() && !c.queued {
			t = c
		}
	}
	if t == nil || t.aborted {
		// Of a command that has ended already: by an error, or aborted (RFC 7143 §11.5.1: the data may still come).
		x.mu.Unlock()
		return nil
	}
	t.filling = true
	x.mu.Unlock()

	end := t.burstEnd
	if t.unsolicited {
		end = t.firstEnd
	}
	n := uint32(h.DataLen())
	if h.BufferOffset() != t.got || h.DataSN() != t.dataSN || uint64(t.got)+uint64(n) > uint64(max(end, t.got)) && !t.unsolicited ||
		t.unsolicited && uint64(t.got)+uint64(n) > uint64(x.params.FirstBurst) {
		// DataPDUInOrder is Yes and nothing gets lost within a connection: the initiator counts wrongly. The command fails, what
		// is still to come for it is dropped.
		t.fail(scsi.Sense{Key: scsi.AbortedCommand, Code: scsi.DataPhaseError})
		t.start = damaged
		t.got, t.unsolicited = t.want, false
		if t.state == taskMemory {
			x.leaveMemory(t)
		}
		x.advance(t, &x.wakes)
		return nil
	}
	t.dataSN++
	if err := x.fill(t, h); err != nil {
		return err
	}
	if t.unsolicited {
		if h.Final() || t.got >= t.want {
			t.unsolicited = false
		}
	} else if h.Final() && t.got < t.burstEnd {
		t.fail(scsi.Sense{Key: scsi.AbortedCommand, Code: scsi.DataPhaseError})
		t.start = damaged
		t.got = t.want
	} else if t.got < t.burstEnd {
		x.mu.Lock()
		t.filling = false
		if t.aborted || x.closed {
			x.freeLocked(t)
		}
		x.mu.Unlock()
		return nil
	}
	waits := t.state == taskMemory
	x.advance(t, &x.wakes)
	if waits {
		x.pump()
	}
	return nil
}

// leaveMemory lets a task go on that has failed and needs no memory any more.
func (x *session) leaveMemory(t *task) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i := slices.Index(x.memQueue, t); i >= 0 {
		x.memQueue = slices.Delete(x.memQueue, i, i+1)
	}
	t.state = taskCollecting
}
