package meta

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// leaderIndex returns the position of the leading member, as the members say.
func (c *metaCluster) leaderIndex(ctx context.Context) int {
	for i := range c.members {
		if c.procs[c.members[i].Name] == nil {
			continue
		}
		st, err := c.client(i).GetStatus(ctx, &storagedv1.GetStatusRequest{})
		if err != nil {
			continue
		}
		for j, m := range c.members {
			if m.Name == st.GetLeader() {
				return j
			}
		}
	}
	return -1
}

func (c *metaCluster) healthy(ctx context.Context, i int) int {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	st, err := c.client(i).GetStatus(ctx, &storagedv1.GetStatusRequest{})
	n := 0
	if err == nil {
		for _, m := range st.GetMeta() {
			if m.GetHealthy() {
				n++
			}
		}
	}
	return n
}

func TestThreeMembersForwardFailOverAndReplaceALostOne(t *testing.T) {
	c := startMeta(t, 3, nil)
	eventually(t, "three members are healthy", func() bool { return c.healthy(t.Context(), 0) == 3 })
	nodes(t, c, 3)

	// Every member serves every call.
	lead := c.leaderIndex(t.Context())
	for i := range c.members {
		v := create(t, c.client(i), &storagedv1.CreateVolumeRequest{Name: "v" + c.members[i].Name, SizeBytes: gib, ReplicaFactor: 3})
		_, err := c.client((i+1)%3).CreateVolume(t.Context(), &storagedv1.CreateVolumeRequest{Name: "v" + c.members[i].Name, SizeBytes: 2 * gib, ReplicaFactor: 3})
		code(t, err, codes.AlreadyExists, "size_bytes")
		for j := range c.members {
			eventually(t, "every member locates the volume", func() bool {
				loc, err := c.client(j).Locate(t.Context(), &storagedv1.LocateRequest{Iqn: v.GetIqn()})
				return err == nil && loc.GetPortal() != ""
			})
		}
	}
	// A heartbeat stream at a member that does not lead is sent to the one that does.
	s, err := c.client((lead + 1) % 3).Heartbeat(t.Context())
	if err == nil {
		_, err = s.Recv()
	}
	if !isNotLeader(err) || !strings.Contains(err.Error(), c.members[lead].GRPC) {
		t.Errorf("heartbeat at a follower: %v", err)
	}

	// The leader goes; the others lead on, and know the volumes and, soon, the chunks.
	dir := c.kill(c.members[lead].Name)
	other := (lead + 1) % 3
	eventually(t, "another member leads and the chunks have come to it", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r, err := c.client(other).ListNodes(ctx, &storagedv1.ListNodesRequest{})
		online := 0
		for _, n := range r.GetNodes() {
			if n.GetState() == "Online" {
				online++
			}
		}
		return err == nil && online == 3
	})
	create(t, c.client(other), &storagedv1.CreateVolumeRequest{Name: "while-away", SizeBytes: gib, ReplicaFactor: 3})
	l, err := c.client(other).ListVolumes(t.Context(), &storagedv1.ListVolumesRequest{})
	if err != nil || len(l.GetVolumes()) != 4 {
		t.Fatalf("%d volumes, %v", len(l.GetVolumes()), err)
	}
	for _, v := range l.GetVolumes() {
		if v.GetEpoch() != 1 {
			t.Errorf("volume %s was given another owner at a mere change of leader", v.GetName())
		}
	}
	st, err := c.client(other).GetStatus(t.Context(), &storagedv1.GetStatusRequest{})
	if err != nil || st.GetHealth() != storagedv1.Health_HEALTH_AT_RISK || !strings.Contains(st.GetReason(), c.members[lead].Name) {
		t.Errorf("status %s: %s, %v", st.GetHealth(), st.GetReason(), err)
	}

	// With its directory it comes back as itself.
	before := memberID(t, c, other, lead)
	c.start(c.members[lead].Name, dir)
	eventually(t, "the member is back", func() bool { return c.healthy(t.Context(), other) == 3 })
	if memberID(t, c, other, lead) != before {
		t.Error("a member with its directory got another id")
	}
	// Without it, as a learner under another id.
	c.kill(c.members[lead].Name)
	c.start(c.members[lead].Name, filepath.Join(t.TempDir(), "new"))
	eventually(t, "the lost member was replaced and is healthy", func() bool {
		return c.healthy(t.Context(), other) == 3 && memberID(t, c, other, lead) != before
	})
	// And it votes: with it, one of the others may go.
	eventually(t, "it is no learner any more", func() bool {
		cli, err := (&server{opts: Options{}}).etcdClient("http://" + c.members[other].Client)
		if err != nil {
			return false
		}
		defer cli.Close()
		ml, err := cli.MemberList(t.Context())
		if err != nil || len(ml.Members) != 3 {
			return false
		}
		for _, m := range ml.Members {
			if m.IsLearner {
				return false
			}
		}
		return true
	})
	c.kill(c.members[other].Name)
	eventually(t, "the replaced member and the third serve calls", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := c.client(lead).CreateVolume(ctx, &storagedv1.CreateVolumeRequest{Name: "with-the-new-one", SizeBytes: gib, ReplicaFactor: 3})
		return err == nil
	})
}

