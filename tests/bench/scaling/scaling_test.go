package scaling

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/metadb/metadbtest"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/store"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

var update = flag.Bool("update", false, "write docs/scaling.md")

const page = "../../../docs/scaling.md"

// sizes are what is measured, in bytes.
type sizes struct {
	Volume, Extent float64 // in etcd's database: a volume with its name, owner and grant; a 3-way extent
	OwnerExtent    float64 // memory of the owner of an extent
	StoreTiB       float64 // memory of a store per TiB of capacity
	MappedTiB      float64 // memory of a store per TiB of written extents
}

// heap is the memory in use after collection.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

func measure(t *testing.T) sizes {
	var s sizes
	const extents = 4096
	records := make([]replication.Record, extents)
	for i := range records {
		records[i].Generation = 1
		for c := range block.ChunkID(3) {
			records[i].Members = append(records[i].Members, replication.Member{Disk: block.NewDiskID(), Chunk: c + 1})
		}
	}
	before := heap()
	promise := new(replication.Promise)
	owner := replication.NewOwner(replication.OwnerOptions{Volume: block.NewVolumeID(), Self: 1, Epoch: 1, Extents: records, ReplicaFactor: 3, MinReplicas: 2,
		SizeBlocks: extents * block.PerExtent, Promise: func(block.ChunkID) *replication.Promise { return promise }})
	s.OwnerExtent = (heap() - before) / extents
	runtime.KeepAlive(owner)

	small, large := openStore(t, 64<<30, 0), openStore(t, 1<<40, 0)
	s.StoreTiB = (large - small) / (1 - 64.0/1024)
	s.MappedTiB = (openStore(t, 64<<30, 16) - small) * 1024 / 16
	// Last: what etcd takes and gives back meanwhile would count as the store's, 64-fold for a TiB of replicas.
	s.Volume, s.Extent = metadata(t)
	return s
}

