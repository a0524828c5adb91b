package chunk

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

const (
	// verifyBytesPerSecond is how fast a volume is read on request, all replicas together. It is a tenth of what a disk gives, so that clients
	// hardly notice.
	verifyBytesPerSecond = 128 << 20
	verifyTick           = 50 * time.Millisecond
	// verifyMend is how long the end waits for repairs under way.
	verifyMend = 5 * time.Second
)

// verification is one reading of all replicas of a volume that was asked for. The fields are guarded by the volume's lock; a nil one takes notes
// and keeps none.
type verification struct {
	extents, done, passed    uint32
	read                     uint64
	bad, repaired, lost      uint64 // blocks
	behind                   uint32
	complete                 bool // the end of the volume was reached
	started, finished, ended time.Time
}

// note takes in what the machine reports. It is called with the volume locked.
func (c *verification) note(r *replication.Report) {
	if c == nil || !c.ended.IsZero() {
		return
	}
	switch r.Kind {
	case replication.ReportScrubbed:
		c.done = uint32(r.Extent) + 1
		c.read += r.CopiedBytes
		c.bad += r.LeftBytes / block.Size
	case replication.ReportPassedOver:
		c.done = uint32(r.Extent) + 1
		c.passed++
	case replication.ReportRepaired:
		c.repaired += uint64(r.Range.Count)
	case replication.ReportBad:
		c.lost += uint64(r.Range.Count)
	case replication.ReportBehind:
		c.behind++
	case replication.ReportVerified:
		c.complete, c.finished = true, time.Now()
	}
}

// settled reports whether every bad block found has been repaired or has no good copy.
func (c *verification) settled() bool { return c.repaired+c.lost >= c.bad }

// verify begins to read all replicas, unless that is under way.
func (v *volume) verify() {
	v.mu.Lock()
	running := v.check != nil && v.check.ended.IsZero()
	if !running && !v.lost {
		v.check = &verification{extents: uint32(len(v.extent)), started: time.Now()}
	}
	lost := v.lost
	v.mu.Unlock()
	if running || lost {
		return
	}
	v.log.Info("volume is being verified")
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.ScrubAgain(now, out)
	})
	v.s.wg.Go(v.drive)
}

// drive lets the scrub read until it has come to the end, or the ownership ends.
func (v *volume) drive() {
	tick := time.NewTicker(verifyTick)
	defer tick.Stop()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-tick.C:
		}
		v.mu.Lock()
		c := v.check
		over := c.complete && (c.settled() || time.Since(c.finished) > verifyMend)
		if over {
			c.ended = time.Now()
			v.log.Info("volume verified", "extents", c.done, "passed over", c.passed, "bytes", c.read, "bad", c.bad, "repaired", c.repaired, "lost", c.lost, "behind", c.behind)
		}
		complete := c.complete
		v.mu.Unlock()
		if over {
			return
		}
		if complete {
			continue
		}
		v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
			return o.ScrubBudget(now, int64(verifyBytesPerSecond*verifyTick/time.Second), out)
		})
	}
}

// VerifyVolume implements storagedv1.ChunkControlServer.
func (c *controlServer) VerifyVolume(_ context.Context, r *storagedv1.VerifyVolumeRequest) (*storagedv1.Verification, error) {
	v, err := c.owned(r.Id)
	if err != nil {
		return nil, err
	}
	if r.Start {
		v.verify()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	out := &storagedv1.Verification{State: "None", Node: c.s.o.Node}
	if x := v.check; x != nil {
		out.State, out.Started = "Running", timestamppb.New(x.started)
		if !x.ended.IsZero() {
			out.State, out.Ended = "Done", timestamppb.New(x.ended)
		}
		out.Extents, out.ExtentsDone, out.ExtentsPassed, out.BytesRead = x.extents, min(x.done, x.extents), x.passed, x.read
		out.BlocksBad, out.BlocksRepaired, out.BlocksLost, out.ReplicasBehind = x.bad, x.repaired, x.lost, x.behind
	}
	return out, nil
}
