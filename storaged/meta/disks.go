package meta

import (
	"fmt"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/beat"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// Disk states that chunks report, beside those the leader derives.
const (
	diskStateActive  = "Active"
	diskStateFailed  = "Failed"
	diskStateMissing = "Missing"
	diskStateDrained = "Drained"
)

// diskTick is how often the reports of disks are looked through; a chunk's complete report comes less often than that.
const diskTick = time.Second

// diskLoop records the disks that chunks report.
func (l *leader) diskLoop() {
	tick := beat.Every(diskTick)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		var chunks []block.ChunkID
		l.view(func(s *state) {
			for id := range s.chunks {
				chunks = append(chunks, id)
			}
		})
		for _, id := range chunks {
			reports, _ := l.reg.disksOf(id)
			for did, r := range reports {
				if err := l.learnDisk(id, did, r); err != nil && l.ctx.Err() == nil {
					l.log.Warn("recording a disk failed; trying again", "disk", did, "chunk", id, "error", err)
				}
			}
		}
	}
}

func (l *leader) learnDisk(chunk block.ChunkID, id block.DiskID, r *storagedv1.DiskReport) error {
	unlock, ok := l.locks.tryLock("disk " + id.String())
	if !ok {
		return nil // an administrator's call is changing it: next time
	}
	defer unlock()
	var old metadb.Disk
	elsewhere := false
	l.view(func(s *state) {
		old = s.disks[id]
		if old.Revision != 0 && old.Chunk != chunk {
			reports, _ := l.reg.disksOf(old.Chunk)
			_, elsewhere = reports[id]
		}
	})
	next, why := learned(old, chunk, id, r, elsewhere, l.now())
	if next == old {
		return nil
	}
	if _, err := l.commit(l.ctx, metadb.PutDisk(next)); err != nil {
		return err
	}
	l.log.Info("disk recorded", "disk", id, "name", next.Name, "chunk", chunk, "state", next.State.String(), "change", why)
	return nil
}

// learned returns the record of a disk after a report, which is the old one if nothing changed.
//
// A disk may move to another node with its content: the record follows it, unless both nodes report it (a copy). A mount
// counter below the recorded one is a disk that was rolled back to an older content (I3): what it holds is stale.
func learned(old metadb.Disk, chunk block.ChunkID, id block.DiskID, r *storagedv1.DiskReport, elsewhere bool, now time.Time) (next metadb.Disk, why string) {
	d := r.GetDisk()
	next = old
	if old.Revision == 0 {
		if d.GetState() != diskStateActive {
			return old, ""
		}
		return metadb.Disk{
			ID: id, Chunk: chunk, Name: d.GetName(), MountType: d.GetMountType(), Device: d.GetDevice(), SizeBytes: d.GetSizeBytes(),
			MountCounter: r.GetMountCounter(), State: metadb.DiskActive, Since: now,
		}, "new"
	}
	fail := func(msg string) (metadb.Disk, string) {
		if old.State == metadb.DiskFailed || old.State == metadb.DiskRemoved {
			return old, ""
		}
		next.State, next.Since, next.Message = metadb.DiskFailed, now, msg
		return next, msg
	}
	if elsewhere {
		return old, "" // the other report decides; status names both
	}
	if r.GetMountCounter() < old.MountCounter {
		return fail(fmt.Sprintf("the disk was rolled back: it counts %d mounts, %d are recorded; remove it and add it anew", r.GetMountCounter(), old.MountCounter))
	}
	if d.GetState() == diskStateFailed {
		msg := d.GetMessage()
		if msg == "" {
			msg = "the chunk reports that it failed"
		}
		return fail(msg)
	}
	next.Chunk, next.MountCounter = chunk, r.GetMountCounter()
	if d.GetName() != "" {
		next.Name = d.GetName()
	}
	if d.GetMountType() != "" {
		next.MountType = d.GetMountType()
	}
	if d.GetDevice() != "" {
		next.Device = d.GetDevice()
	}
	if d.GetSizeBytes() != 0 {
		next.SizeBytes = d.GetSizeBytes()
	}
	return next, "changed"
}

// rooms lists the disks that may take new replicas: recorded as active, on a present chunk that reports them as active, of a node that
// is not in maintenance.
func (l *leader) rooms(s *state) []diskRoom {
	var out []diskRoom
	for id, c := range s.chunks {
		if !l.reg.live(id).Present || s.maintenance(id) {
			continue
		}
		reports, _ := l.reg.disksOf(id)
		for did, r := range reports {
			rec, ok := s.disks[did]
			if !ok || rec.State != metadb.DiskActive || rec.Chunk != id || r.GetDisk().GetState() != diskStateActive {
				continue
			}
			u := s.usage[did]
			out = append(out, diskRoom{
				ID: did, Chunk: id, Node: c.Node, Zone: c.Zone, Size: rec.SizeBytes, Used: r.GetDisk().GetUsedBytes(),
				ThinBytes: u.thinBytes, Thick: u.thickBytes,
			})
		}
	}
	return out
}

func (l *leader) limits() limits {
	return limits{OverProvisioning: l.s.opts.OverProvisioning, Reserve: l.s.opts.Reserve}
}