// metadata measures etcd's database with volumes of one extent and with some of many.
func metadata(t *testing.T) (volume, extent float64) {
	srv := metadbtest.Start(t)
	db := srv.Open(t)
	g := metadbtest.Lead(t, db, 1)
	used := func() float64 {
		srv.Etcd.Server.Backend().ForceCommit()
		return float64(srv.Etcd.Server.Backend().SizeInUse())
	}
	add := func(extents int) {
		id := block.NewVolumeID()
		v := metadb.Volume{ID: id, Name: "pvc-" + id.String(), SizeBytes: uint64(extents) << 30, ReplicaFactor: 3, MinReplicas: 2, Thin: true, Lineage: id, State: metadb.StateReady}
		if _, err := db.Commit(t.Context(), g, metadb.PutVolume(v), metadb.PutName(metadb.Name{Name: v.Name, Volume: id}),
			metadb.PutGrant(metadb.Grant{Volume: id, Initiator: "iqn.2016-02.com.iomesh:node-255", Mode: metadb.AccessExclusive, Generation: 1, CHAPUser: "node-255", CHAPSecret: strings.Repeat("x", 24), Node: "node-255"})); err != nil {
			t.Fatal(err)
		}
		list := make([]metadb.Extent, extents)
		for i := range list {
			list[i] = metadb.Extent{ID: block.ExtentID{Volume: id, Index: block.ExtentIndex(i)}, Generation: 1}
			for c := range block.ChunkID(3) {
				list[i].Members = append(list[i].Members, metadb.Member{Disk: block.NewDiskID(), Chunk: c + 200})
			}
		}
		if _, err := db.CreateExtents(t.Context(), g, list); err != nil {
			t.Fatal(err)
		}
		if _, err := db.SetOwners(t.Context(), g, []metadb.Owner{{Volume: id, Chunk: 200, Epoch: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	const many, few = 2048, 1000
	begin := used()
	add(many)
	mid := used()
	for range few {
		add(1)
	}
	end := used()
	// mid − begin = volume + many × extent; end − mid = few × (volume + extent)
	one := (end - mid) / few
	extent = (mid - begin - one) / (many - 1)
	return one - extent, extent
}

// openStore measures the memory of a store on a disk of a size with extents of which every page is written.
func openStore(t *testing.T, size int64, extents int) float64 {
	ctx := context.Background()
	disk := vdisk.NewSim("disk", size)
	if err := store.Format(ctx, disk, store.FormatOptions{Cluster: block.ClusterID{1}, DiskID: block.DiskID{1}}); err != nil {
		t.Fatal(err)
	}
	before := heap()
	s, err := store.Open(ctx, disk, store.Options{DestageIdle: -1, StallAfter: -1, CacheBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	none := heap() - before
	data := vdisk.Aligned(block.Size)
	for i := range extents {
		e := block.ExtentID{Volume: block.VolumeID{1}, Index: block.ExtentIndex(i)}
		if err := s.EnsureReplica(ctx, store.ReplicaSpec{Extent: e, Lineage: e.Volume, Generation: 1}); err != nil {
			t.Fatal(err)
		}
		for p := range uint32(block.PerExtent / 256) {
			var done waiter = make(chan struct{}, 1)
			w := &store.Write{Extent: e, Kind: store.Data, Range: block.Range{Start: block.No(p * 256), Count: 1}, Stamp: block.Stamp(p + 1), Data: data, Completer: done}
			s.Submit(w)
			if <-done; w.Err != nil {
				t.Fatal(w.Err)
			}
		}
	}
	if extents == 0 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return none
	}
	// Opened again, so that what the writes used for a while does not count; the disk's own memory is the same before and after.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before = heap()
	if s, err = store.Open(ctx, disk, store.Options{DestageIdle: -1, StallAfter: -1, CacheBytes: 1}); err != nil {
		t.Fatal(err)
	}
	n := heap() - before
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}

type waiter chan struct{}

func (w waiter) Complete(done []*store.Write) {
	for range done {
		w <- struct{}{}
	}
}

// cluster is what the page computes for.
type cluster struct {
	nodes, volumes int
	provisionedTiB float64
}

func (c cluster) rows(s sizes) [][2]string {
	const tib, mib, gib = 1 << 40, 1 << 20, 1 << 30
	extents := c.provisionedTiB * 1024
	stored := c.provisionedTiB * 3 / float64(c.nodes)
	etcd := s.Volume*float64(c.volumes) + s.Extent*extents
	memory := stored*(s.StoreTiB+s.MappedTiB) + extents/float64(c.nodes)*s.OwnerExtent
	beats := float64(c.nodes-1) / timeouts.Heartbeat.Seconds()
	return [][2]string{
		{"extents, replicas", fmt.Sprintf("%.0f, %.0f", extents, 3*extents)},
		{"etcd's database", fmt.Sprintf("%.0f MiB", etcd/mib)},
		{"capacity used per node", fmt.Sprintf("%.1f TiB", stored)},
		{"memory of a chunk for tables and owned extents", fmt.Sprintf("%.0f MiB", memory/mib)},
		{"volumes and extents owned per node", fmt.Sprintf("%.0f and %.0f", float64(c.volumes)/float64(c.nodes), extents/float64(c.nodes))},
		{"heartbeats a chunk sends per second, whatever the number of volumes", fmt.Sprintf("%.0f", beats)},
		{"records changed when a node is lost: owners and extents", fmt.Sprintf("%.0f and %.0f", float64(c.volumes)/float64(c.nodes), 3*extents/float64(c.nodes))},
		{"records written to create a volume of 1 TiB", "4 and 1024 extents"},
		{"records changed by a snapshot", "2, whatever the size of the volume"},
	}
}

func render(s sizes) string {
	var b bytes.Buffer
	fmt.Fprint(&b, `# Scaling

What a large cluster needs, computed by [tests/bench/scaling](../tests/bench/scaling) from sizes that its test measures; the test fails when this page
and the code part by more than a fifth. How cost per request behaves along volumes, depth, size, snapshots and fill is measured: see
[performance.md](performance.md).

## Measured

| what | bytes |
|---|---|
`)
	for _, r := range measured(s) {
		fmt.Fprintf(&b, "| %s | %.0f |\n", r.what, r.bytes)
	}
	all := []cluster{{3, 100, 10}, {16, 2000, 100}, {255, 80000, 1024}}
	fmt.Fprint(&b, "\n## Computed\n\nThree replicas of everything, all of it written.\n\n| |")
	for _, c := range all {
		fmt.Fprintf(&b, " %d nodes, %d volumes, %.0f TiB |", c.nodes, c.volumes, c.provisionedTiB)
	}
	fmt.Fprint(&b, "\n|---|---|---|---|\n")
	for i, r := range all[0].rows(s) {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r[0], r[1], all[1].rows(s)[i][1], all[2].rows(s)[i][1])
	}
	fmt.Fprint(&b, `
Besides its tables a chunk has buffers (11 MiB per disk), the cache of map pages (an 8,192nd of the disk, from 64 to 256 MiB, as far as it is used), what clients have in flight, and the
block indexes of what its journals hold (at most 64 MiB per disk).
`)
	return b.String()
}

type row struct {
	what  string
	bytes float64
}

func measured(s sizes) []row {
	return []row{
		{"etcd: a volume with its name, owner and one grant", s.Volume},
		{"etcd: an extent with three members", s.Extent},
		{"memory of the owner of an extent", s.OwnerExtent},
		{"memory of a chunk per TiB of its disks", s.StoreTiB},
		{"memory of a chunk per TiB of written replicas", s.MappedTiB},
	}
}

func TestThePageIsWhatIsMeasured(t *testing.T) {
	s := measure(t)
	if *update {
		if err := os.WriteFile(page, []byte(render(s)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatalf("%v: make it with -update", err)
	}
	for _, r := range measured(s) {
		m := regexp.MustCompile(`\| ` + regexp.QuoteMeta(r.what) + ` \| (\d+) \|`).FindSubmatch(b)
		if m == nil {
			t.Errorf("the page does not tell of %q: make it anew with -update", r.what)
			continue
		}
		if old, _ := strconv.ParseFloat(string(m[1]), 64); r.bytes > old*1.2 || r.bytes < old/1.2 {
			t.Errorf("%s: %.0f bytes, the page says %.0f: make it anew with -update", r.what, r.bytes, old)
		}
	}
}
