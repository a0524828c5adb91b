package meta

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
)

func TestSnapshotsClonesAndGrowth(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	chunks := nodes(t, c, 3)
	v := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: 2 * gib, ReplicaFactor: 3})

	s1, err := cl.CreateSnapshot(t.Context(), &storagedv1.CreateSnapshotRequest{VolumeId: v.GetId(), Name: "one"})
	if err != nil || !s1.GetReady() || s1.GetSnapSeq() != 0 || s1.GetSizeBytes() != 2*gib {
		t.Fatalf("%v, %v", s1, err)
	}
	if again, err := cl.CreateSnapshot(t.Context(), &storagedv1.CreateSnapshotRequest{VolumeId: v.GetId(), Name: "one"}); err != nil || again.GetId() != s1.GetId() {
		t.Errorf("repeated: %v, %v", again, err)
	}
	s2, err := cl.CreateSnapshot(t.Context(), &storagedv1.CreateSnapshotRequest{VolumeId: v.GetId(), Name: "two"})
	if err != nil || s2.GetSnapSeq() != 1 {
		t.Fatalf("%v, %v", s2, err)
	}

	// Growing twice to the same size is once; shrinking is refused.
	for range 2 {
		g, err := cl.ExpandVolume(t.Context(), &storagedv1.ExpandVolumeRequest{Id: v.GetId(), SizeBytes: 4 * gib})
		if err != nil || g.GetSizeBytes() != 4*gib || g.GetStatus().GetExtents() != 4 {
			t.Fatalf("%v, %v", g, err)
		}
	}
	_, err = cl.ExpandVolume(t.Context(), &storagedv1.ExpandVolumeRequest{Id: v.GetId(), SizeBytes: gib})
	code(t, err, codes.OutOfRange, "cannot shrink")
	owner := byID(chunks, get(t, cl, v.GetId()).GetOwnerChunk())
	owner.mu.Lock()
	if owner.resized[v.GetId()] != 4*gib {
		t.Errorf("the owner was told %d", owner.resized[v.GetId()])
	}
	owner.mu.Unlock()

	// A restore, larger than the snapshot: its first extents lie with the origin's, its epoch is above the origin's.
	r := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "restored", SizeBytes: 3 * gib, ReplicaFactor: 3, SourceSnapshotId: s1.GetId()})
	origin, clone := get(t, cl, v.GetId()), get(t, cl, r.GetId())
	if clone.GetEpoch() <= origin.GetEpoch() || clone.GetSourceSnapshotId() != s1.GetId() || len(clone.GetStatus().GetExtentStatus()) != 3 {
		t.Errorf("clone %v", clone)
	}
	disks := func(e *storagedv1.ExtentStatus) (ids []string) {
		for _, m := range e.GetMembers() {
			ids = append(ids, m.GetDiskId())
		}
		return ids
	}
	for i := range 2 {
		if !slices.Equal(disks(origin.GetStatus().GetExtentStatus()[i]), disks(clone.GetStatus().GetExtentStatus()[i])) {
			t.Errorf("extent %d of the clone is not with its origin", i)
		}
	}
	_, err = cl.CreateVolume(t.Context(), &storagedv1.CreateVolumeRequest{Name: "small", SizeBytes: gib, ReplicaFactor: 3, SourceSnapshotId: s1.GetId()})
	code(t, err, codes.OutOfRange, "smaller than the source")
	// A clone of live content, and its repetition.
	req := &storagedv1.CreateVolumeRequest{Name: "cloned", ReplicaFactor: 3, SourceVolumeId: v.GetId()}
	l := create(t, cl, req)
	if l.GetSizeBytes() != 4*gib || l.GetSourceVolumeId() != v.GetId() || create(t, cl, req).GetId() != l.GetId() {
		t.Errorf("clone %v", l)
	}

	// The internal snapshot goes; chunks keep the views of the two others and, later, of one.
	told := func(want string) func() bool {
		return func() bool {
			for _, f := range chunks {
				f.mu.Lock()
				got := f.views[v.GetId()]
				f.mu.Unlock()
				if got != want {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "every chunk keeps two views", told("[0 1]<3"))
	list, err := cl.ListSnapshots(t.Context(), &storagedv1.ListSnapshotsRequest{VolumeId: v.GetId()})
	if err != nil || len(list.GetSnapshots()) != 2 {
		t.Errorf("%d snapshots, %v", len(list.GetSnapshots()), err)
	}
	for range 2 {
		if _, err := cl.DeleteSnapshot(t.Context(), &storagedv1.DeleteSnapshotRequest{Id: s1.GetId()}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "every chunk keeps one view", told("[1]<3"))
	_, err = cl.GetSnapshot(t.Context(), &storagedv1.GetSnapshotRequest{Name: "one", VolumeId: v.GetId()})
	code(t, err, codes.NotFound, "")

	_, err = cl.DeleteVolume(t.Context(), &storagedv1.DeleteVolumeRequest{Id: v.GetId()})
	code(t, err, codes.FailedPrecondition, "two")
	if _, err := cl.DeleteVolume(t.Context(), &storagedv1.DeleteVolumeRequest{Id: v.GetId(), CascadeSnapshots: true}); err != nil {
		t.Fatal(err)
	}
	if g := get(t, cl, r.GetId()); g.GetState() != "Ready" {
		t.Error("the clone went with its origin")
	}
}

func TestAFailedCreationLeavesNothingBehind(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	chunks := nodes(t, c, 3)
	chunks[1].mu.Lock()
	chunks[1].refuse = status.Error(codes.ResourceExhausted, "no space left")
	chunks[1].mu.Unlock()
	_, err := cl.CreateVolume(t.Context(), &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: 2 * gib, ReplicaFactor: 3})
	code(t, err, codes.ResourceExhausted, "no space left")
	_, err = cl.GetVolume(t.Context(), &storagedv1.GetVolumeRequest{Name: "a"})
	code(t, err, codes.NotFound, "")
	eventually(t, "the replicas that were made are deleted", func() bool {
		chunks[0].mu.Lock()
		defer chunks[0].mu.Unlock()
		return len(chunks[0].deleted) == 1
	})
	chunks[1].mu.Lock()
	chunks[1].refuse = nil
	chunks[1].mu.Unlock()
	create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: 2 * gib, ReplicaFactor: 3})
}

