package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/tests/faults/cluster"
)

// rebuildSlack is how much more than the volume holds a rebuild may copy that was interrupted again and again.
const rebuildSlack = 1.1

// rebuild loses a node for good and kills the chunk to which its replica is copied ten times while that goes on.
func rebuild(ctx context.Context, r *run) error {
	kills, size := 10, uint64(1<<30)
	if r.quick {
		kills, size = 3, 256<<20
	}
	r.metaArgs = []string{"--repair-delay", "10s"}
	// Slow enough that there is a rebuild to be killed.
	b, err := up(ctx, r, 3<<30, "--resync-bytes-per-second", fmt.Sprint(size/32))
	if err != nil {
		return err
	}
	defer b.close()
	v, err := b.create(ctx, "rebuilt", size, 2)
	if err != nil {
		return err
	}
	v.Writers, v.Readers, v.Pause = 1, 1, 20*time.Millisecond
	if err := fillVolume(ctx, v); err != nil {
		return err
	}
	at, err := b.places(ctx, v)
	if err != nil {
		return err
	}
	var lost, fresh *cluster.Node
	for _, n := range b.Nodes {
		switch {
		case !at.members[n.Name]:
			fresh = n
		case n.Name != at.owner:
			lost = n
		}
	}
	if lost == nil || fresh == nil {
		return fmt.Errorf("the volume of two replicas is owned by %s and lies on %v", at.owner, at.members)
	}
	b.start(v)
	from := b.Node(at.owner)
	if err := lost.Chunk.Kill(); err != nil {
		return err
	}
	r.say("a 2-way volume of %.0f MiB, written in full, owned by %s; the chunk of %s killed for good", mib(size), at.owner, lost.Name)
	for k := range kills {
		// A share of the whole is copied between two kills, whatever was copied twice.
		want := uint64(k+1) * size / uint64(kills+2)
		if err := b.awaitCopied(ctx, from, want); err != nil {
			return fmt.Errorf("after %d kills: %w", k, err)
		}
		if err := fresh.Chunk.Kill(); err != nil {
			return err
		}
		if err := fresh.Chunk.Start(); err != nil {
			return err
		}
		copied, err := b.copied(ctx, from)
		if err != nil {
			return err
		}
		r.say("kill %d of %d of the chunk of %s, %.1f MiB copied", k+1, kills, fresh.Name, mib(copied))
	}
	if err := cluster.Await(ctx, 5*time.Minute, func() string {
		now, err := b.places(ctx, v)
		switch {
		case err != nil:
			return err.Error()
		case !now.members[fresh.Name]:
			return fmt.Sprintf("the full members are on %v", now.members)
		case now.owner != at.owner:
			return "the owner is now " + now.owner
		}
		return ""
	}); err != nil {
		return err
	}
	copied, err := b.copied(ctx, from)
	if err != nil {
		return err
	}
	r.say("rebuilt on %s: %.1f MiB copied for %.1f MiB (%.3f ×)", fresh.Name, mib(copied), mib(size), float64(copied)/float64(size))
	v.nodes = []string{at.owner, fresh.Name}
	if err := lost.Chunk.Start(); err != nil {
		return err
	}
	if err := b.finish(ctx, r); err != nil {
		return err
	}
	if float64(copied) > rebuildSlack*float64(size) {
		return fmt.Errorf("the rebuild copied %.1f MiB, more than %.1f × the %.1f MiB that the volume holds", mib(copied), rebuildSlack, mib(size))
	}
	if copied < size*9/10 {
		return fmt.Errorf("the rebuild says that it copied %.1f MiB of %.1f MiB: the count cannot be right", mib(copied), mib(size))
	}
	return nil
}

// placed is where a volume is served and where its full members lie.
type placed struct {
	owner   string
	members map[string]bool // by node; only those that every extent has
}

func (b *bench) places(ctx context.Context, v *volume) (placed, error) {
	got, err := b.Client.Volumes.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: v.id, Extents: true})
	if err != nil {
		return placed{}, err
	}
	count := map[string]int{}
	extents := got.Status.GetExtentStatus()
	for _, e := range extents {
		for _, m := range e.Members {
			if m.Kind == "full" {
				count[m.Node]++
			}
		}
	}
	out := placed{owner: got.OwnerNode, members: map[string]bool{}}
	for n, k := range count {
		if k == len(extents) {
			out.members[n] = true
		}
	}
	return out, nil
}

// copied is how much the owners on a node have copied since it started, also in resyncs that were interrupted.
func (b *bench) copied(ctx context.Context, n *cluster.Node) (uint64, error) {
	const name = "iomesh_chunk_resync_bytes_total "
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Address+":10203/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("metrics of the chunk of %s: %w", n.Name, err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), name); ok {
			x, err := strconv.ParseFloat(text, 64)
			return uint64(x), err
		}
	}
	return 0, fmt.Errorf("metrics of the chunk of %s: no %s: %w", n.Name, name, lines.Err())
}

// awaitCopied waits until the owners on a node have copied so many bytes.
func (b *bench) awaitCopied(ctx context.Context, n *cluster.Node, want uint64) error {
	return cluster.Await(ctx, 3*time.Minute, func() string {
		done, err := b.copied(ctx, n)
		switch {
		case err != nil:
			return err.Error()
		case done < want:
			return fmt.Sprintf("%.1f MiB copied of the %.1f MiB waited for", mib(done), mib(want))
		}
		return ""
	})
}
