package meta

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// What the replicas themselves say, compared with the records: after the metadata was restored from a backup, or when an administrator
// accepts that the newest replicas are gone. This file decides; it is pure.

// foundReplica is one replica as its chunk describes it.
type foundReplica struct {
	Disk       block.DiskID
	Chunk      block.ChunkID
	Generation block.Generation
	Watermark  block.Stamp
	Highest    block.Stamp
	Epoch      block.Epoch // of the volume's fence on the disk
	SnapSeq    block.SnapSeq
	// Unfit: it was being copied to, or may have lost writes.
	Unfit bool
}

// verdictOfCensus is what becomes of a volume.
type verdictOfCensus struct {
	// Extents are the sets to be recorded, those that stay as they are left out.
	Extents []metadb.Extent
	// Losses are the extents that go on with less than the newest replicas; only with accept.
	Losses []*storagedv1.ExtentLoss
	// Epoch is above every one given out, SnapSeq not below any that a replica has seen.
	Epoch   block.Epoch
	SnapSeq block.SnapSeq
	// Extra is the number of extents of which there are replicas beyond the recorded size.
	Extra uint32
	// Problem is why the volume cannot be served, "" if it can.
	Problem string
}

// judgeVolume compares a volume's records with all replicas found of it.
//
// all says that every disk has been heard of. Without it, nothing is decided but by accept, for then a newer replica may be on a disk that is
// missing. With whole, the sets of all extents are made anew, else only of those of which no full member was found.
//
// Only replicas on disks that the record names as full member or absent may become members: one on a disk that came later may be a delta, which
// holds the newest writes and nothing else (I10). If such a one is the newest, the extent waits.
func judgeVolume(v metadb.Volume, extents []metadb.Extent, owner metadb.Owner, found map[block.ExtentIndex][]foundReplica, all, whole, accept bool) verdictOfCensus {
	out := verdictOfCensus{Epoch: owner.Epoch, SnapSeq: v.SnapSeq}
	for index, list := range found {
		for _, r := range list {
			out.Epoch = max(out.Epoch, r.Epoch)
			if r.SnapSeq != block.LiveView {
				out.SnapSeq = max(out.SnapSeq, r.SnapSeq)
			}
		}
		if uint32(index) >= uint32(len(extents)) {
			out.Extra = max(out.Extra, uint32(index)+1-uint32(len(extents)))
		}
	}
	out.Epoch = min(out.Epoch+metadb.EpochJump, block.EpochMax)
	if !all && !accept {
		out.Problem = "disks that may hold newer replicas are missing"
		return out
	}
	for i := range extents {
		e := &extents[i]
		if e.Revision == 0 {
			continue
		}
		if !whole && slices.ContainsFunc(found[e.ID.Index], func(r foundReplica) bool { return !r.Unfit && fullMember(e, r.Disk) }) {
			continue
		}
		next, loss, problem := judgeExtent(e, found[e.ID.Index], accept)
		if problem != "" {
			out.Problem = fmt.Sprintf("extent %d: %s", e.ID.Index, problem)
			return out
		}
		out.Extents = append(out.Extents, next)
		if loss != nil {
			out.Losses = append(out.Losses, loss)
		}
	}
	return out
}

// judgeExtent makes the set of one extent of the replicas that were found.
func judgeExtent(e *metadb.Extent, found []foundReplica, accept bool) (metadb.Extent, *storagedv1.ExtentLoss, string) {
	known := func(d block.DiskID) bool {
		return fullMember(e, d) || slices.ContainsFunc(e.Absent, func(a metadb.Absent) bool { return a.Disk == d })
	}
	found = slices.Clone(found)
	slices.SortFunc(found, func(a, b foundReplica) int {
		return cmp.Or(cmp.Compare(b.Generation, a.Generation), cmp.Compare(b.Highest, a.Highest), cmp.Compare(a.Disk.String(), b.Disk.String()))
	})
	highest := e.Generation
	best := -1
	var strange *foundReplica // the newest on a disk the record does not name
	for i := range found {
		r := &found[i]
		highest = max(highest, r.Generation)
		switch {
		case known(r.Disk) && !r.Unfit && best < 0:
			best = i
		case !known(r.Disk) && strange == nil:
			strange = r
		}
	}
	if best < 0 {
		if strange != nil {
			return metadb.Extent{}, nil, fmt.Sprintf("its only replica is on disk %s, which the metadata does not name for it: bring back one of %s", strange.Disk, strings.Join(disksOfExtent(e), ", "))
		}
		return metadb.Extent{}, nil, fmt.Sprintf("none of its replicas was found; they were on %s", strings.Join(disksOfExtent(e), ", "))
	}
	top := found[best]
	next := metadb.Extent{ID: e.ID, Revision: e.Revision, Generation: highest + metadb.GenerationJump}
	placed := map[block.DiskID]bool{}
	for _, r := range found {
		if !known(r.Disk) {
			continue
		}
		placed[r.Disk] = true
		switch {
		case r.Unfit:
			next.Absent = append(next.Absent, metadb.Absent{Disk: r.Disk, Chunk: r.Chunk})
		case r.Generation == top.Generation:
			next.Members = append(next.Members, metadb.Member{Disk: r.Disk, Chunk: r.Chunk})
		default:
			// Everything up to its watermark was on it while it was a member.
			next.Absent = append(next.Absent, metadb.Absent{Disk: r.Disk, Chunk: r.Chunk, Watermark: r.Watermark})
		}
	}
	loss := &storagedv1.ExtentLoss{Index: uint32(e.ID.Index), RecordedGeneration: uint32(e.Generation), Generation: uint32(top.Generation), DiskId: top.Disk.String()}
	// What was not found is compared in full when it comes back: it may hold writes that are given up now.
	for _, m := range e.Members {
		if !placed[m.Disk] && m.Kind == metadb.KindFull {
			next.Absent = append(next.Absent, metadb.Absent{Disk: m.Disk, Chunk: m.Chunk})
			loss.Missing = append(loss.Missing, m.Disk.String())
		}
	}
	for _, a := range e.Absent {
		if !placed[a.Disk] {
			next.Absent = append(next.Absent, metadb.Absent{Disk: a.Disk, Chunk: a.Chunk})
		}
	}
	if strange != nil && strange.Generation > top.Generation {
		loss.Missing = append(loss.Missing, strange.Disk.String())
		if !accept {
			return metadb.Extent{}, nil, fmt.Sprintf("disk %s, which the metadata does not name for it, has a newer replica (generation %d) than disk %s (%d)", strange.Disk, strange.Generation, top.Disk, top.Generation)
		}
	}
	if len(loss.Missing) == 0 {
		loss = nil
	}
	return next, loss, ""
}

func fullMember(e *metadb.Extent, d block.DiskID) bool {
	return slices.ContainsFunc(e.Members, func(m metadb.Member) bool { return m.Disk == d && m.Kind == metadb.KindFull })
}

func disksOfExtent(e *metadb.Extent) []string {
	var out []string
	for _, m := range e.Members {
		out = append(out, m.Disk.String())
	}
	for _, a := range e.Absent {
		out = append(out, a.Disk.String())
	}
	return out
}