func TestDrainEmptiesADiskAndRemoveForgetsIt(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	chunks := nodes(t, c, 3)
	v := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: 8 * gib, ReplicaFactor: 3})
	disk := get(t, cl, v.GetId()).GetStatus().GetExtentStatus()[0].GetMembers()[0].GetDiskId()
	_, err := cl.RemoveDisk(t.Context(), &storagedv1.RemoveDiskRequest{Id: disk})
	code(t, err, codes.FailedPrecondition, "(a): drain it")
	for range 2 {
		if d, err := cl.DrainDisk(t.Context(), &storagedv1.DrainDiskRequest{Id: disk}); err != nil || d.GetState() != "Draining" && d.GetState() != "Drained" {
			t.Fatalf("%v, %v", d, err)
		}
	}
	eventually(t, "the disk is drained", func() bool {
		r, err := cl.ListDisks(t.Context(), &storagedv1.ListDisksRequest{})
		return err == nil && slices.ContainsFunc(r.GetDisks(), func(d *storagedv1.Disk) bool { return d.GetId() == disk && d.GetState() == "Drained" })
	})
	for _, e := range get(t, cl, v.GetId()).GetStatus().GetExtentStatus() {
		seen := map[string]bool{}
		for _, m := range e.GetMembers() {
			seen[m.GetNode()] = true
			if m.GetDiskId() == disk {
				t.Errorf("extent %d is still on the disk", e.GetIndex())
			}
		}
		if len(e.GetMembers()) != 3 || len(seen) != 3 {
			t.Errorf("extent %d has members %v", e.GetIndex(), e.GetMembers())
		}
	}
	for range 2 {
		if _, err := cl.RemoveDisk(t.Context(), &storagedv1.RemoveDiskRequest{Id: disk}); err != nil {
			t.Fatal(err)
		}
	}
	// It is forgotten once it is detached.
	for _, f := range chunks {
		f.mu.Lock()
		f.disks = slices.DeleteFunc(f.disks, func(d *storagedv1.Disk) bool { return d.GetId() == disk })
		f.mu.Unlock()
	}
	eventually(t, "the disk is gone from the list", func() bool {
		r, err := cl.ListDisks(t.Context(), &storagedv1.ListDisksRequest{})
		return err == nil && !slices.ContainsFunc(r.GetDisks(), func(d *storagedv1.Disk) bool { return d.GetId() == disk })
	})
}