// memberID asks member at for the etcd id of member of.
func memberID(t *testing.T, c *metaCluster, at, of int) uint64 {
	t.Helper()
	cli, err := (&server{opts: Options{}}).etcdClient("http://" + c.members[at].Client)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ml, err := cli.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ml.Members {
		if m.Name == c.members[of].Name {
			return m.ID
		}
	}
	return 0
}

func TestADeposedLeaderStepsDownAndTakesOverAnew(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	nodes(t, c, 3)
	db, err := metadb.Open(metadb.Options{Endpoints: []string{c.members[0].Client}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	before, err := db.GetLeader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Another takes the key, as after a partition that this process did not notice.
	if _, err := db.TakeLeadership(t.Context(), metadb.Leader{Member: 99, Name: "other", Term: before.Term, Address: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	// The next change fails at the guard; the member is still raft's leader, so it takes over again, and the call succeeds then.
	create(t, cl, &storagedv1.CreateVolumeRequest{Name: "a", SizeBytes: gib, ReplicaFactor: 2})
	after, err := db.GetLeader(t.Context())
	if err != nil || after.Member != before.Member || after.Revision <= before.Revision {
		t.Errorf("leader %+v, %v", after, err)
	}
}

func TestAMemberOfAnotherClusterRefusesToLead(t *testing.T) {
	c := startMeta(t, 1, nil)
	cl := c.client(0)
	eventually(t, "it leads", func() bool {
		st, err := cl.GetStatus(t.Context(), &storagedv1.GetStatusRequest{})
		return err == nil && st.GetClusterId() != ""
	})
	_, err := cl.Register(t.Context(), &storagedv1.RegisterRequest{ClusterId: "11111111-2222-3333-4444-555555555555", Node: "n", DataAddress: "h:1", IscsiAddress: "h:2", ControlAddress: "h:3", BootId: 1, FeatureLevel: 1})
	code(t, err, codes.FailedPrecondition, "belongs to cluster")
	_, err = cl.Register(t.Context(), &storagedv1.RegisterRequest{Node: "n", DataAddress: "h:1", IscsiAddress: "h:2", ControlAddress: "h:3", BootId: 1})
	code(t, err, codes.FailedPrecondition, "upgrade")
	_, err = cl.Register(t.Context(), &storagedv1.RegisterRequest{Node: "n", DataAddress: "h", IscsiAddress: "h:2", ControlAddress: "h:3", BootId: 1, FeatureLevel: 1})
	code(t, err, codes.InvalidArgument, "data_address")
}

func TestRolesAreEnforcedOverTLS(t *testing.T) {
	ca, err := mtls.NewAuthority("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dirs := map[mtls.Role]string{}
	for _, r := range mtls.Roles() {
		leaf, err := ca.Issue(mtls.LeafOptions{Role: r, Validity: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		dirs[r] = t.TempDir()
		if err := leaf.Write(dirs[r]); err != nil {
			t.Fatal(err)
		}
	}
	c := startMeta(t, 3, func(o *Options) { o.TLSDir = dirs[mtls.RoleMeta] })
	as := func(r mtls.Role, i int) (storagedv1.VolumesClient, storagedv1.MembershipClient, *mtls.Source) {
		src, err := mtls.Load(dirs[r])
		if err != nil {
			t.Fatal(err)
		}
		cs := newConns(src)
		t.Cleanup(cs.close)
		cc, err := cs.to(c.members[i].GRPC, mtls.RoleMeta)
		if err != nil {
			t.Fatal(err)
		}
		return storagedv1.NewVolumesClient(cc), storagedv1.NewMembershipClient(cc), src
	}
	admin, _, _ := as(mtls.RoleAdmin, 1)
	eventually(t, "an administrator is answered by a member that forwards over TLS", func() bool {
		_, err := admin.ListVolumes(t.Context(), &storagedv1.ListVolumesRequest{})
		return err == nil
	})
	node, _, _ := as(mtls.RoleNode, 0)
	_, err = node.DeleteVolume(t.Context(), &storagedv1.DeleteVolumeRequest{Id: "x"})
	code(t, err, codes.PermissionDenied, "role node")
	_, err = node.Locate(t.Context(), &storagedv1.LocateRequest{Iqn: "nonsense"})
	code(t, err, codes.InvalidArgument, "iqn")
	_, member, chunkSource := as(mtls.RoleChunk, 0)
	r, err := member.Register(t.Context(), &storagedv1.RegisterRequest{Node: "n", DataAddress: "h:1", IscsiAddress: "h:2", ControlAddress: "h:3", BootId: 1, FeatureLevel: 1})
	if err != nil {
		t.Fatal(err)
	}
	// etcd lets chunks in, and nobody of role node.
	db, err := metadb.Open(metadb.Options{Endpoints: r.GetEtcdEndpoints(), TLS: chunkSource.ClientConfig(mtls.RoleMeta)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if chunks, err := db.ListChunks(t.Context()); err != nil || len(chunks) != 1 {
		t.Errorf("chunks %v, %v", chunks, err)
	}
	_, _, nodeSource := as(mtls.RoleNode, 0)
	db2, err := metadb.Open(metadb.Options{Endpoints: r.GetEtcdEndpoints(), TLS: nodeSource.ClientConfig(mtls.RoleMeta)})
	if err != nil {
		t.Fatal(err)
	}
	defer db2.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := db2.ListChunks(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("role node reads etcd: %v", err)
	}
}

func TestParseMembers(t *testing.T) {
	m, err := ParseMembers("a=10.0.0.1, b=10.0.0.2:1:2:3,c=[fd00::1]:7")
	if err != nil {
		t.Fatal(err)
	}
	want := []Member{
		{"a", "10.0.0.1:10100", "10.0.0.1:10101", "10.0.0.1:10102"},
		{"b", "10.0.0.2:1", "10.0.0.2:2", "10.0.0.2:3"},
		{"c", "[fd00::1]:7", "[fd00::1]:10101", "[fd00::1]:10102"},
	}
	for i := range want {
		if m[i] != want[i] {
			t.Errorf("%+v, want %+v", m[i], want[i])
		}
	}
	for _, bad := range []string{"", "a", "a=", "=h", "a=h:0", "a=h:x", "a=h:1:2:3:4", "a=[fd00::1", "a/b=h", "a=h:70000"} {
		if _, err := ParseMembers(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
