package meta

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// reportFresh is how old an owner's report of a volume may be to count as the present.
const reportFresh = 5 * time.Second

// volumeFacts is everything a volume's status is computed from.
type volumeFacts struct {
	Volume  metadb.Volume
	Owner   metadb.Owner
	Extents []metadb.Extent
	Chunks  map[block.ChunkID]chunkFact
	Report  *storagedv1.VolumeReport // of the owner; nil = none
	At      time.Time                // of the report
	Now     time.Time
}

// volumeStatus says how a volume is, why, and what to do. It is a pure function of the facts.
//
// Sets come from metadata; whether an extent serves now, and the progress of copies, only the owner knows: its report is
// used if it is of the recorded epoch and fresh. Without one the sets and the reachability of their members are all there is.
func volumeStatus(f volumeFacts) *storagedv1.VolumeStatus {
	st := &storagedv1.VolumeStatus{Extents: uint32(len(f.Extents)), AsOf: timestamppb.New(f.Now)}
	fresh := f.Report != nil && f.Report.GetEpoch() == uint64(f.Owner.Epoch) && f.Now.Sub(f.At) <= reportFresh
	if f.Report != nil {
		r := f.Report.GetStatus()
		st.ResyncBytesLeft, st.ResyncBytesDone = r.GetResyncBytesLeft(), r.GetResyncBytesDone()
		st.AllocatedBytes, st.SnapshotBytes, st.Sessions = r.GetAllocatedBytes(), r.GetSnapshotBytes(), r.GetSessions()
		if !fresh {
			st.AsOf = timestamppb.New(f.At)
			st.ResyncBytesLeft = 0
		}
	}
	var worst []string // nodes whose return or replacement would help
	atRisk := 0
	for i := range f.Extents {
		e := &f.Extents[i]
		full, reachable := 0, 0
		for _, m := range e.Members {
			if m.Kind != metadb.KindFull {
				continue
			}
			full++
			if f.Chunks[m.Chunk].Present {
				reachable++
			} else {
				worst = appendNew(worst, f.Chunks[m.Chunk].Node)
			}
		}
		if full < int(f.Volume.ReplicaFactor) {
			for _, a := range e.Absent {
				worst = appendNew(worst, f.Chunks[a.Chunk].Node)
			}
		}
		n := min(full, reachable)
		switch {
		case n < int(f.Volume.MinReplicas):
			st.ExtentsUnavailable++
		case n < int(f.Volume.ReplicaFactor):
			st.ExtentsDegraded++
			if n == int(f.Volume.MinReplicas) {
				atRisk++
			}
		}
	}
	owner, ok := f.Chunks[f.Owner.Chunk]
	switch {
	case f.Volume.State == metadb.StateCreating:
		st.Health, st.Reason = storagedv1.Health_HEALTH_UNAVAILABLE, "the volume is being created"
		return st
	case f.Volume.State == metadb.StateDeleting:
		st.Health, st.Reason = storagedv1.Health_HEALTH_UNAVAILABLE, "the volume is being deleted"
		return st
	case !ok || !owner.Present:
		st.Health = storagedv1.Health_HEALTH_UNAVAILABLE
		st.Reason = fmt.Sprintf("its owner, chunk %d on node %s, is offline and no other chunk with its data is online", f.Owner.Chunk, owner.Node)
		st.NextStep = "bring back one of the nodes " + strings.Join(worst, ", ")
		return st
	case fresh && f.Report.GetStatus().GetExtentsUnavailable() > st.ExtentsUnavailable:
		st.ExtentsUnavailable = f.Report.GetStatus().GetExtentsUnavailable()
	}
	nodes := strings.Join(worst, ", ")
	switch {
	case st.ExtentsUnavailable > 0:
		st.Health = storagedv1.Health_HEALTH_UNAVAILABLE
		st.Reason = fmt.Sprintf("%d of %d extents do not take writes", st.ExtentsUnavailable, st.Extents)
		if r := f.Report.GetStatus().GetReason(); fresh && r != "" {
			st.Reason += ": " + r
		} else if nodes != "" {
			st.Reason += fmt.Sprintf(": they need %s of the replicas on %s", count(int(f.Volume.MinReplicas), "full replica"), nodes)
		}
		st.NextStep = "bring back " + orText(nodes, "the offline nodes or disks")
		if r := f.Report.GetStatus().GetNextStep(); fresh && r != "" {
			st.NextStep = r
		}
	case st.ExtentsDegraded > 0:
		st.Health = storagedv1.Health_HEALTH_DEGRADED
		if atRisk > 0 {
			st.Health = storagedv1.Health_HEALTH_AT_RISK
		}
		st.Reason = fmt.Sprintf("%d of %d extents have fewer than %s in sync", st.ExtentsDegraded, st.Extents, count(int(f.Volume.ReplicaFactor), "replica"))
		if nodes != "" {
			st.Reason += "; missing on " + nodes
		}
		switch {
		case st.ResyncBytesLeft > 0:
			st.NextStep = fmt.Sprintf("none: %s are left to copy", bytesText(st.ResyncBytesLeft))
		case nodes != "":
			st.NextStep = "bring back " + nodes + ", or wait until its replicas are rebuilt elsewhere"
		}
	case !fresh:
		st.Health = storagedv1.Health_HEALTH_OK
		st.Reason = "all replicas are recorded as in sync; the owner has not reported yet"
	default:
		st.Health = storagedv1.Health_HEALTH_OK
	}
	return st
}

func appendNew(list []string, s string) []string {
	if s == "" {
		return list
	}
	for _, v := range list {
		if v == s {
			return list
		}
	}
	return append(list, s)
}

func orText(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
