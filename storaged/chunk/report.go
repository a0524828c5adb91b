package chunk

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

func compare(a, b string) int { return strings.Compare(a, b) }

func (s *Server) diskReport(d *disk) *storagedv1.DiskReport {
	st := d.store.Stats()
	sb := d.store.Superblock()
	r := &storagedv1.Disk{Id: d.id.String(), Name: d.entry.Name, Node: s.o.Node, Chunk: uint32(s.id), MountType: d.entry.MountType,
		SizeBytes: uint64(max(0, st.CapacityBytes)), UsedBytes: uint64(max(0, st.UsedBytes)), Replicas: uint32(st.Replicas),
		IoErrors: st.ReadErrors + st.WriteErrors, ChecksumErrors: st.ChecksumErrors + st.MetaErrors, Device: d.entry.Device,
		LastSeen: timestamppb.Now()}
	r.State, r.Message = s.diskState(d)
	return &storagedv1.DiskReport{Disk: r, MountCounter: sb.MountCount}
}

// diskState is how a disk is, and why if it is not Active.
func (s *Server) diskState(d *disk) (state, why string) {
	if err := s.disks.failure(d); err != nil {
		return "Failed", err.Error()
	}
	if what := d.stalled.Load(); what != nil {
		return "Stalled", *what
	}
	return "Active", ""
}

// report describes an owned volume: what the machine reported last.
func (v *volume) report() *storagedv1.VolumeReport {
	st := &storagedv1.VolumeStatus{AsOf: timestamppb.Now()}
	r := &storagedv1.VolumeReport{VolumeId: v.id.String(), Epoch: uint64(v.owner.Epoch), Status: st}
	names := map[string]bool{}
	for _, s := range v.s.target.Sessions(v.id.IQN()) {
		st.Sessions++
		if !names[s.Initiator] {
			names[s.Initiator] = true
			r.Initiators = append(r.Initiators, s.Initiator)
		}
	}
	live, snap := v.space()
	v.mu.Lock()
	defer v.mu.Unlock()
	st.AllocatedBytes, st.SnapshotBytes = live, snap
	v.o.Initiators(len(names))
	wanted := v.factor
	st.Extents = uint32(len(v.extent))
	atRisk := 0
	for i := range v.extent {
		x := &v.extent[i]
		full := 0
		for _, m := range x.record.Members {
			if m.Kind == replication.Full {
				full++
			}
		}
		serving := x.phase == replication.PhaseServing
		st.ResyncBytesLeft += x.left
		st.ResyncBytesDone += x.copied
		if !serving {
			st.ExtentsUnavailable++
		} else if full < wanted {
			st.ExtentsDegraded++
			if full == 1 {
				atRisk++
			}
		}
		if serving && full >= wanted && len(x.record.Absent) == 0 {
			continue
		}
		st.ExtentStatus = append(st.ExtentStatus, v.extentStatus(i, x))
	}
	st.Health = storagedv1.Health_HEALTH_OK
	switch {
	case st.ExtentsUnavailable > 0:
		st.Health, st.Reason = storagedv1.Health_HEALTH_UNAVAILABLE, fmt.Sprintf("%d of %d extents do not serve", st.ExtentsUnavailable, st.Extents)
	case atRisk > 0:
		st.Health, st.Reason = storagedv1.Health_HEALTH_AT_RISK, fmt.Sprintf("%d of %d extents have one replica left", atRisk, st.Extents)
	case st.ExtentsDegraded > 0:
		st.Health, st.Reason = storagedv1.Health_HEALTH_DEGRADED, fmt.Sprintf("%d of %d extents have fewer than %d replicas", st.ExtentsDegraded, st.Extents, wanted)
	}
	return r
}

// space is what the volume's content takes, one copy: of the extents with a replica on this chunk, which are all of them when the owner
// is where it should be.
func (v *volume) space() (live, snapshots uint64) {
	type local struct {
		disk  block.DiskID
		index int
	}
	var here []local
	v.mu.Lock()
	for i := range v.extent {
		for _, m := range v.extent[i].record.Members {
			if m.Chunk == v.s.id {
				here = append(here, local{m.Disk, i})
			}
		}
	}
	v.mu.Unlock()
	for _, x := range here {
		d := v.s.diskByID(x.disk)
		if d == nil {
			continue
		}
		if info, err := d.store.Replica(block.ExtentID{Volume: v.id, Index: block.ExtentIndex(x.index)}); err == nil {
			live += uint64(max(0, info.LiveBytes))
			snapshots += uint64(max(0, info.SnapshotBytes))
		}
	}
	return live, snapshots
}

// extentStatus describes an extent that is not as it should be; the caller holds v.mu.
func (v *volume) extentStatus(i int, x *extentView) *storagedv1.ExtentStatus {
	e := &storagedv1.ExtentStatus{Index: uint32(i), Generation: uint32(x.record.Generation), State: x.phase.String()}
	if x.needsWhy {
		e.State = fmt.Sprintf("needs disk %s", x.needs)
	}
	for _, m := range x.record.Members {
		kind := "full"
		if m.Kind == replication.Delta {
			kind = "delta"
		}
		e.Members = append(e.Members, &storagedv1.Member{DiskId: m.Disk.String(), Chunk: uint32(m.Chunk), Kind: kind})
	}
	for _, a := range x.record.Absent {
		kind := "absent"
		if a.Disk == x.joining && x.joining != (block.DiskID{}) {
			kind = "joining"
		}
		e.Absent = append(e.Absent, &storagedv1.Member{DiskId: a.Disk.String(), Chunk: uint32(a.Chunk), Kind: kind, Watermark: uint64(a.Watermark)})
	}
	return e
}

// summary is what of a report is worth sending at once when it changes.
func summary(r *storagedv1.VolumeReport) string {
	return fmt.Sprintf("%d %d %d %d %d %t %v", r.Epoch, r.Status.Extents, r.Status.ExtentsDegraded, r.Status.ExtentsUnavailable,
		len(r.Status.ExtentStatus), r.Status.ResyncBytesLeft > 0, r.Initiators)
}
