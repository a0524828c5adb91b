package meta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/beat"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

const (
	confirmTick = time.Second
	// confirmQuiet is how long after its take-over a leader decides nothing: disks that were added after the backup may still register.
	confirmQuiet = 10 * time.Second
	// lossesMax bounds the accepted losses that a volume remembers.
	lossesMax = 20
)

// confirmBook says why volumes are not served after a restore.
type confirmBook struct {
	mu  sync.Mutex
	why map[block.VolumeID]string
}

func (b *confirmBook) set(id block.VolumeID, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why == nil {
		b.why = map[block.VolumeID]string{}
	}
	b.why[id] = why
}

func (b *confirmBook) get(id block.VolumeID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.why[id]; w != "" {
		return w
	}
	return "replicas are being compared"
}

// census is what all reachable disks hold.
type census struct {
	found   map[block.VolumeID]map[block.ExtentIndex][]foundReplica
	missing []metadb.Disk // recorded as in use, and not heard of
}

// takeCensus asks every present chunk for its replicas.
func (l *leader) takeCensus(ctx context.Context) (census, error) {
	c := census{found: map[block.VolumeID]map[block.ExtentIndex][]foundReplica{}}
	heard := map[block.DiskID]bool{}
	var chunks []block.ChunkID
	l.view(func(s *state) {
		for id := range s.chunks {
			if !l.reg.live(id).Present {
				continue
			}
			chunks = append(chunks, id)
			reports, full := l.reg.disksOf(id)
			for did, r := range reports {
				if full && r.GetDisk().GetState() == diskStateActive {
					heard[did] = true
				}
			}
		}
		for id, d := range s.disks {
			if !heard[id] && (d.State == metadb.DiskActive || d.State == metadb.DiskDraining) {
				c.missing = append(c.missing, d)
			}
		}
	})
	slices.SortFunc(c.missing, func(a, b metadb.Disk) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	for _, id := range chunks {
		if err := l.call(ctx, id, func(ctx context.Context, cc storagedv1.ChunkControlClient) error { return c.read(ctx, cc, id, heard) }); err != nil {
			return c, fmt.Errorf("list the replicas of chunk %d: %w", id, err)
		}
	}
	return c, nil
}

func (c *census) read(ctx context.Context, cc storagedv1.ChunkControlClient, id block.ChunkID, heard map[block.DiskID]bool) error {
	return listReplicas(ctx, cc, func(r *storagedv1.ReplicaInfo, vol block.VolumeID, disk block.DiskID) {
		if r.GetExtent() >= extentsMax || !heard[disk] {
			return
		}
		if c.found[vol] == nil {
			c.found[vol] = map[block.ExtentIndex][]foundReplica{}
		}
		i := block.ExtentIndex(r.GetExtent())
		c.found[vol][i] = append(c.found[vol][i], foundReplica{
			Disk: disk, Chunk: id, Generation: block.Generation(r.GetGeneration()), Watermark: block.Stamp(r.GetWatermark()), Highest: block.Stamp(r.GetHighest()),
			Epoch: block.Epoch(r.GetEpoch()), SnapSeq: block.SnapSeq(r.GetSnapSeq()), Unfit: r.GetIncomplete() || r.GetSuspect(),
		})
	})
}

func (c *census) missingText(s *state) string {
	var out []string
	for _, d := range c.missing {
		out = append(out, fmt.Sprintf("%s of node %s", d.Name, s.nodeOf(d.Chunk)))
	}
	return strings.Join(out, ", ")
}

// confirmLoop lets volumes serve again after the metadata was restored from a backup.
func (l *leader) confirmLoop() {
	tick := beat.Every(confirmTick)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		var waiting []metadb.Volume
		l.view(func(s *state) {
			for _, v := range s.volumes {
				if v.Unconfirmed != 0 && v.State == metadb.StateReady {
					waiting = append(waiting, v)
				}
			}
		})
		if len(waiting) == 0 || l.now().Sub(l.reg.started) < confirmQuiet {
			continue
		}
		if err := l.confirm(l.ctx, waiting); err != nil && l.ctx.Err() == nil {
			l.log.Warn("comparing replicas with the restored metadata failed; trying again", "error", err)
		}
	}
}

