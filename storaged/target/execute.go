package target

import (
	"github.com/iomesh/iomesh/internal/scsi"
)

// prepare decodes a command, checks what can be checked before its data, and sets start, want, need; or decides it (start nil).
func (x *session) prepare(t *task, cdb []byte) {
	var sense scsi.Sense
	t.req, sense = scsi.Decode(cdb)
	r := &t.req
	there := lunOf(t.lun) == lunID
	if !there && !absentMay(cdb[0]) {
		x.stats.others.Add(1)
		t.fail(scsi.Illegal(scsi.LUNNotSupported))
		return
	}
	if there && r.Verb != scsi.VerbInquiry && r.Verb != scsi.VerbReportLUNs && r.Verb != scsi.VerbRequestSense {
		if c, ok := x.takeAttention(); ok {
			x.stats.others.Add(1)
			t.fail(scsi.Sense{Key: scsi.UnitAttention, Code: c})
			return
		}
	}
	if !sense.OK() {
		x.stats.others.Add(1)
		t.fail(sense)
		return
	}
	if there && !x.admit(t) {
		return
	}
	switch r.Verb {
	case scsi.VerbRead, scsi.VerbWrite, scsi.VerbWriteVerify, scsi.VerbVerify, scsi.VerbPrefetch, scsi.VerbSync, scsi.VerbWriteSame,
		scsi.VerbCompareAndWrite, scsi.VerbOrWrite, scsi.VerbUnmap, scsi.VerbGetLBAStatus:
		x.prepareMedium(t)
	default:
		x.stats.others.Add(1)
		x.prepareControl(t)
	}
}

// lunOf decodes a single level LUN of peripheral or flat addressing; other forms give -1.
func lunOf(l uint64) int {
	if l&(1<<48-1) != 0 {
		return -1
	}
	switch l >> 62 {
	case 0:
		if l>>56 != 0 {
			return -1 // another bus
		}
		return int(l >> 48 & 0xff)
	case 1:
		return int(l >> 48 & 0x3fff)
	}
	return -1
}

// absentMay lists the commands that are answered for logical units that are not there (SPC-4 5.9).
func absentMay(opcode byte) bool {
	return opcode == scsi.OpInquiry || opcode == scsi.OpReportLUNs || opcode == scsi.OpRequestSense
}

// admit checks reservations and protection. False: the task is decided.
func (x *session) admit(t *task) bool {
	r := &t.req
	if x.conflicts(t) {
		t.status = scsi.ReservationConflict
		return false
	}
	if r.Writes && x.protected() {
		t.fail(scsi.Sense{Key: scsi.DataProtect, Code: scsi.WriteProtected})
		return false
	}
	return true
}

func (x *session) protected() bool { return x.grant.ReadOnly || x.dev.mode.Load().SoftwareProtect }

// conflicts reports whether reservations forbid a command. It is asked when the command arrives and again right before it is
// submitted, since its data may come after another initiator has taken the reservation.
func (x *session) conflicts(t *task) bool {
	d := x.dev
	if a := d.access.Load(); a.Type != 0 && a.Conflict(x.nexus, classOf(&t.req)) {
		return true
	}
	if h := d.holder.Load(); h != nil && h != x {
		switch t.req.Verb {
		case scsi.VerbInquiry, scsi.VerbReportLUNs, scsi.VerbRequestSense, scsi.VerbRelease:
		case scsi.VerbPreventAllow:
			return t.req.CDB[4]&3 != 0
		default:
			return true
		}
	}
	return false
}

// classOf refines the class of commands for which it depends on the CDB.
func classOf(r *scsi.Request) scsi.Class {
	switch r.Verb {
	case scsi.VerbPreventAllow:
		if r.CDB[4]&3 != 0 {
			return scsi.ClassWrite
		}
	case scsi.VerbStartStop:
		if r.CDB[4]&0xf0 == 0 && r.CDB[4]&1 != 0 {
			return scsi.ClassFree // START
		}
	}
	return r.Class
}

// execute starts a task whose data are here. It counts as executing.
func (x *session) execute(t *task) {
	if t.state == taskExecuting && len(t.sense) == 0 && lunOf(t.lun) == lunID && x.conflicts(t) {
		t.status = scsi.ReservationConflict
		x.finishTask(t)
		return
	}
	t.start(t)
}

// submit hands the task's command to the volume.
func (x *session) submit(t *task, op Op, offset, length uint64) {
	t.cmd.Op, t.cmd.Offset, t.cmd.Length = op, offset, length
	t.cmd.Done = completed
	x.dev.volume.Submit(&t.cmd)
}

// completed is the Done of commands that are a task's only one.
func completed(c *Command, r Result) {
	t := c.task
	if r.Kind == Lost {
		t.s.lose(t)
		return
	}
	if r.Kind == OK {
		if c.Op == OpRead {
			t.data = c.Data
		}
	} else {
		t.finish(r)
	}
	t.s.finishTask(t)
}

// lose drops the sessions of a volume that has another owner. The task gets no answer.
func (x *session) lose(t *task) {
	x.mu.Lock()
	t.aborted = true
	x.mu.Unlock()
	x.dev.lost()
	x.finishTask(t)
}

// finishTask ends the execution of a task and queues its response, unless it was aborted.
func (x *session) finishTask(t *task) {
	later := t.cmd.later
	t.cmd.later = nil
	x.mu.Lock()
	x.executing--
	queued := !t.aborted && !x.closed
	if queued {
		t.state = taskQueued
		t.out = out{t: t}
		x.appendLocked(&t.out)
	} else {
		x.freeLocked(t)
	}
	waiting := len(x.memQueue) > 0
	x.mu.Unlock()
	if queued {
		later.Later(x)
	}
	if waiting {
		x.pump()
	}
}

// background runs f for a task in a goroutine: commands of several steps, or that wait for the metadata. The session counts the
// task as executing, so that it waits for it.
func (x *session) background(t *task, f func(*task)) {
	go func() {
		f(t)
		x.finishTask(t)
	}()
}

// do runs one command of the volume and waits for it; for tasks in the background.
func (t *task) do(op Op, offset, length uint64, data []byte) Result {
	if t.wait == nil {
		t.wait = make(chan Result, 1)
	}
	t.cmd.Op, t.cmd.Offset, t.cmd.Length, t.cmd.Data = op, offset, length, data
	t.cmd.Done, t.cmd.Wakes = stepped, nil
	t.s.dev.volume.Submit(&t.cmd)
	return <-t.wait
}

func stepped(c *Command, r Result) {
	c.later = nil
	c.task.wait <- r
}

// step is do that ends the task unless the result is OK. A task that is being aborted is not continued.
func (t *task) step(op Op, offset, length uint64, data []byte) bool {
	if t.cmd.Aborting() {
		t.finish(Result{Kind: Aborted})
		return false
	}
	r := t.do(op, offset, length, data)
	switch r.Kind {
	case OK:
		return true
	case Lost:
		t.s.mu.Lock()
		t.aborted = true
		t.s.mu.Unlock()
		t.s.dev.lost()
	default:
		t.finish(r)
	}
	return false
}
