package meta

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

func code(t *testing.T, err error, want codes.Code, text string) {
	t.Helper()
	if status.Code(err) != want || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("error %v, want %s with %q", err, want, text)
	}
}

func create(t *testing.T, cl client, req *storagedv1.CreateVolumeRequest) *storagedv1.Volume {
	t.Helper()
	v, err := cl.CreateVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func get(t *testing.T, cl client, id string) *storagedv1.Volume {
	t.Helper()
	v, err := cl.GetVolume(t.Context(), &storagedv1.GetVolumeRequest{Id: id, Extents: true})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const gib = 1 << 30

func TestVolumesLiveAndCallsAreIdempotent(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	_, err := cl.CreateVolume(t.Context(), &storagedv1.CreateVolumeRequest{Name: "early", SizeBytes: gib, ReplicaFactor: 3})
	code(t, err, codes.ResourceExhausted, "needs 3 nodes with an active disk, none has one")
	chunks := nodes(t, c, 3)

	req := &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: 5*gib/2 + 1, ReplicaFactor: 3, Labels: map[string]string{"k": "v"}}
	v := create(t, cl, req)
	if v.GetSizeBytes() != 5*gib/2+1<<20 || v.GetState() != "Ready" || v.GetMinReplicas() != 2 || v.GetEpoch() != 1 || len(v.GetPortals()) != 3 {
		t.Errorf("volume %v", v)
	}
	if again := create(t, cl, req); again.GetId() != v.GetId() {
		t.Error("a repeated create made another volume")
	}
	_, err = cl.CreateVolume(t.Context(), &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: gib, ReplicaFactor: 3})
	code(t, err, codes.AlreadyExists, "size_bytes")
	v = get(t, cl, v.GetId())
	if len(v.GetStatus().GetExtentStatus()) != 3 {
		t.Fatalf("%d extents", len(v.GetStatus().GetExtentStatus()))
	}
	for _, e := range v.GetStatus().GetExtentStatus() {
		seen := map[string]bool{}
		for _, m := range e.GetMembers() {
			seen[m.GetNode()] = true
		}
		if len(seen) != 3 {
			t.Errorf("extent %d is on nodes %v", e.GetIndex(), seen)
		}
	}
	for _, bad := range []*storagedv1.CreateVolumeRequest{
		{Name: "x/y", SizeBytes: gib}, {Name: "x"}, {Name: "x", SizeBytes: 65 << 40}, {Name: "x", SizeBytes: gib, ReplicaFactor: 4},
		{Name: "x", SizeBytes: gib, ReplicaFactor: 2, MinReplicas: 3}, {Name: "x", SizeBytes: gib, SourceVolumeId: "nonsense"},
	} {
		_, err := cl.CreateVolume(t.Context(), bad)
		code(t, err, codes.InvalidArgument, "")
	}

	// Publish, twice; another initiator is refused while it is exclusive.
	const ini = "iqn.2026-01.com.example:node1"
	pub := &storagedv1.PublishVolumeRequest{VolumeId: v.GetId(), Initiator: ini, Mode: storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE, Node: "n1"}
	g, err := cl.PublishVolume(t.Context(), pub)
	if err != nil || len(g.GetChapSecret()) != 16 || g.GetChapUser() == "" {
		t.Fatalf("grant %v, %v", g, err)
	}
	if g2, err := cl.PublishVolume(t.Context(), pub); err != nil || g2.GetChapSecret() != g.GetChapSecret() {
		t.Errorf("repeated: %v", err)
	}
	if g3, err := cl.GetGrant(t.Context(), &storagedv1.GetGrantRequest{VolumeId: v.GetId(), Node: "n1"}); err != nil || g3.GetChapSecret() != g.GetChapSecret() {
		t.Errorf("by node: %v, %v", g3, err)
	}
	_, err = cl.PublishVolume(t.Context(), &storagedv1.PublishVolumeRequest{VolumeId: v.GetId(), Initiator: ini + "x", Mode: storagedv1.AccessMode_ACCESS_MODE_SHARED})
	code(t, err, codes.FailedPrecondition, "on node n1")
	if shown := get(t, cl, v.GetId()).GetGrants(); len(shown) != 1 || shown[0].GetChapSecret() != "" {
		t.Errorf("shown grants %v", shown)
	}
	_, err = cl.DeleteVolume(t.Context(), &storagedv1.DeleteVolumeRequest{Id: v.GetId()})
	code(t, err, codes.FailedPrecondition, "unpublish")

	loc, err := cl.Locate(t.Context(), &storagedv1.LocateRequest{Iqn: v.GetIqn()})
	if err != nil || loc.GetChunk() != v.GetOwnerChunk() || loc.GetPortal() == "" {
		t.Errorf("located %v, %v", loc, err)
	}
	_, err = cl.Locate(t.Context(), &storagedv1.LocateRequest{Iqn: "iqn.2016-02.com.iomesh:" + strings.Repeat("0", 8) + "-0000-0000-0000-000000000000"})
	code(t, err, codes.NotFound, "")

	for range 2 {
		if _, err := cl.UnpublishVolume(t.Context(), &storagedv1.UnpublishVolumeRequest{VolumeId: v.GetId(), Node: "n1"}); err != nil {
			t.Fatal(err)
		}
	}
	closed := 0
	for _, f := range chunks {
		f.mu.Lock()
		closed += len(f.closed)
		f.mu.Unlock()
	}
	if closed != 1 {
		t.Errorf("sessions were closed %d times", closed)
	}

	create(t, cl, &storagedv1.CreateVolumeRequest{Name: "b", SizeBytes: gib, ReplicaFactor: 2})
	page, err := cl.ListVolumes(t.Context(), &storagedv1.ListVolumesRequest{PageSize: 1})
	if err != nil || len(page.GetVolumes()) != 1 || page.GetNextPageToken() != "a" {
		t.Fatalf("page %v, %v", page, err)
	}
	page, err = cl.ListVolumes(t.Context(), &storagedv1.ListVolumesRequest{PageSize: 1, PageToken: "a"})
	if err != nil || len(page.GetVolumes()) != 1 || page.GetVolumes()[0].GetName() != "b" || page.GetNextPageToken() != "" {
		t.Fatalf("page %v, %v", page, err)
	}

	// Delete, with one chunk away: its replicas are deleted when it returns.
	chunks[2].kill()
	for range 2 {
		if _, err := cl.DeleteVolume(t.Context(), &storagedv1.DeleteVolumeRequest{Id: v.GetId()}); err != nil {
			t.Fatal(err)
		}
	}
	told := func(f *fakeChunk) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Contains(f.deleted, v.GetId())
	}
	eventually(t, "the present chunks delete the replicas", func() bool { return told(chunks[0]) && told(chunks[1]) })
	if told(chunks[2]) {
		t.Error("an absent chunk was told")
	}
	chunks[2].boot()
	eventually(t, "the returned chunk deletes the replicas", func() bool { return told(chunks[2]) })
	eventually(t, "the tombstone is gone", func() bool {
		r, err := cl.ListTasks(t.Context(), &storagedv1.ListTasksRequest{})
		return err == nil && !slices.ContainsFunc(r.GetTasks(), func(t *storagedv1.Task) bool { return t.GetKind() == "collect" })
	})
}

