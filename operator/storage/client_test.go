package storage

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// member is a metadata member that knows a number of volumes.
type member struct {
	storagedv1.UnimplementedClusterServer
	storagedv1.UnimplementedVolumesServer
	volumes int
	drained []string
	hang    bool // answer GetStatus never, as a frozen process
}

func (m *member) GetStatus(ctx context.Context, _ *storagedv1.GetStatusRequest) (*storagedv1.ClusterStatus, error) {
	if m.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &storagedv1.ClusterStatus{ClusterId: "c"}, nil
}

func (m *member) ListVolumes(_ context.Context, r *storagedv1.ListVolumesRequest) (*storagedv1.ListVolumesResponse, error) {
	from := 0
	if r.GetPageToken() != "" {
		from, _ = strconv.Atoi(r.GetPageToken())
	}
	out := &storagedv1.ListVolumesResponse{}
	for i := from; i < min(m.volumes, from+int(r.GetPageSize())); i++ {
		out.Volumes = append(out.Volumes, &storagedv1.Volume{Id: strconv.Itoa(i)})
	}
	if next := from + len(out.Volumes); next < m.volumes {
		out.NextPageToken = strconv.Itoa(next)
	}
	return out, nil
}

func (m *member) DrainDisk(_ context.Context, r *storagedv1.DrainDiskRequest) (*storagedv1.Disk, error) {
	if r.GetId() == "unknown" {
		return nil, status.Error(codes.NotFound, "no such disk")
	}
	m.drained = append(m.drained, r.GetId())
	return &storagedv1.Disk{}, nil
}

func credentials(t *testing.T, a *mtls.Authority, role mtls.Role) *mtls.Source {
	t.Helper()
	leaf, err := a.Issue(mtls.LeafOptions{Role: role, Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := leaf.Write(dir); err != nil {
		t.Fatal(err)
	}
	s, err := mtls.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve runs a member as a role and gives its address.
func serve(t *testing.T, a *mtls.Authority, role mtls.Role, m *member) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials(t, a, role).ServerCredentials(mtls.RoleController)))
	storagedv1.RegisterClusterServer(s, m)
	storagedv1.RegisterVolumesServer(s, m)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func TestClient(t *testing.T) {
	a, err := mtls.NewAuthority("c", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{volumes: pageSize*2 + 1}
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	c, err := New(dead.Addr().String()+", "+serve(t, a, mtls.RoleMeta, m), credentials(t, a, mtls.RoleController))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if st, err := c.Status(t.Context()); err != nil || st.GetClusterId() != "c" {
		t.Fatalf("a dead first member is not passed over: %v", err)
	}
	volumes, err := c.Volumes(t.Context())
	if err != nil || len(volumes) != m.volumes || volumes[len(volumes)-1].GetId() != strconv.Itoa(m.volumes-1) {
		t.Errorf("%d volumes of %d, %v", len(volumes), m.volumes, err)
	}
	if err := c.DrainDisk(t.Context(), "d1", false); err != nil || len(m.drained) != 1 {
		t.Errorf("drain: %v", err)
	}
	if err := c.DrainDisk(t.Context(), "unknown", false); err == nil || !strings.Contains(err.Error(), "drain disk unknown") || status.Code(err) != codes.NotFound {
		t.Errorf("error %v does not name the disk, or has lost its code", err)
	}
}

func TestAFrozenMemberIsPassedOver(t *testing.T) {
	a, err := mtls.NewAuthority("c", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(serve(t, a, mtls.RoleMeta, &member{hang: true})+","+serve(t, a, mtls.RoleMeta, &member{}), credentials(t, a, mtls.RoleController))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 { // whichever member is first in turn
		if _, err := c.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAServerInAnotherRoleIsRefused(t *testing.T) {
	a, err := mtls.NewAuthority("c", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(serve(t, a, mtls.RoleChunk, &member{}), credentials(t, a, mtls.RoleController))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "role chunk") {
		t.Errorf("error %v", err)
	}
}

func TestNoAddressIsAnError(t *testing.T) {
	if _, err := New(" , ", nil); err == nil {
		t.Error("accepted")
	}
}
