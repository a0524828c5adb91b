package meta

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// lun is the logical unit number of every volume in its target.
const lun = 1

// volume renders a volume for the API. s is the mirror's state, under its lock; chunks are its chunkFacts.
func (l *leader) volume(s *state, v metadb.Volume, chunks map[block.ChunkID]chunkFact, withExtents bool) *storagedv1.Volume {
	o := s.owners[v.ID]
	fact, ok := l.reg.volume(o.Chunk, v.ID)
	f := volumeFacts{Volume: v, Owner: o, Extents: s.extents[v.ID], Chunks: chunks, Now: l.now()}
	if v.Unconfirmed != 0 {
		f.Unconfirmed = l.confirms.get(v.ID)
	}
	if ok {
		f.Report, f.At = fact.report, fact.at
	}
	out := &storagedv1.Volume{
		Id: v.ID.String(), Name: v.Name, SizeBytes: v.SizeBytes, ReplicaFactor: uint32(v.ReplicaFactor), MinReplicas: uint32(v.MinReplicas),
		Thin: v.Thin, Iqn: v.ID.IQN(), Lun: lun, OwnerChunk: uint32(o.Chunk), OwnerNode: s.nodeOf(o.Chunk), Epoch: uint64(o.Epoch),
		Labels: maps.Clone(v.Labels), Created: timestamppb.New(v.Created), Status: volumeStatus(f), State: v.State.String(),
		Portals: portals(s, o.Chunk, chunks),
	}
	if v.SourceSnapshot != (block.SnapshotID{}) {
		out.SourceSnapshotId = v.SourceSnapshot.String()
	} else if !v.Parent.IsZero() {
		out.SourceVolumeId = v.Parent.String()
	}
	for _, g := range s.grantsOf(v.ID) {
		if !g.Closing {
			out.Grants = append(out.Grants, grant(g, false))
		}
	}
	if withExtents {
		out.Status.ExtentStatus = extentStatus(s, f)
	}
	return out
}

// portals lists the iSCSI addresses of the chunks that are online, the owner's first; all chunks' if none is.
func portals(s *state, owner block.ChunkID, chunks map[block.ChunkID]chunkFact) []string {
	var out, offline []string
	if chunks[owner].Present {
		out = append(out, s.chunks[owner].ISCSIAddress)
	}
	for _, id := range slices.Sorted(maps.Keys(s.chunks)) {
		switch {
		case id == owner && chunks[id].Present:
		case chunks[id].Present:
			out = append(out, s.chunks[id].ISCSIAddress)
		default:
			offline = append(offline, s.chunks[id].ISCSIAddress)
		}
	}
	if len(out) == 0 {
		return offline
	}
	return out
}

// extentStatus joins the recorded sets with what the owner reports of extents that are not in sync.
func extentStatus(s *state, f volumeFacts) []*storagedv1.ExtentStatus {
	reported := map[uint32]*storagedv1.ExtentStatus{}
	for _, e := range f.Report.GetStatus().GetExtentStatus() {
		reported[e.GetIndex()] = e
	}
	out := make([]*storagedv1.ExtentStatus, 0, len(f.Extents))
	for i := range f.Extents {
		e := &f.Extents[i]
		es := &storagedv1.ExtentStatus{Index: uint32(e.ID.Index), Generation: uint32(e.Generation)}
		for _, m := range e.Members {
			es.Members = append(es.Members, &storagedv1.Member{DiskId: m.Disk.String(), Chunk: uint32(m.Chunk), Node: s.nodeOf(m.Chunk), Kind: m.Kind.String()})
		}
		for _, a := range e.Absent {
			es.Absent = append(es.Absent, &storagedv1.Member{DiskId: a.Disk.String(), Chunk: uint32(a.Chunk), Node: s.nodeOf(a.Chunk), Kind: "absent", Watermark: uint64(a.Watermark)})
		}
		if r := reported[es.Index]; r != nil {
			es.State = r.GetState()
			joining := slices.DeleteFunc(slices.Concat(r.GetMembers(), r.GetAbsent()), func(m *storagedv1.Member) bool { return m.GetKind() != kindJoining })
			for _, m := range joining {
				es.Absent = slices.DeleteFunc(es.Absent, func(a *storagedv1.Member) bool { return a.GetDiskId() == m.GetDiskId() })
				es.Members = append(es.Members, &storagedv1.Member{
					DiskId: m.GetDiskId(), Chunk: m.GetChunk(), Node: s.nodeOf(block.ChunkID(m.GetChunk())), Kind: kindJoining, Watermark: m.GetWatermark(),
				})
			}
		}
		out = append(out, es)
	}
	return out
}

func grant(g metadb.Grant, secrets bool) *storagedv1.Grant {
	out := &storagedv1.Grant{
		VolumeId: g.Volume.String(), Initiator: g.Initiator, Mode: storagedv1.AccessMode(g.Mode), Node: g.Node, Generation: g.Generation,
		ChapUser: g.CHAPUser, MutualUser: g.MutualUser,
	}
	if secrets {
		out.ChapSecret, out.MutualSecret = g.CHAPSecret, g.MutualSecret
	}
	return out
}

func snapshot(sn metadb.Snapshot) *storagedv1.Snapshot {
	return &storagedv1.Snapshot{
		Id: sn.ID.String(), Name: sn.Name, VolumeId: sn.Volume.String(), SizeBytes: sn.SizeBytes, SnapSeq: uint32(sn.SnapSeq),
		Ready: sn.State == metadb.StateReady, Created: timestamppb.New(sn.Created),
	}
}