func TestReplicasOfALostNodeAreRebuiltElsewhere(t *testing.T) {
	c := startMeta(t, 1, func(o *Options) { o.RepairDelay = 3 * time.Second })
	cl := c.client(0)
	chunks := nodes(t, c, 4)
	v := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: 3 * gib, ReplicaFactor: 3})
	var lost *fakeChunk
	for _, f := range chunks {
		on := func(m *storagedv1.Member) bool { return m.GetNode() == f.node }
		if f != byID(chunks, v.GetOwnerChunk()) && slices.ContainsFunc(get(t, cl, v.GetId()).GetStatus().GetExtentStatus()[0].GetMembers(), on) {
			lost = f
			break
		}
	}
	lost.kill()
	// The owner drops the silent member, as it does by itself.
	for _, d := range lost.disks {
		id, err := block.ParseDiskID(d.GetId())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the owner drops the silent member", func() bool {
			// Another one by now, if this process stood still for long.
			return byID(chunks, get(t, cl, v.GetId()).GetOwnerChunk()).drop(t.Context(), v.GetId(), id) == nil
		})
	}
	st := get(t, cl, v.GetId()).GetStatus()
	if st.GetHealth() != storagedv1.Health_HEALTH_AT_RISK || !strings.Contains(st.GetReason(), lost.node) {
		t.Errorf("status %s: %s", st.GetHealth(), st.GetReason())
	}
	eventually(t, "every extent has three members on living nodes and none absent", func() bool {
		for _, e := range get(t, cl, v.GetId()).GetStatus().GetExtentStatus() {
			if len(e.GetMembers()) != 3 || len(e.GetAbsent()) != 0 || slices.ContainsFunc(e.GetMembers(), func(m *storagedv1.Member) bool { return m.GetNode() == lost.node }) {
				return false
			}
		}
		return true
	})
	_, err := cl.RemoveNode(t.Context(), &storagedv1.RemoveNodeRequest{Node: lost.node})
	code(t, err, codes.FailedPrecondition, "2 disks")
	for _, d := range lost.disks {
		if _, err := cl.RemoveDisk(t.Context(), &storagedv1.RemoveDiskRequest{Id: d.GetId()}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := cl.RemoveNode(t.Context(), &storagedv1.RemoveNodeRequest{Node: lost.node}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := cl.ListNodes(t.Context(), &storagedv1.ListNodesRequest{})
	if err != nil || len(r.GetNodes()) != 3 {
		t.Errorf("%d nodes, %v", len(r.GetNodes()), err)
	}
}

func TestASlowCopyIsAskedForOnceAndShownAsATask(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	chunks := nodes(t, c, 3)
	v := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: gib, ReplicaFactor: 3})
	owner := byID(chunks, v.GetOwnerChunk())
	owner.mu.Lock()
	owner.joinSlow = true
	owner.mu.Unlock()
	disk := get(t, cl, v.GetId()).GetStatus().GetExtentStatus()[0].GetMembers()[0].GetDiskId()
	if _, err := cl.DrainDisk(t.Context(), &storagedv1.DrainDiskRequest{Id: disk}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the drain and the rebuild are shown", func() bool {
		r, err := cl.ListTasks(t.Context(), &storagedv1.ListTasksRequest{})
		kinds := map[string]bool{}
		for _, task := range r.GetTasks() {
			kinds[task.GetKind()] = true
		}
		return err == nil && kinds["drain"] && kinds["rebuild"]
	})
	eventually(t, "one joining replica is shown beside the members", func() bool {
		e := get(t, cl, v.GetId()).GetStatus().GetExtentStatus()[0]
		joining := slices.DeleteFunc(slices.Clone(e.GetMembers()), func(m *storagedv1.Member) bool { return m.GetKind() != kindJoining })
		return len(joining) == 1 && len(e.GetMembers()) == 4
	})
}

func TestCapacityIsWhatCreationGrants(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	nodes(t, c, 3)
	r, err := cl.GetCapacity(t.Context(), &storagedv1.GetCapacityRequest{ReplicaFactor: 3})
	if err != nil {
		t.Fatal(err)
	}
	_, err = cl.CreateVolume(t.Context(), &storagedv1.CreateVolumeRequest{Name: "more", SizeBytes: r.GetAvailableBytes() + gib, ReplicaFactor: 3})
	code(t, err, codes.ResourceExhausted, "more room than the pool has")
	create(t, cl, &storagedv1.CreateVolumeRequest{Name: "all", SizeBytes: r.GetAvailableBytes(), ReplicaFactor: 3})
	if r, err = cl.GetCapacity(t.Context(), &storagedv1.GetCapacityRequest{ReplicaFactor: 3}); err != nil || r.GetAvailableBytes() != 0 {
		t.Errorf("left: %d, %v", r.GetAvailableBytes(), err)
	}
}

