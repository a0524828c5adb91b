package metadb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/metadb/metadbtest"
)

// volume records a ready volume of n extents owned by chunk 1 in epoch 1.
func volume(t testing.TB, db *metadb.DB, g metadb.LeaderGuard, n int) (metadb.Owner, []metadb.Extent) {
	t.Helper()
	id := block.NewVolumeID()
	v := metadb.Volume{ID: id, Name: "v-" + id.String(), SizeBytes: uint64(n) << 30, ReplicaFactor: 3, MinReplicas: 2, Thin: true, Lineage: id, State: metadb.StateReady}
	if _, err := db.Commit(t.Context(), g, metadb.PutVolume(v), metadb.PutName(metadb.Name{Name: v.Name, Volume: id})); err != nil {
		t.Fatal(err)
	}
	extents := make([]metadb.Extent, n)
	for i := range extents {
		extents[i] = metadb.Extent{ID: block.ExtentID{Volume: id, Index: block.ExtentIndex(i)}, Generation: 1}
		for c := range block.ChunkID(3) {
			extents[i].Members = append(extents[i].Members, metadb.Member{Disk: block.NewDiskID(), Chunk: c + 1})
		}
	}
	res, err := db.CreateExtents(t.Context(), g, extents)
	if err != nil {
		t.Fatal(err)
	}
	for i := range res {
		extents[i].Revision = res[i].Revision
	}
	owners, err := db.SetOwners(t.Context(), g, []metadb.Owner{{Volume: id, Chunk: 1, Epoch: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return owners[0].Current, extents
}

func TestExtentsChangeOneByOneUnderTheOwnersGuard(t *testing.T) {
	db := metadbtest.Start(t).Open(t)
	g := metadbtest.Lead(t, db, 1)
	owner, extents := volume(t, db, g, 300)

	for i := range extents {
		extents[i].Generation++
		extents[i].Members = extents[i].Members[:2]
	}
	extents[7].Revision-- // one is not what the owner believes
	stale := extents[7]
	res, err := db.UpdateExtents(t.Context(), owner.Guard(), extents)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range res {
		want := metadb.Committed
		if i == 7 {
			want = metadb.Conflict
		}
		if r.Outcome != want {
			t.Fatalf("extent %d: %s, want %s", i, r.Outcome, want)
		}
	}
	if cur := res[7].Current; cur.Generation != 1 || len(cur.Members) != 3 || cur.Revision != stale.Revision+1 {
		t.Errorf("conflict shows %+v", cur)
	}

	// The same change again, as after a lost answer, is recognised as done, at its revision.
	again, err := db.UpdateExtents(t.Context(), owner.Guard(), extents[:3])
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range again {
		if r.Outcome != metadb.Committed || r.Revision != res[i].Revision {
			t.Errorf("repeated change %d: %+v", i, r)
		}
	}

	got, err := db.LoadVolume(t.Context(), owner.Volume)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Extents) != 300 || got.Owner != owner {
		t.Fatalf("loaded %d extents, owner %+v", len(got.Extents), got.Owner)
	}
	for i, e := range got.Extents {
		if int(e.ID.Index) != i {
			t.Fatalf("extent %d at position %d", e.ID.Index, i)
		}
	}
}

func TestAFormerOwnerChangesNothing(t *testing.T) {
	db := metadbtest.Start(t).Open(t)
	g := metadbtest.Lead(t, db, 1)
	owner, extents := volume(t, db, g, 2)
	next := owner
	next.Chunk, next.Epoch = 2, 2
	if _, err := db.SetOwners(t.Context(), g, []metadb.Owner{next}); err != nil {
		t.Fatal(err)
	}
	extents[0].Generation++
	res, err := db.UpdateExtents(t.Context(), owner.Guard(), extents)
	if !errors.Is(err, metadb.ErrNotOwner) || res[0].Outcome != metadb.GuardFailed {
		t.Errorf("update: %v, %v", res[0].Outcome, err)
	}
	if _, err := db.PassOwner(t.Context(), owner.Guard(), 3); !errors.Is(err, metadb.ErrNotOwner) {
		t.Errorf("pass: %v", err)
	}
	if _, err := db.SetReservation(t.Context(), owner.Guard(), metadb.Reservation{Volume: owner.Volume, State: []byte("x")}); !errors.Is(err, metadb.ErrNotOwner) {
		t.Errorf("reservation: %v", err)
	}
	snap := metadb.Snapshot{ID: block.NewSnapshotID(), Name: "s", Volume: owner.Volume}
	if _, err := db.Commit(t.Context(), g, metadb.PutSnapshot(snap)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.CommitSnapshot(t.Context(), owner.Guard(), snap.ID); !errors.Is(err, metadb.ErrNotOwner) {
		t.Errorf("snapshot: %v", err)
	}
	extents[0].Members = nil
	if _, err := db.UpdateExtents(t.Context(), owner.Guard(), extents); err == nil {
		t.Error("an empty set was accepted (I15)")
	}
}

func TestADeposedLeaderChangesNothing(t *testing.T) {
	db := metadbtest.Start(t).Open(t)
	old := metadbtest.Lead(t, db, 3)
	owner, _ := volume(t, db, old, 1)
	metadbtest.Lead(t, db, 4)
	if _, err := db.TakeLeadership(t.Context(), metadb.Leader{Member: 9, Term: 3}); !errors.Is(err, metadb.ErrDeposed) {
		t.Errorf("a lower term took over: %v", err)
	}
	owner.Epoch++
	if _, err := db.SetOwners(t.Context(), old, []metadb.Owner{owner}); !errors.Is(err, metadb.ErrDeposed) {
		t.Errorf("set owners: %v", err)
	}
	if _, err := db.Commit(t.Context(), old, metadb.PutChunk(metadb.Chunk{ID: 1})); !errors.Is(err, metadb.ErrDeposed) {
		t.Errorf("commit: %v", err)
	}
	if err := db.DeleteExtents(t.Context(), old, owner.Volume, 0); !errors.Is(err, metadb.ErrDeposed) {
		t.Errorf("delete extents: %v", err)
	}
	if _, err := db.CreateExtents(t.Context(), old, []metadb.Extent{{ID: block.ExtentID{Volume: owner.Volume, Index: 9}}}); !errors.Is(err, metadb.ErrDeposed) {
		t.Errorf("create extents: %v", err)
	}
}

func TestSnapshotsNumberViewsAndAreIdempotent(t *testing.T) {
	db := metadbtest.Start(t).Open(t)
	g := metadbtest.Lead(t, db, 1)
	owner, _ := volume(t, db, g, 1)
	for want := range block.SnapSeq(3) {
		snap := metadb.Snapshot{ID: block.NewSnapshotID(), Name: fmt.Sprint(want), Volume: owner.Volume}
		if _, err := db.Commit(t.Context(), g, metadb.PutSnapshot(snap)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := db.CommitSnapshot(t.Context(), owner.Guard(), snap.ID); err != nil || got != want {
				t.Fatalf("view %d, %v; want %d", got, err, want)
			}
		}
	}
	v, err := db.GetVolume(t.Context(), owner.Volume)
	if err != nil || v.SnapSeq != 3 || !slices.Equal(v.Views, []block.SnapSeq{0, 1, 2}) {
		t.Errorf("volume %+v, %v", v, err)
	}
}

func TestPassOwnerTwiceIsOnce(t *testing.T) {
	db := metadbtest.Start(t).Open(t)
	g := metadbtest.Lead(t, db, 1)
	owner, _ := volume(t, db, g, 1)
	a, err := db.PassOwner(t.Context(), owner.Guard(), 2)
	if err != nil || a.Epoch != 2 || a.Chunk != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	if b, err := db.PassOwner(t.Context(), owner.Guard(), 2); err != nil || a != b {
		t.Errorf("again: %+v, %v", b, err)
	}
}

func TestReservationsAreComparedAndSet(t *testing.T) {
	db := metadbtest.Start(t).Open(t)
	g := metadbtest.Lead(t, db, 1)
	owner, _ := volume(t, db, g, 1)
	r, err := db.GetReservation(t.Context(), owner.Volume)
	if err != nil || r.Revision != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	r.State = []byte("one")
	rev, err := db.SetReservation(t.Context(), owner.Guard(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.SetReservation(t.Context(), owner.Guard(), r); !errors.Is(err, metadb.ErrConflict) {
		t.Errorf("a stale write: %v", err)
	}
	if got, err := db.GetReservation(t.Context(), owner.Volume); err != nil || string(got.State) != "one" || got.Revision != rev {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWatchOwnersListsAgainAfterACompaction(t *testing.T) {
	srv := metadbtest.Start(t)
	db := srv.Open(t)
	g := metadbtest.Lead(t, db, 1)
	owner, _ := volume(t, db, g, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ch := db.WatchOwners(ctx)
	u := <-ch
	if !u.Reset || len(u.Owners) != 1 || u.Owners[0] != owner {
		t.Fatalf("first update %+v", u)
	}
	next, err := db.PassOwner(t.Context(), owner.Guard(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if u = <-ch; u.Reset || u.Owners[0] != next {
		t.Fatalf("update %+v", u)
	}
	if _, err := db.Commit(t.Context(), g, metadb.DeleteOwner(next)); err != nil {
		t.Fatal(err)
	}
	if u = <-ch; len(u.Deleted) != 1 || u.Deleted[0] != owner.Volume {
		t.Fatalf("update %+v", u)
	}
	cancel()
	if _, open := <-ch; open {
		t.Error("the channel is open after its context ended")
	}
}

func TestWatchVolumeShowsGrantsAndSizes(t *testing.T) {
	db := metadbtest.Start(t).Open(t)
	g := metadbtest.Lead(t, db, 1)
	owner, _ := volume(t, db, g, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch := db.WatchVolume(ctx, owner.Volume)
	u := <-ch
	if u.Volume.ID != owner.Volume || u.Owner != owner || len(u.Grants) != 0 {
		t.Fatalf("first update %+v", u)
	}
	grant := metadb.Grant{Volume: owner.Volume, Initiator: "iqn.2026-01.com.example:h/1", Mode: metadb.AccessExclusive, Generation: 4, CHAPSecret: "s"}
	rev, err := db.Commit(t.Context(), g, metadb.PutGrant(grant))
	if err != nil {
		t.Fatal(err)
	}
	grant.Revision = rev
	for u = range ch {
		if len(u.Grants) == 1 {
			break
		}
	}
	if u.Grants[0] != grant {
		t.Errorf("grant %+v, want %+v", u.Grants[0], grant)
	}
	if _, err := db.Commit(t.Context(), g, metadb.DeleteVolume(u.Volume)); err != nil {
		t.Fatal(err)
	}
	for u = range ch {
		if u.Deleted {
			break
		}
	}
}

// TestWatchSurvivesCompactionWhileAway: the watch is held up while its next revision is compacted away.
func TestWatchSurvivesCompactionWhileAway(t *testing.T) {
	srv := metadbtest.Start(t)
	db := srv.Open(t)
	g := metadbtest.Lead(t, db, 1)
	owner, _ := volume(t, db, g, 1)
	ch := db.WatchOwners(t.Context())
	<-ch
	for range 50 {
		next, err := db.PassOwner(t.Context(), owner.Guard(), 2)
		if err != nil {
			t.Fatal(err)
		}
		owner = next
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{srv.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	if _, err := cli.Compact(t.Context(), owner.Revision); err != nil {
		t.Fatal(err)
	}
	last := block.Epoch(0)
	for u := range ch {
		for _, o := range u.Owners {
			if o.Epoch < last {
				t.Fatalf("epoch %d after %d", o.Epoch, last)
			}
			last = o.Epoch
		}
		if last == owner.Epoch {
			break
		}
	}
}

// TestRepeatedWritesRecogniseThemselves: what follows when the answer of the first attempt was lost.
func TestRepeatedWritesRecogniseThemselves(t *testing.T) {
	db := metadbtest.Start(t).Open(t)
	g := metadbtest.Lead(t, db, 1)
	id := block.NewVolumeID()
	ops := []metadb.Op{metadb.PutName(metadb.Name{Name: "a", Volume: id}), metadb.PutChunk(metadb.Chunk{ID: 3, Node: "n"})}
	first, err := db.Commit(t.Context(), g, ops...)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := db.Commit(t.Context(), g, ops...); err != nil || again != first {
		t.Errorf("repeated puts: revision %d, %v; want %d", again, err, first)
	}
	if _, err := db.Commit(t.Context(), g, ops[0], metadb.PutChunk(metadb.Chunk{ID: 3, Node: "other"})); !errors.Is(err, metadb.ErrConflict) {
		t.Errorf("another content: %v", err)
	}
	del := metadb.DeleteName(metadb.Name{Name: "a", Volume: id, Revision: first})
	for range 2 {
		if _, err := db.Commit(t.Context(), g, del); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	change := []metadb.Owner{{Volume: id, Chunk: 4, Epoch: 1}}
	for range 2 {
		if res, err := db.SetOwners(t.Context(), g, change); err != nil || res[0].Outcome != metadb.Committed || res[0].Current.Revision == 0 {
			t.Errorf("owner: %+v, %v", res, err)
		}
	}
	if res, err := db.SetOwners(t.Context(), g, []metadb.Owner{{Volume: id, Chunk: 5, Epoch: 1}}); err != nil || res[0].Outcome != metadb.Conflict {
		t.Errorf("another owner: %+v, %v", res, err)
	}
}
