package metadb_test

import (
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/metadb/metadbtest"
)

// TestSizeOfATebibyte bounds what docs/metadata.md states: bytes in etcd's database per TiB of 3-way volumes.
func TestSizeOfATebibyte(t *testing.T) {
	srv := metadbtest.Start(t)
	db := srv.Open(t)
	g := metadbtest.Lead(t, db, 1)
	before := srv.Etcd.Server.Backend().SizeInUse()
	for range 4 {
		volume(t, db, g, 1024)
	}
	srv.Etcd.Server.Backend().ForceCommit()
	perTiB := (srv.Etcd.Server.Backend().SizeInUse() - before) / 4
	t.Logf("%d bytes per TiB", perTiB)
	if perTiB > 300<<10 {
		t.Errorf("a TiB takes %d bytes", perTiB)
	}
}

// BenchmarkLossOfANode records the loss of a node with 10 TiB of replicas: 10,240 extents of 20 volumes, whose owners each
// take a member out of their sets.
func BenchmarkLossOfANode(b *testing.B) {
	srv := metadbtest.StartDurable(b)
	db := srv.Open(b)
	g := metadbtest.Lead(b, db, 1)
	const volumes, extents = 20, 512
	owners, sets := make([]metadb.Owner, volumes), make([][]metadb.Extent, volumes)
	for i := range owners {
		owners[i], sets[i] = volume(b, db, g, extents)
	}
	for b.Loop() {
		var eg errgroup.Group
		for i := range owners {
			eg.Go(func() error {
				for j := range sets[i] {
					e := &sets[i][j]
					e.Generation++
					if len(e.Absent) == 0 {
						e.Absent = []metadb.Absent{{Disk: e.Members[2].Disk, Chunk: e.Members[2].Chunk, Watermark: 1 << 40}}
						e.Members = e.Members[:2]
					}
				}
				res, err := db.UpdateExtents(b.Context(), owners[i].Guard(), sets[i])
				for j := range res {
					sets[i][j].Revision = res[j].Revision
				}
				return err
			})
		}
		if err := eg.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}