// confirm makes one pass over the volumes that wait.
func (l *leader) confirm(ctx context.Context, waiting []metadb.Volume) error {
	c, err := l.takeCensus(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range waiting {
		unlock, ok := l.locks.tryLock("volume " + v.ID.String())
		if !ok {
			continue
		}
		errs = append(errs, l.confirmOne(ctx, v.ID, &c))
		unlock()
	}
	return errors.Join(errs...)
}

// confirmOne decides about one volume, whose lock the caller holds.
func (l *leader) confirmOne(ctx context.Context, id block.VolumeID, c *census) error {
	v, verdict := l.judge(id, c, false)
	if v.Unconfirmed == 0 {
		return nil
	}
	if verdict.Problem != "" {
		why := verdict.Problem
		if len(c.missing) > 0 {
			l.view(func(s *state) { why = "disks that may hold newer replicas are missing: " + c.missingText(s) })
		}
		l.confirms.set(id, why)
		return nil
	}
	if err := l.adopt(ctx, v, verdict, nil); err != nil {
		return fmt.Errorf("confirm volume %s: %w", v.Name, err)
	}
	l.log.Info("volume confirmed after the restore", "volume", v.ID, "name", v.Name, "extents", len(verdict.Extents), "epoch", verdict.Epoch)
	return nil
}

// judge is judgeVolume with the records of now.
func (l *leader) judge(id block.VolumeID, c *census, accept bool) (metadb.Volume, verdictOfCensus) {
	var v metadb.Volume
	var verdict verdictOfCensus
	l.view(func(s *state) {
		v = s.volumes[id]
		verdict = judgeVolume(v, s.extents[id], s.owners[id], c.found[id], len(c.missing) == 0, v.Unconfirmed != 0, accept)
	})
	return v, verdict
}

// adopt records a verdict. In this order: the owner goes first, so that none can change the sets or acknowledge anything meanwhile, and the
// volume is marked in the same transaction, so that it is not served by half of the sets should this end in the middle.
func (l *leader) adopt(ctx context.Context, v metadb.Volume, verdict verdictOfCensus, loss *metadb.Loss) error {
	var owner metadb.Owner
	var incarnation uint64
	l.view(func(s *state) { owner, incarnation = s.owners[v.ID], s.cluster.Incarnation })
	if verdict.Epoch >= block.EpochMax {
		return failf(codes.FailedPrecondition, "volume %s has used up its epochs: copy its content to a new volume", v.Name)
	}
	owner.Volume, owner.Chunk, owner.Epoch = v.ID, 0, verdict.Epoch
	v.Unconfirmed = incarnation
	if _, err := l.commit(ctx, metadb.PutOwner(owner), metadb.PutVolume(v)); err != nil {
		return err
	}
	if err := l.db.ReplaceExtents(ctx, l.guard, verdict.Extents); err != nil {
		return l.check(err)
	}
	l.view(func(s *state) { v = s.volumes[v.ID] })
	v.Unconfirmed = 0
	v.SnapSeq = max(v.SnapSeq, verdict.SnapSeq)
	if loss != nil {
		v.Losses = append(v.Losses, *loss)
		v.Losses = v.Losses[max(0, len(v.Losses)-lossesMax):]
	}
	_, err := l.commit(ctx, metadb.PutVolume(v))
	l.reg.signal()
	return err
}

// AcceptLoss implements the RPC of the same name.
func (vs *volumesService) AcceptLoss(ctx context.Context, req *storagedv1.AcceptLossRequest) (*storagedv1.AcceptLossResponse, error) {
	l := leaderOf(ctx)
	v, unlock, err := l.lockVolume(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if req.GetConfirm() != "" && req.GetConfirm() != v.Name {
		return nil, failf(codes.InvalidArgument, "confirm: %q is not the name of the volume, %s", req.GetConfirm(), v.Name)
	}
	c, err := l.takeCensus(ctx)
	if err != nil {
		return nil, failf(codes.Unavailable, "%v", err)
	}
	v, verdict := l.judge(v.ID, &c, true)
	if verdict.Problem != "" {
		return nil, failf(codes.FailedPrecondition, "volume %s cannot be served from what is left: %s", v.Name, verdict.Problem)
	}
	if len(verdict.Extents) == 0 && v.Unconfirmed == 0 {
		return nil, failf(codes.FailedPrecondition, "volume %s has a newest replica of every extent: there is no loss to accept", v.Name)
	}
	out := &storagedv1.AcceptLossResponse{Extents: verdict.Losses, Epoch: uint64(verdict.Epoch)}
	missing := map[string]bool{}
	for _, e := range verdict.Losses {
		for _, d := range e.GetMissing() {
			missing[d] = true
		}
	}
	if v.Unconfirmed != 0 {
		for _, d := range c.missing {
			missing[d.ID.String()] = true
		}
	}
	out.MissingDisks = slices.Sorted(maps.Keys(missing))
	l.view(func(s *state) {
		for _, e := range out.Extents {
			if id, err := block.ParseDiskID(e.GetDiskId()); err == nil {
				e.Node = s.nodeOf(s.disks[id].Chunk)
			}
		}
	})
	if req.GetConfirm() == "" {
		return out, nil
	}
	loss := &metadb.Loss{Time: l.now(), Extents: uint32(len(verdict.Losses)), Missing: out.MissingDisks}
	if err := l.adopt(ctx, v, verdict, loss); err != nil {
		return nil, err
	}
	l.log.Warn("loss accepted by the administrator", "volume", v.ID, "name", v.Name, "extents", len(verdict.Losses), "missing", out.MissingDisks, "epoch", verdict.Epoch)
	out.Accepted = true
	return out, nil
}
