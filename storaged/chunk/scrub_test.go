package chunk

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store"
	"github.com/iomesh/iomesh/storaged/target"
)

// flip damages one bit of content wherever it is in a node's disk, and returns how often it was found.
func (c *testCluster) flip(node string, content []byte) int {
	c.t.Helper()
	path := filepath.Join(c.dir, node, "disk0.img")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	found := 0
	buf := make([]byte, 1<<20)
	// The little these tests write lies not far behind the journal, which takes a sixteenth of the disk.
	for off := int64(0); off < 384<<20; off += int64(len(buf)) {
		if _, err := f.ReadAt(buf, off); err != nil {
			c.t.Fatal(err)
		}
		for at := 0; at < len(buf); at += block.Size {
			if bytes.Equal(buf[at:at+block.Size], content) {
				found++
				if _, err := f.WriteAt([]byte{content[100] ^ 4}, off+int64(at)+100); err != nil {
					c.t.Fatal(err)
				}
			}
		}
	}
	if err := f.Sync(); err != nil {
		c.t.Fatal(err)
	}
	return found
}

// One bit flips in a block that is at rest. On the replica that reads go to the client gets the good content and the block is repaired
// when it is read; on another, scrub finds and repairs it (I8).
func TestAFlippedBitIsNeverReadAndIsRepaired(t *testing.T) {
	c := newTestCluster(t, 3, 1)
	id := c.create("v", 16<<20, 3).Id
	v := c.serving(id)
	data := make([]byte, 256<<10)
	for i := range data {
		data[i] = byte(i*7 + i/block.Size*13)
	}
	if r, _ := v.do(target.OpWrite, 1<<20, uint64(len(data)), data); r.Kind != target.OK {
		t.Fatalf("write: %+v", r)
	}
	extent := block.ExtentID{Volume: v.id}
	state := func(s *Server, no block.No) store.State {
		info := make([]store.BlockInfo, 1)
		if err := s.disks.all()[0].store.Read(extent, block.LiveView, block.Range{Start: no, Count: 1}, make([]byte, block.Size), info); err != nil {
			t.Fatal(err)
		}
		return info[0].State
	}
	repairs := func() float64 {
		sum := 0.0
		for _, n := range c.nodes {
			families, err := n.server.metrics.reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() == "iomesh_chunk_repairs_total" {
					sum += f.GetMetric()[0].GetCounter().GetValue()
				}
			}
		}
		return sum
	}
	for i, n := range []string{v.s.o.Node, other(c, v.s.o.Node)} {
		s := c.nodes[n].server
		if err := s.disks.all()[0].store.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		no := block.No(1<<20/block.Size + 3 + i)
		before := repairs()
		if c.flip(n, data[(3+i)*block.Size:][:block.Size]) == 0 {
			t.Fatalf("node %s: the block is not found on its disk", n)
		}
		if i == 0 {
			// Whether this comes first or the scrub: nobody sees the flipped bit.
			c.eventually("the damaged block is read", func() bool {
				r, got := c.serving(id).do(target.OpRead, uint64(no)*block.Size, block.Size, nil)
				if r.Kind != target.OK && r.Kind != target.Lost || r.Kind == target.OK && !bytes.Equal(got, data[3*block.Size:4*block.Size]) {
					t.Fatalf("read of the damaged block: %+v", r)
				}
				return r.Kind == target.OK
			})
		}
		c.eventually("the repair is counted", func() bool { return repairs() > before })
		c.eventually("the block is good again", func() bool { return state(s, no) == store.Written })
	}
}

// other is a node that is not the given one.
func other(c *testCluster, node string) string {
	for n := range c.nodes {
		if n != node {
			return n
		}
	}
	return ""
}

// With the scrub off nobody finds a flipped bit on a replica that is not read, but a verification that is asked for does, repairs it and says so.
func TestVerifyReadsAllReplicas(t *testing.T) {
	c := newTestCluster(t, 3, 1)
	c.scrub = -1
	for name, n := range c.nodes {
		n.kill()
		c.start(name)
	}
	vol := c.create("v", 16<<20, 3)
	v := c.serving(vol.Id)
	data := make([]byte, 256<<10)
	for i := range data {
		data[i] = byte(i*7 + i/block.Size*13)
	}
	if r, _ := v.do(target.OpWrite, 1<<20, uint64(len(data)), data); r.Kind != target.OK {
		t.Fatalf("write: %+v", r)
	}
	run := func() *storagedv1.Verification {
		t.Helper()
		var got *storagedv1.Verification
		begin := true
		c.eventually("the verification has ended", func() bool {
			var err error
			if got, err = c.volumes.VerifyVolume(t.Context(), &storagedv1.VerifyVolumeRequest{Id: vol.Id, Start: begin}); err != nil {
				t.Fatal(err)
			}
			begin = false
			return got.State == "Done"
		})
		return got
	}
	if got, err := c.volumes.VerifyVolume(t.Context(), &storagedv1.VerifyVolumeRequest{Id: vol.Id}); err != nil || got.State != "None" {
		t.Fatalf("before the first one: %v, %v", got, err)
	}
	if got := run(); got.Extents != 1 || got.ExtentsDone != 1 || got.ExtentsPassed != 0 || got.BytesRead != 3*uint64(len(data)) || got.BlocksBad+got.BlocksLost > 0 || got.ReplicasBehind > 0 {
		t.Errorf("a healthy volume: %v", got)
	}
	n := other(c, v.s.o.Node)
	if err := c.nodes[n].server.disks.all()[0].store.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.flip(n, data[3*block.Size:4*block.Size]) == 0 {
		t.Fatalf("node %s: the block is not found on its disk", n)
	}
	if got := run(); got.BlocksBad != 1 || got.BlocksRepaired != 1 || got.BlocksLost != 0 || got.ExtentsDone != 1 {
		t.Errorf("with a flipped bit on %s: %v", n, got)
	}
	if got := run(); got.BlocksBad != 0 || got.BlocksRepaired != 0 {
		t.Errorf("after the repair: %v", got)
	}
}
