package meta

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// reportFresh is how old an owner's report of a volume may be to count as the present.
const reportFresh = status.ReportFresh

// volumeFacts is everything a volume's status is computed from.
type volumeFacts struct {
	Volume  metadb.Volume
	Owner   metadb.Owner
	Extents []metadb.Extent
	Chunks  map[block.ChunkID]chunkFact
	Report  *storagedv1.VolumeReport // of the owner; nil = none
	At      time.Time                // of the report
	Now     time.Time
	// Unconfirmed is why the volume is not served since the metadata was restored; "" if it is.
	Unconfirmed string
}

// volumeStatus says how a volume is, why, and what to do: package status, from the records and the owner's report. It is a pure function of
// the facts.
func volumeStatus(f volumeFacts) *storagedv1.VolumeStatus {
	st := &storagedv1.VolumeStatus{Extents: uint32(len(f.Extents)), AsOf: timestamppb.New(f.Now)}
	owner, ok := f.Chunks[f.Owner.Chunk]
	v := status.Volume{ID: f.Volume.ID.String(), Name: f.Volume.Name, Factor: int(f.Volume.ReplicaFactor), Min: int(f.Volume.MinReplicas),
		Owner: uint32(f.Owner.Chunk), OwnerNode: owner.Node, OwnerOnline: ok && (owner.Present || owner.Expected)}
	switch f.Volume.State {
	case metadb.StateCreating:
		v.Life = status.Creating
	case metadb.StateDeleting:
		v.Life = status.Deleting
	}
	r := f.Report.GetStatus()
	if f.Report != nil && f.Report.GetEpoch() == uint64(f.Owner.Epoch) {
		v.Report = &status.Report{At: f.At, Unavailable: int(r.GetExtentsUnavailable()), Reason: r.GetReason(), NextStep: r.GetNextStep(), ResyncBytesLeft: r.GetResyncBytesLeft()}
	}
	fresh := v.Fresh(f.Now)
	if f.Report != nil {
		st.ResyncBytesLeft, st.ResyncBytesDone = r.GetResyncBytesLeft(), r.GetResyncBytesDone()
		st.AllocatedBytes, st.SnapshotBytes, st.Sessions = r.GetAllocatedBytes(), r.GetSnapshotBytes(), r.GetSessions()
		if !fresh {
			st.AsOf = timestamppb.New(f.At)
			st.ResyncBytesLeft = 0
		}
	}
	for i := range f.Extents {
		e := &f.Extents[i]
		x := status.Extent{Factor: v.Factor, Min: v.Min}
		for _, m := range e.Members {
			if m.Kind != metadb.KindFull {
				continue
			}
			x.Full++
			if c := f.Chunks[m.Chunk]; c.Present || c.Expected {
				x.Reachable++
			} else {
				v.Missing = status.AppendNew(v.Missing, f.Chunks[m.Chunk].Node)
			}
		}
		if x.Full < x.Factor {
			for _, a := range e.Absent {
				v.Missing = status.AppendNew(v.Missing, f.Chunks[a.Chunk].Node)
			}
		}
		v.Extents.Add(x)
	}
	st.ExtentsUnavailable, st.ExtentsDegraded = uint32(v.Extents.Unavailable), uint32(v.Extents.Degraded+v.Extents.AtRisk)
	if fresh {
		st.ExtentsUnavailable = max(st.ExtentsUnavailable, r.GetExtentsUnavailable())
	}
	verdict := status.OfVolume(v, f.Now)
	st.Health, st.Reason, st.NextStep = verdict.State.Wire(), verdict.Reason(), verdict.NextStep()
	if f.Unconfirmed != "" {
		st.Health, st.ExtentsUnavailable = storagedv1.Health_HEALTH_UNAVAILABLE, st.Extents
		st.Reason = "the metadata was restored from a backup: " + f.Unconfirmed
		st.NextStep = "bring the missing disks back, or look at what would be lost with: storaged ctl volume accept-loss " + f.Volume.Name
	}
	return st
}
