package target

import (
	"context"

	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// prepareControl answers the commands that do not touch the medium.
func (x *session) prepareControl(t *task) {
	r, d := &t.req, x.dev
	u := d.unit()
	there := lunOf(t.lun) == lunID
	var data []byte
	var sense scsi.Sense
	switch r.Verb {
	case scsi.VerbInquiry:
		peripheral := byte(0)
		switch {
		case there:
		case lunOf(t.lun) == 0:
			peripheral = scsi.PeripheralCapable
		default:
			peripheral = scsi.PeripheralNever
		}
		if r.CDB[1]&1 == 0 {
			data = u.Inquiry(nil, peripheral)
		} else {
			data, sense = u.VPD(nil, r.CDB[2], peripheral)
		}
	case scsi.VerbReportLUNs:
		data, sense = scsi.ReportLUNs(nil, lunID<<48, r.CDB[2])
	case scsi.VerbRequestSense:
		s := scsi.Sense{}
		if !there {
			s = scsi.Illegal(scsi.LUNNotSupported)
		} else if c, ok := x.takeAttention(); ok {
			s = scsi.Sense{Key: scsi.UnitAttention, Code: c}
		}
		data = s.Append(nil, r.CDB[1]&1 != 0)
	case scsi.VerbTestUnitReady, scsi.VerbStartStop, scsi.VerbPreventAllow:
		// Accepted without effect: the medium is not removable and nothing spins.
	case scsi.VerbReadCapacity10:
		data = u.ReadCapacity10(nil)
	case scsi.VerbReadCapacity16:
		data = u.ReadCapacity16(nil)
	case scsi.VerbReadDefect:
		data = scsi.ReadDefectData(nil, r)
	case scsi.VerbReportTPG:
		data, sense = scsi.ReportTargetPortGroups(nil, r.CDB[1])
	case scsi.VerbReportOpcodes:
		data, sense = scsi.ReportOpcodes(nil, r)
	case scsi.VerbModeSense:
		data, sense = u.ModeSense(nil, r, *d.mode.Load(), x.protected())
	case scsi.VerbModeSelect:
		if t.takes(uint64(r.ParameterBytes)) {
			t.start = inBackground(modeSelect)
		}
		return
	case scsi.VerbPRIn:
		data, sense = d.access.Load().In(nil, r.Service)
	case scsi.VerbPROut:
		if d.holder.Load() != nil {
			t.status = scsi.ReservationConflict // RESERVE (6) is in force (SPC-2 5.5.3)
			return
		}
		if r.ParameterBytes > 1024 {
			t.fail(scsi.Illegal(scsi.ParameterListLength))
			return
		}
		if t.takes(uint64(r.ParameterBytes)) {
			t.start = inBackground(reserveOut)
		}
		return
	case scsi.VerbReserve:
		x.reserve(t)
		return
	case scsi.VerbRelease:
		d.holder.CompareAndSwap(x, nil) // of another: GOOD without effect
		return
	}
	if !sense.OK() {
		t.fail(sense)
		return
	}
	if data != nil {
		t.replyData(data)
	}
}

// reserve is RESERVE (6) and (10) of SPC-2, which exclude persistent reservations.
func (x *session) reserve(t *task) {
	d := x.dev
	d.changing.Lock()
	defer d.changing.Unlock()
	if len(d.access.Load().Registrations) > 0 {
		t.status = scsi.ReservationConflict
		return
	}
	if h := d.holder.Load(); h != nil && h != x {
		t.status = scsi.ReservationConflict
		return
	}
	d.holder.Store(x)
}

func modeSelect(t *task) {
	d := t.s.dev
	var data []byte
	if t.want > 0 {
		data = t.cmd.Data[:t.got]
	}
	if len(data) < int(t.req.ParameterBytes) {
		t.fail(scsi.Illegal(scsi.ParameterListLength))
		return
	}
	d.changing.Lock()
	was := *d.mode.Load()
	u := d.unit()
	next, sense := u.ModeSelect(&t.req, data, was)
	if sense.OK() {
		d.mode.Store(&next)
	}
	d.changing.Unlock()
	if !sense.OK() {
		t.fail(sense)
		return
	}
	if next == was {
		return
	}
	for _, y := range d.peers() {
		if y != t.s {
			y.attention(scsi.ModeParametersChanged)
		}
	}
}

// reserveOut is PERSISTENT RESERVE OUT. It is answered when the new state is stored, and when the commands of those who lost
// their registration are over (I14).
func reserveOut(t *task) {
	x, d := t.s, t.s.dev
	var data []byte
	if t.want > 0 {
		data = t.cmd.Data[:t.got]
	}
	o, sense := scsi.ParseReserveOut(&t.req, data)
	if !sense.OK() {
		t.fail(sense)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeouts.WriteWait)
	defer cancel()
	effect, status, sense, err := d.reserveOut(ctx, x.nexus, o)
	switch {
	case err != nil:
		x.log.Warn("reservations could not be stored", "error", err)
		t.fail(scsi.Sense{Key: scsi.HardwareError, Code: scsi.InternalTargetFailure})
		return
	case status == scsi.CheckCondition:
		t.fail(sense)
		return
	case status != scsi.Good:
		t.status = status
		return
	}
	d.tell(effect.Attentions)
	for _, y := range d.peers() {
		for _, n := range effect.Preempted {
			if y != x && y.nexus == n {
				// Not its PERSISTENT RESERVE OUT: that may be waiting for ours.
				y.drain(effect.Abort, func(t *task) bool { return t.req.Verb != scsi.VerbPROut })
			}
		}
	}
}
