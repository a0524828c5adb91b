package target

import (
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/pagebuf"
)

// taskState is where a task is. Changes are made under session.mu.
//
//	          data to come                 all data here
//	idle ──▶ memory ──▶ collecting ──▶ executing ──▶ queued ──▶ idle
//	            └───────────────────────▶ (reads)      (response waits for the writer)
//
// An abort takes a task from memory or collecting to idle at once, since it can never take effect; in executing it is marked, and
// leaves when the volume has completed it, without a response (I14).
type taskState uint8

const (
	taskIdle taskState = iota
	taskMemory
	taskCollecting
	taskExecuting
	taskQueued
)

// task is one SCSI command of an initiator. Pooled.
type task struct {
	s   *session
	cmd Command
	req scsi.Request

	state   taskState
	serial  uint64 // changes with each use, so that waiters see the end of the use they mean
	slot    int
	counted bool // takes a place in the command window
	aborted bool // no response is sent
	queued  bool // is in the session's out queue
	dead    bool // aborted while its R2T is in the out queue: the writer frees it

	itt, cmdSN   uint32
	lun          uint64
	expectedLen  uint32 // of the direction the command has
	flagR, flagW bool

	// Data-Out. held is where unsolicited data wait while there is no memory for the whole.
	want, got   uint32
	unsolicited bool // unsolicited data may still come
	firstEnd    uint32
	burstEnd    uint32
	dataSN      uint32
	r2tSN       uint32
	ttt         uint32
	held        *pagebuf.Buf
	filling     bool   // the reader, or pump, is at work on it: an abort leaves it to them
	need        uint32 // bytes of buffer
	lent        bool   // which the volume provides
	mem         int64
	buf         *pagebuf.Buf
	start       func(*task) // what to do when all data are here

	// Response.
	status   scsi.Status
	sense    []byte
	data     []byte // Data-In
	dataFrom uint64 // length the command has by its CDB, for the residual
	senseBuf [64]byte

	out  out         // the response
	ask  out         // an R2T; apart, since the response may be queued before the writer is done with it
	wait chan Result // of tasks that run in a goroutine of their own
}

func newTask() any {
	t := &task{}
	t.cmd.task = t
	return t
}

// reset prepares a task from the pool for a new command. serial and what the volume keeps survive.
func (t *task) reset() {
	private, serial, wait := t.cmd.Private, t.serial, t.wait
	t.cmd.Op, t.cmd.Atomic, t.cmd.MayUnmap = 0, false, false
	t.cmd.Offset, t.cmd.Length = 0, 0
	t.cmd.Data, t.cmd.Buf = nil, nil
	t.cmd.Done = nil
	t.cmd.aborting.Store(false)
	t.cmd.Private = private
	t.state, t.serial, t.slot = taskIdle, serial, -1
	t.counted, t.aborted, t.queued, t.dead = false, false, false, false
	t.cmd.Wakes, t.cmd.later = nil, nil
	t.want, t.got, t.unsolicited, t.firstEnd, t.burstEnd = 0, 0, false, 0, 0
	t.dataSN, t.r2tSN, t.ttt = 0, 0, pdu.NoTag
	t.held, t.filling, t.need, t.lent, t.mem, t.buf, t.start = nil, false, 0, false, 0, nil, nil
	t.status, t.sense, t.data, t.dataFrom = scsi.Good, nil, nil, 0
	t.wait = wait
}

// fail ends a command with CHECK CONDITION.
func (t *task) fail(s scsi.Sense) {
	t.status = scsi.CheckCondition
	t.sense = s.Append(t.senseBuf[:0], t.s.descriptorSense())
	t.data, t.dataFrom = nil, 0
}

// finish takes over the result of a volume's command.
func (t *task) finish(r Result) {
	status, sense := r.sense(t.cmd.Op)
	t.status = status
	if status == scsi.CheckCondition {
		t.fail(sense)
	}
}
