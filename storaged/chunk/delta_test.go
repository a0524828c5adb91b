package chunk

import (
	"bytes"
	"slices"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
)

// A 2-way volume loses one replica, and later the other. What was written in between is on a delta, and the first replica, back again, is made
// whole from it (I10).
func TestAReturnerAndADeltaAreAVolume(t *testing.T) {
	c := newTestCluster(t, 3, 1)
	id := c.create("v", 64<<20, 2).Id
	v := c.serving(id)
	content := func(i uint64, n byte) []byte { return bytes.Repeat([]byte{byte(i), n}, 4096/2) }
	write := func(i uint64, n byte) {
		t.Helper()
		if r, _ := v.do(target.OpWrite, i*4096, 4096, content(i, n)); r.Kind != target.OK {
			t.Fatalf("write of block %d: %+v", i, r)
		}
	}
	for i := range uint64(32) {
		write(i, 1)
	}
	record := func() replication.Record {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.o.Record(0)
	}
	nodeOf := func(id block.ChunkID) string {
		for name, n := range c.nodes {
			if n.server.id == id {
				return name
			}
		}
		t.Fatalf("no node has chunk %s", id)
		return ""
	}
	members := record().Members
	first := slices.IndexFunc(members, func(m replication.Member) bool { return m.Chunk != v.s.id })
	gone := nodeOf(members[first].Chunk)
	c.nodes[gone].kill()
	delete(c.nodes, gone)
	for i := range uint64(8) {
		write(i, 2)
	}
	third := slices.Sorted(func(yield func(string) bool) {
		for name, n := range c.nodes {
			if n.server.id != v.s.id && !yield(name) {
				return
			}
		}
	})[0]
	at := c.nodes[third].server
	v.step(func(o *replication.Owner, now replication.Time, out []replication.Effect) []replication.Effect {
		return o.AddMember(now, 0, replication.Member{Disk: at.disks.all()[0].id, Chunk: at.id, Kind: replication.Delta}, out)
	})
	c.eventually("the delta is a member", func() bool {
		return slices.ContainsFunc(record().Members, func(m replication.Member) bool { return m.Kind == replication.Delta && m.Since != 0 })
	})
	for i := range uint64(8) {
		write(4+i, 3)
	}
	owner := v.s.o.Node
	c.nodes[owner].kill()
	delete(c.nodes, owner)
	c.start(gone)
	epoch := v.owner.Epoch
	c.eventually("the volume serves without its last owner", func() bool {
		vid, _ := block.ParseVolumeID(id)
		for _, n := range c.nodes {
			if x := n.server.volumes.get(vid); x != nil && x.owner.Epoch > epoch {
				v = x
				r, _ := x.do(target.OpRead, 0, 4096, nil)
				return r.Kind == target.OK
			}
		}
		return false
	})
	for i := range uint64(32) {
		n := byte(1)
		switch {
		case i >= 4 && i < 12:
			n = 3
		case i < 4:
			n = 2
		}
		r, got := v.do(target.OpRead, i*4096, 4096, nil)
		if r.Kind != target.OK || !bytes.Equal(got, content(i, n)) {
			t.Errorf("block %d: %+v, begins with %v, want generation %d", i, r, got[:min(2, len(got))], n)
		}
	}
	for i := range uint64(4) {
		write(i, 4)
	}
	c.start(owner)
	c.eventually("it is whole again, without the delta", func() bool {
		vid, _ := block.ParseVolumeID(id)
		for _, n := range c.nodes {
			if x := n.server.volumes.get(vid); x != nil && x.isReady() {
				x.mu.Lock()
				rec := x.o.Record(0)
				x.mu.Unlock()
				return len(rec.Members) == 2 && rec.Members[0].Kind == replication.Full && rec.Members[1].Kind == replication.Full
			}
		}
		return false
	})
}
