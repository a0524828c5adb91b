package target

import (
	"fmt"

	"github.com/iomesh/iomesh/internal/scsi"
)

// sense is the one table from the outcome of a volume's command to SCSI. OK and Lost have no row of their own: OK is GOOD,
// after Lost nothing is answered.
func (r Result) sense(op Op) (scsi.Status, scsi.Sense) {
	switch r.Kind {
	case OK:
		return scsi.Good, scsi.Sense{}
	case MediumError:
		s := scsi.Sense{Key: scsi.MediumError, Code: scsi.UnrecoveredRead, HasInfo: true, Info: r.Offset / scsi.BlockBytes}
		if op == OpWrite || op == OpWriteZeroes || op == OpUnmap {
			s.Code = scsi.WriteError
		}
		return scsi.CheckCondition, s
	case SpaceExhausted:
		return scsi.CheckCondition, scsi.Sense{Key: scsi.DataProtect, Code: scsi.SpaceAllocationFailed}
	case Unavailable:
		// NOT READY would make initiators of some systems take the unit offline; ABORTED COMMAND is repeated.
		return scsi.CheckCondition, scsi.Sense{Key: scsi.AbortedCommand, Code: scsi.NotReadyCauseUnknown}
	case WriteProtected:
		return scsi.CheckCondition, scsi.Sense{Key: scsi.DataProtect, Code: scsi.WriteProtected}
	case Miscompare:
		return scsi.CheckCondition, scsi.Sense{Key: scsi.Miscompare, Code: scsi.MiscompareDuringVerify, HasInfo: true, Info: r.Offset}
	case OutOfRange:
		return scsi.CheckCondition, scsi.Illegal(scsi.LBAOutOfRange)
	case Aborted:
		return scsi.TaskAborted, scsi.Sense{}
	case Internal, Lost:
		return scsi.CheckCondition, scsi.Sense{Key: scsi.HardwareError, Code: scsi.InternalTargetFailure}
	}
	panic(fmt.Sprintf("target: outcome %d of %s has no SCSI status", r.Kind, op))
}