func TestVolumesOfADeadChunkGetAnotherOwner(t *testing.T) {
	for _, how := range []string{"killed", "frozen", "restarted"} {
		t.Run(how, func(t *testing.T) {
			c := startMeta(t, 1, nil)
			cl := c.client(0)
			chunks := nodes(t, c, 3)
			v := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: 2 * gib, ReplicaFactor: 3})
			other := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "b", SizeBytes: 2 * gib, ReplicaFactor: 3})
			if other.GetOwnerChunk() == v.GetOwnerChunk() {
				t.Error("two volumes on three empty chunks have the same owner")
			}
			owner := byID(chunks, v.GetOwnerChunk())
			switch how {
			case "killed":
				owner.kill()
			case "frozen":
				owner.frozen.Store(true)
			case "restarted":
				owner.kill()
				owner.boot()
			}
			eventually(t, "the volume has an owner in the next epoch that reports it", func() bool {
				now := get(t, cl, v.GetId())
				return now.GetEpoch() == 2 && now.GetOwnerChunk() != v.GetOwnerChunk() && now.GetStatus().GetHealth() != storagedv1.Health_HEALTH_UNAVAILABLE
			})
			if now := get(t, cl, other.GetId()); now.GetEpoch() != 1 {
				t.Error("a volume of a healthy chunk changed its epoch")
			}
		})
	}
}

func TestUnpublishFromAHungOwnerMovesTheVolume(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	chunks := nodes(t, c, 3)
	v := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: gib, ReplicaFactor: 3})
	const ini = "iqn.2026-01.com.example:h"
	if _, err := cl.PublishVolume(t.Context(), &storagedv1.PublishVolumeRequest{VolumeId: v.GetId(), Initiator: ini, Mode: storagedv1.AccessMode_ACCESS_MODE_SHARED}); err != nil {
		t.Fatal(err)
	}
	f := byID(chunks, v.GetOwnerChunk())
	f.mu.Lock()
	f.hang = true
	f.mu.Unlock()
	if _, err := cl.UnpublishVolume(t.Context(), &storagedv1.UnpublishVolumeRequest{VolumeId: v.GetId(), Initiator: ini}); err != nil {
		t.Fatal(err)
	}
	now := get(t, cl, v.GetId())
	if now.GetEpoch() != 2 || now.GetOwnerChunk() == v.GetOwnerChunk() || len(now.GetGrants()) != 0 {
		t.Errorf("volume %v", now)
	}
}

func TestVolumesMoveToTheirInitiatorAndOffMaintenance(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	chunks := nodes(t, c, 3)
	v := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: gib, ReplicaFactor: 3, PreferNode: "n2"})
	if v.GetOwnerNode() != "n2" {
		t.Fatalf("owner on %s", v.GetOwnerNode())
	}
	if _, err := cl.PublishVolume(t.Context(), &storagedv1.PublishVolumeRequest{VolumeId: v.GetId(), Initiator: "iqn.2026-01.com.example:n3", Node: "n3", Mode: storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the volume is owned next to its initiator", func() bool { return get(t, cl, v.GetId()).GetOwnerNode() == "n3" })
	if _, err := cl.SetNodeMode(t.Context(), &storagedv1.SetNodeModeRequest{Node: "n3", Mode: "maintenance"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the volume leaves the node in maintenance", func() bool { return get(t, cl, v.GetId()).GetOwnerNode() != "n3" })
	if _, err := cl.SetNodeMode(t.Context(), &storagedv1.SetNodeModeRequest{Node: "n9", Mode: "maintenance"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown node: %v", err)
	}
	_ = chunks
	if _, err := cl.SetNodeMode(t.Context(), &storagedv1.SetNodeModeRequest{Node: "n3", Mode: "active"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the volume returns", func() bool { return get(t, cl, v.GetId()).GetOwnerNode() == "n3" })
	if m, err := cl.MoveOwner(t.Context(), &storagedv1.MoveOwnerRequest{VolumeId: v.GetId(), Node: "n1"}); err != nil || m.GetOwnerNode() != "n1" {
		t.Errorf("moved to %v, %v", m, err)
	}
}
