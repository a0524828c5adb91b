package target

import (
	"slices"

	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
)

// Functions of task management requests (RFC 7143 §11.5.1).
const (
	tmfAbortTask     = 1
	tmfAbortTaskSet  = 2
	tmfClearACA      = 3
	tmfClearTaskSet  = 4
	tmfLUNReset      = 5
	tmfWarmReset     = 6
	tmfColdReset     = 7
	tmfTaskReassign  = 8
	tmfComplete      = 0 // responses, §11.6.1
	tmfNoTask        = 1
	tmfNoLUN         = 2
	tmfNoReassign    = 4
	tmfNotSupported  = 5
	tmfRejected      = 255
	managingMax      = 16
	reasonCloseConn  = 1
	reasonRecoverCID = 2
)

// mark is one use of a task.
type mark struct {
	t      *task
	serial uint64
}

// markTasks makes sure that the tasks that match have no further effect than those in execution may have, and returns the latter. With abort they get
// no response and the volume is told.
func (x *session) markTasks(abort bool, match func(*task) bool) []mark {
	x.mu.Lock()
	defer x.mu.Unlock()
	var list []mark
	for _, t := range x.slots {
		if t == nil || t.state == taskIdle || t.state == taskQueued || (match != nil && !match(t)) {
			continue
		}
		switch t.state {
		case taskExecuting:
			list = append(list, mark{t, t.serial})
			if abort {
				x.abandonLocked(t)
			}
		case taskMemory, taskCollecting:
			if abort {
				x.abandonLocked(t)
			}
		}
	}
	return list
}

// awaitMarks returns when the marked tasks are no longer executing.
func (x *session) awaitMarks(list []mark) {
	if x.srv.opt.planted == plantEarlyAbort {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range list {
		for m.t.serial == m.serial && m.t.state == taskExecuting {
			x.goneCond.Wait()
		}
	}
}

// drain waits for the tasks in execution, which it aborts if told so.
func (x *session) drain(abort bool, match func(*task) bool) {
	x.awaitMarks(x.markTasks(abort, match))
}

// taskManagement starts a task management function. It is answered from a goroutine of its own, once every affected command has
// ended or can never take effect (I14).
func (x *session) taskManagement(h *pdu.Header) error {
	skip, err := x.sequence(h)
	if skip || err != nil {
		return err
	}
	x.pass(h)
	if x.discovery {
		return x.reject(h, rejectProtocol)
	}
	req := *h
	function := req.Function()
	reply := func(code byte) {
		var r pdu.Header
		r.SetOpcode(pdu.TaskResp)
		r.SetFlags(pdu.Final)
		r.SetResponse(code)
		r.SetITT(req.ITT())
		x.send(r, nil, true, false)
	}
	switch function {
	case tmfAbortTask, tmfAbortTaskSet, tmfClearTaskSet, tmfLUNReset:
		if lunOf(req.LUN()) != lunID {
			reply(tmfNoLUN)
			return nil
		}
	case tmfWarmReset, tmfColdReset:
	case tmfTaskReassign:
		reply(tmfNoReassign)
		return nil
	case tmfClearACA:
		reply(tmfNotSupported) // NORMACA is 0
		return nil
	default:
		reply(tmfRejected)
		return nil
	}
	x.mu.Lock()
	if x.managing >= managingMax {
		x.mu.Unlock()
		reply(tmfRejected)
		return nil
	}
	x.managing++
	x.mu.Unlock()
	// What is to be aborted is settled here, in the order of arrival; only the waiting is done elsewhere.
	wait := x.beginFunction(function, &req)
	go func() {
		code := wait()
		reply(code)
		x.mu.Lock()
		x.managing--
		x.goneCond.Broadcast()
		x.mu.Unlock()
		if function == tmfColdReset && code == tmfComplete {
			x.afterColdReset()
		}
	}()
	return nil
}

// beginFunction does what is to be done at once and returns what is to be waited for.
func (x *session) beginFunction(function byte, req *pdu.Header) (wait func() byte) {
	if function == tmfAbortTask {
		tag := req.RefTag()
		known := x.unanswered(tag)
		list := x.markTasks(true, func(t *task) bool { return t.itt == tag && t.lun == req.LUN() })
		// A command that is not known but inside the window counts as aborted; before it, it has been answered (RFC 7143 §11.6.1).
		if !known && !x.inWindow(req.RefCmdSN()) {
			return func() byte { return tmfNoTask }
		}
		return func() byte { x.awaitMarks(list); return tmfComplete }
	}
	if function == tmfAbortTaskSet {
		list := x.markTasks(true, nil)
		return func() byte { x.awaitMarks(list); return tmfComplete }
	}
	peers := x.dev.peers()
	lists := make([][]mark, len(peers))
	for i, y := range peers {
		lists[i] = y.markTasks(true, nil)
	}
	if function != tmfClearTaskSet {
		x.dev.holder.Store(nil) // RESERVE (6) ends with a reset
		x.dev.mode.Store(&scsi.Mode{})
	}
	for _, y := range peers {
		switch {
		case function == tmfClearTaskSet:
			if y != x {
				y.attention(scsi.CommandsClearedByOther)
			}
		default:
			y.attention(scsi.BusDeviceReset)
		}
	}
	return func() byte {
		for i, y := range peers {
			y.awaitMarks(lists[i])
		}
		return tmfComplete
	}
}

// unanswered reports whether a command with this tag is in the session and has no response on the way.
func (x *session) unanswered(tag uint32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(x.slots, func(t *task) bool { return t != nil && t.itt == tag && t.state != taskQueued })
}

func (x *session) inWindow(sn uint32) bool {
	exp := x.expCmdSN.Load()
	return !pdu.After(exp, sn) && !pdu.After(sn, x.maxCmdSN.Load())
}

// afterColdReset closes the connections of all initiators of the target (RFC 7143 §11.5.1), this one after its answer.
func (x *session) afterColdReset() {
	for _, y := range x.dev.peers() {
		if y != x {
			y.close("target cold reset")
		}
	}
	var h pdu.Header
	h.SetOpcode(pdu.AsyncMsg)
	h.SetFlags(pdu.Final)
	h.SetITT(pdu.NoTag)
	h.SetAsyncEvent(3) // all connections of the session will be dropped
	x.send(h, nil, true, true)
}

// logout answers a logout request when the commands of the session have ended (I14), and closes the connection.
func (x *session) logout(h *pdu.Header) error {
	skip, err := x.sequence(h)
	if skip || err != nil {
		return err
	}
	x.pass(h)
	code := byte(0)
	switch h.Function() {
	case reasonCloseConn:
		if h.CID() != x.cid {
			code = 1 // CID not found
		}
	case reasonRecoverCID:
		code = 2 // recovery not supported
	}
	var r pdu.Header
	r.SetOpcode(pdu.LogoutResp)
	r.SetFlags(pdu.Final)
	r.SetResponse(code)
	r.SetITT(h.ITT())
	if code != 0 {
		x.send(r, nil, true, false)
		return nil
	}
	list := x.markTasks(true, nil)
	x.awaitMarks(list)
	x.send(r, nil, true, true)
	return errLogout
}

// lingerAfterLogout waits until the writer has sent the last response and closed the connection, or the initiator has.
func (x *session) lingerAfterLogout() error {
	x.wakes.Wake()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.corked = false
	x.wakeWriterLocked()
	for !x.closed {
		x.goneCond.Wait()
	}
	return nil
}
