package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/tests/faults/cluster"
	"github.com/iomesh/iomesh/tests/faults/verify"
)

// bench is a cluster of three nodes with volumes under load.
type bench struct {
	*cluster.Cluster
	volumes []*volume
	end     context.CancelFunc // of the load
	load    context.Context
}

type volume struct {
	*verify.Load
	id       string
	replicas uint32
	nodes    []string // nil: all
	session  *initiator.Session
}

// up starts a cluster of three nodes.
func up(ctx context.Context, r *run, diskBytes int64, chunkArgs ...string) (*bench, error) {
	start := time.Now()
	c, err := cluster.New(ctx, cluster.Options{Dir: r.dir, Storaged: r.storaged, Nodes: 3, DiskBytes: diskBytes, Flat: r.flat, Hybrid: r.hybrid, Faulty: r.faulty, Profiles: r.profiles != "", ChunkArgs: chunkArgs, MetaArgs: r.metaArgs})
	if err != nil {
		return nil, err
	}
	b := &bench{Cluster: c}
	b.load, b.end = context.WithCancel(context.WithoutCancel(ctx))
	c.Supervise(b.load)
	r.say("three nodes, each with a meta member, a chunk and a disk of %d MiB, up in %.1f s", diskBytes>>20, time.Since(start).Seconds())
	return b, nil
}

// close ends load, sessions and cluster.
func (b *bench) close() {
	b.end()
	for _, v := range b.volumes {
		if v.session != nil {
			_ = v.session.Close()
		}
	}
	b.Cluster.Close()
}

// create makes a volume and logs in to it.
func (b *bench) create(ctx context.Context, name string, sizeBytes uint64, replicas uint32, nodes ...string) (*volume, error) {
	v, err := b.Client.Volumes.CreateVolume(ctx, &storagedv1.CreateVolumeRequest{Name: name, SizeBytes: sizeBytes, ReplicaFactor: replicas, TopologyNodes: nodes})
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", name, err)
	}
	const iqn = "iqn.2016-02.com.iomesh:faults"
	g, err := b.Client.Volumes.PublishVolume(ctx, &storagedv1.PublishVolumeRequest{VolumeId: v.Id, Initiator: iqn, Mode: storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE})
	if err != nil {
		return nil, fmt.Errorf("publish volume %s: %w", name, err)
	}
	id, err := uuid.Parse(v.Id)
	if err != nil {
		return nil, err
	}
	x := &volume{id: v.Id, replicas: replicas, nodes: nodes, Load: &verify.Load{Name: name, History: verify.NewHistory(id, int(sizeBytes/verify.BlockBytes))}}
	dctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	x.session, err = initiator.Dial(dctx, initiator.Options{Portals: append([]string{cluster.Portal}, v.Portals...), Target: v.Iqn, Initiator: iqn, LUN: uint8(v.Lun),
		CHAP: &initiator.CHAP{User: g.ChapUser, Secret: g.ChapSecret, MutualUser: g.MutualUser, MutualSecret: g.MutualSecret}})
	if err != nil {
		return nil, fmt.Errorf("log in to volume %s: %w", name, err)
	}
	x.Use(x.session)
	b.volumes = append(b.volumes, x)
	return x, nil
}

// start begins the load of all volumes that have none yet.
func (b *bench) start(vs ...*volume) {
	for _, v := range vs {
		v.Start(b.load)
	}
}

// standard makes two 2-way and two 3-way volumes under a load that leaves some of the machine to the rest.
func (b *bench) standard(ctx context.Context, r *run) error {
	for i := range 4 {
		replicas, nodes := uint32(3), []string(nil)
		if i < 2 {
			replicas, nodes = 2, []string{"n1", "n2"}
		}
		v, err := b.create(ctx, fmt.Sprintf("v%d-%dway", i+1, replicas), 128<<20, replicas, nodes...)
		if err != nil {
			return err
		}
		v.Writers, v.Readers, v.Pause, v.Unmap = 3, 1, 3*time.Millisecond, true
	}
	b.start(b.volumes...)
	r.say("two 2-way and two 3-way volumes of 128 MiB, each with 3 writers and a reader")
	return nil
}

func (b *bench) ids() []string {
	var out []string
	for _, v := range b.volumes {
		out = append(out, v.id)
	}
	return out
}

// healthy waits until every copy of every volume is in sync.
func (b *bench) healthy(ctx context.Context, within time.Duration) error {
	if err := b.Client.AwaitOnline(ctx, len(b.Nodes), within); err != nil {
		return err
	}
	return b.Client.AwaitHealthy(ctx, b.ids(), within)
}

// own moves all volumes to a node.
func (b *bench) own(ctx context.Context, node string) error {
	for _, v := range b.volumes {
		if err := b.Client.MoveOwner(ctx, v.id, node); err != nil {
			return err
		}
	}
	return nil
}

// finish ends the load, reads everything back through every copy, and reports what was wrong in the whole run.
func (b *bench) finish(ctx context.Context, r *run) error {
	b.end()
	for _, v := range b.volumes {
		v.Wait()
	}
	if err := b.healthy(ctx, 120*time.Second); err != nil {
		return err
	}
	var errs []error
	for _, n := range b.Nodes {
		for _, v := range b.volumes {
			if v.nodes != nil && !slices.Contains(v.nodes, n.Name) {
				continue
			}
			if err := b.Client.MoveOwner(ctx, v.id, n.Name); err != nil {
				errs = append(errs, err)
				continue
			}
			if err := v.Sweep(ctx); err != nil {
				errs = append(errs, fmt.Errorf("sweep of %s at node %s: %w", v.Name, n.Name, err))
			}
		}
	}
	return errors.Join(append(errs, b.verdict(r))...)
}

// verdict is the error made of all problems so far.
func (b *bench) verdict(r *run) error {
	var reads, writes, bytes uint64
	var errs []error
	total := 0
	for _, v := range b.volumes {
		rd, wr, _, n := v.Counts()
		reads, writes, bytes = reads+rd, writes+wr, bytes+n
		problems, count := v.Problems()
		errs = append(errs, problems...)
		total += count
	}
	r.say("%d writes (%d MiB) acknowledged, %d reads judged; wrong reads, lost writes and I/O errors: %d", writes, bytes>>20, reads, total)
	return errors.Join(errs...)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