func TestOnlyReplicasThatNoSetNamesAreCollected(t *testing.T) {
	c := startMeta(t, 1, func(o *Options) { o.InventoryEvery = time.Second })
	cl := c.client(0)
	chunks := nodes(t, c, 3)
	v := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: gib, ReplicaFactor: 2})
	members := get(t, cl, v.GetId()).GetStatus().GetExtentStatus()[0].GetMembers()
	var outside *fakeChunk
	for _, f := range chunks {
		if !slices.ContainsFunc(members, func(m *storagedv1.Member) bool { return m.GetNode() == f.node }) {
			outside = f
		}
	}
	in := byID(chunks, members[0].GetChunk())
	orphan := &storagedv1.ReplicaInfo{VolumeId: v.GetId(), Extent: 0, DiskId: outside.disks[0].GetId()}
	unknown := &storagedv1.ReplicaInfo{VolumeId: block.NewVolumeID().String(), Extent: 0, DiskId: outside.disks[0].GetId()}
	beyond := &storagedv1.ReplicaInfo{VolumeId: v.GetId(), Extent: 7, DiskId: outside.disks[0].GetId()}
	member := &storagedv1.ReplicaInfo{VolumeId: v.GetId(), Extent: 0, DiskId: members[0].GetDiskId()}
	outside.mu.Lock()
	outside.extra = []*storagedv1.ReplicaInfo{orphan, unknown, beyond}
	outside.mu.Unlock()
	in.mu.Lock()
	in.extra = []*storagedv1.ReplicaInfo{member}
	in.mu.Unlock()
	eventually(t, "the orphan is deleted", func() bool {
		outside.mu.Lock()
		defer outside.mu.Unlock()
		return len(outside.buried) > 0
	})
	// Two more inventories find nothing else to delete.
	listed := func(f *fakeChunk) int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.listed
	}
	outsideThen, inThen := listed(outside), listed(in)
	eventually(t, "three more inventories", func() bool { return listed(outside) >= outsideThen+3 && listed(in) >= inThen+3 })
	outside.mu.Lock()
	defer outside.mu.Unlock()
	if len(outside.buried) != 1 || outside.buried[0].GetExtent() != 0 || outside.buried[0].GetVolumeId() != v.GetId() || len(outside.extra) != 2 {
		t.Errorf("deleted %v, left %v", outside.buried, outside.extra)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.buried) != 0 {
		t.Errorf("a member's replica was deleted: %v", in.buried)
	}
}

// A drained disk is empty seconds after its last replica has left its set: the inventory that would find what is left comes each five minutes.
func TestDrainDeletesWhatIsLeftOnTheDisk(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	chunks := nodes(t, c, 3)
	v := create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: gib, ReplicaFactor: 2})
	members := get(t, cl, v.GetId()).GetStatus().GetExtentStatus()[0].GetMembers()
	leaving := byID(chunks, members[0].GetChunk())
	disk := members[0].GetDiskId()
	left := &storagedv1.ReplicaInfo{VolumeId: v.GetId(), Extent: 0, DiskId: disk}
	unknown := &storagedv1.ReplicaInfo{VolumeId: block.NewVolumeID().String(), Extent: 0, DiskId: disk}
	leaving.mu.Lock()
	leaving.extra = []*storagedv1.ReplicaInfo{left, unknown}
	leaving.mu.Unlock()
	if _, err := cl.DrainDisk(t.Context(), &storagedv1.DrainDiskRequest{Id: disk}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is left on the disk is deleted", func() bool {
		leaving.mu.Lock()
		defer leaving.mu.Unlock()
		return len(leaving.buried) > 0
	})
	if e := get(t, cl, v.GetId()).GetStatus().GetExtentStatus()[0]; slices.ContainsFunc(e.GetMembers(), func(m *storagedv1.Member) bool { return m.GetDiskId() == disk }) {
		t.Errorf("deleted while the set named it: %v", e)
	}
	leaving.mu.Lock()
	defer leaving.mu.Unlock()
	if len(leaving.buried) != 1 || leaving.buried[0].GetVolumeId() != v.GetId() || len(leaving.extra) != 1 || leaving.listed < 2 {
		t.Errorf("deleted %v, left %v after %d inventories", leaving.buried, leaving.extra, leaving.listed)
	}
}
