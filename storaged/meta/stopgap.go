package meta

import (
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// planDelta decides whether an extent is to get a delta member (I10), while planExtent waits for replicas that are away: what is written meanwhile
// would be on fewer disks than wished, for as long as the repair delay. The delta goes to a node that has neither a member nor an absent replica of
// the extent. The owner drops it when there are enough full members, and decides in the end whether it helps: it knows who is coming back.
func planDelta(e *metadb.Extent, factor int, health func(block.DiskID) diskHealth) (repairStep, bool) {
	step := repairStep{Extent: e.ID, Kind: "rebuild", Add: 1, Delta: true}
	full := 0
	for _, m := range e.Members {
		if m.Kind != metadb.KindFull {
			return repairStep{}, false
		}
		full++
		step.Keep = append(step.Keep, m.Disk)
	}
	if full == 0 || full >= factor {
		return repairStep{}, false
	}
	away := false
	for _, a := range e.Absent {
		step.Keep = append(step.Keep, a.Disk)
		// Without a watermark nobody knows what it lacks, so a delta cannot complete it.
		away = away || a.Watermark != 0 && health(a.Disk) == diskReturning
	}
	return step, away
}
