package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake answers with fixed values and remembers what was asked.
type fake struct {
	storagedv1.UnimplementedVolumesServer
	storagedv1.UnimplementedClusterServer
	created   *storagedv1.CreateVolumeRequest
	published []*storagedv1.PublishVolumeRequest
	calls     []string
	sick      bool
	fail      error
}

var at = timestamppb.New(time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC))

func (f *fake) volume() *storagedv1.Volume {
	v := &storagedv1.Volume{
		Id: "11111111-2222-3333-4444-555555555555", Name: "data", SizeBytes: 3 << 30, ReplicaFactor: 3, MinReplicas: 2, Thin: true,
		Iqn: "iqn.2016-02.com.iomesh:11111111-2222-3333-4444-555555555555", Portals: []string{"127.0.0.1:3261", "127.0.0.1:3262"},
		OwnerChunk: 2, OwnerNode: "n2", Epoch: 7, State: "Ready", Created: at,
		Status: &storagedv1.VolumeStatus{Health: storagedv1.Health_HEALTH_OK, Extents: 3, AllocatedBytes: 5 << 20, AsOf: at, Sessions: 1},
	}
	if f.sick {
		v.Status.Health, v.Status.Reason, v.Status.NextStep = storagedv1.Health_HEALTH_AT_RISK, "2 of 3 extents have fewer than 3 replicas in sync; missing on n3", "none: 1.5 GiB are left to copy"
		v.Status.ExtentsDegraded, v.Status.ResyncBytesLeft, v.Status.ResyncBytesDone = 2, 3<<29, 1<<29
		v.Status.ExtentStatus = []*storagedv1.ExtentStatus{{
			Index: 0, Generation: 4, State: "Serving",
			Members: []*storagedv1.Member{{DiskId: "aaaaaaaa-0000", Node: "n1", Kind: "full"}, {DiskId: "bbbbbbbb-0000", Node: "n2", Kind: "full"}, {DiskId: "cccccccc-0000", Node: "n3", Kind: "joining"}},
		}}
	}
	for _, p := range f.published {
		v.Grants = append(v.Grants, &storagedv1.Grant{Initiator: p.GetInitiator(), Mode: p.GetMode()})
	}
	return v
}

func (f *fake) CreateVolume(_ context.Context, r *storagedv1.CreateVolumeRequest) (*storagedv1.Volume, error) {
	f.created = r
	return f.volume(), f.fail
}
func (f *fake) GetVolume(_ context.Context, r *storagedv1.GetVolumeRequest) (*storagedv1.Volume, error) {
	if r.GetName() != "data" && r.GetId() == "" {
		return nil, status.Errorf(codes.NotFound, "volume %s does not exist", r.GetName())
	}
	v := f.volume()
	if !r.GetExtents() {
		v.Status.ExtentStatus = nil
	}
	return v, nil
}
func (f *fake) ListVolumes(context.Context, *storagedv1.ListVolumesRequest) (*storagedv1.ListVolumesResponse, error) {
	return &storagedv1.ListVolumesResponse{Volumes: []*storagedv1.Volume{f.volume()}}, f.fail
}
func (f *fake) PublishVolume(_ context.Context, r *storagedv1.PublishVolumeRequest) (*storagedv1.Grant, error) {
	f.published = append(f.published, r)
	return &storagedv1.Grant{Initiator: r.GetInitiator(), Mode: r.GetMode(), Node: r.GetNode(), ChapUser: "u", ChapSecret: "secretsecret1234"}, nil
}
func (f *fake) UnpublishVolume(context.Context, *storagedv1.UnpublishVolumeRequest) (*storagedv1.UnpublishVolumeResponse, error) {
	f.calls = append(f.calls, "unpublish")
	f.published = nil
	return &storagedv1.UnpublishVolumeResponse{}, nil
}
func (f *fake) DeleteVolume(context.Context, *storagedv1.DeleteVolumeRequest) (*storagedv1.DeleteVolumeResponse, error) {
	f.calls = append(f.calls, "delete")
	return &storagedv1.DeleteVolumeResponse{}, f.fail
}
func (f *fake) ListSnapshots(context.Context, *storagedv1.ListSnapshotsRequest) (*storagedv1.ListSnapshotsResponse, error) {
	return &storagedv1.ListSnapshotsResponse{}, nil
}
func (f *fake) GetStatus(context.Context, *storagedv1.GetStatusRequest) (*storagedv1.ClusterStatus, error) {
	s := &storagedv1.ClusterStatus{
		ClusterId: "99999999-2222-3333-4444-555555555555", Incarnation: 1, Health: storagedv1.Health_HEALTH_OK, Leader: "m0", TotalBytes: 16 << 30, UsedBytes: 1 << 30,
		ProvisionedBytes: 9 << 30, Volumes: 1, FeatureLevel: 1, AsOf: at,
		Meta:  []*storagedv1.MetaMember{{Name: "m0", Address: "127.0.0.1:1", Healthy: true, Leader: true, DbBytes: 1 << 20, Pid: 100, Version: "v1"}},
		Nodes: []*storagedv1.Node{{Name: "n1", Chunk: 1, State: "Online", Mode: "active", IscsiAddress: "127.0.0.1:3261", Pid: 101, Version: "v1", OwnedVolumes: 1, Sessions: 1, LastSeen: at}},
		Disks: []*storagedv1.Disk{{Id: "aaaaaaaa-0000-0000-0000-000000000000", Name: "d0", Node: "n1", State: "Active", MountType: "dataStoreWithJournal", SizeBytes: 16 << 30, UsedBytes: 1 << 30, Replicas: 3}},
	}
	if f.sick {
		s.Health, s.Reason, s.NextStep = storagedv1.Health_HEALTH_DEGRADED, "nodes offline: n2", "start storaged on n2, or check the network"
		s.Nodes = append(s.Nodes, &storagedv1.Node{Name: "n2", Chunk: 2, State: "Offline", Mode: "active", Message: "not heard of for 3s: start storaged on it, or check its network"})
		s.Tasks = []*storagedv1.Task{{Id: "rebuild-1", Kind: "rebuild", Object: "volume/data", State: "Running", BytesDone: 1 << 29, BytesTotal: 1 << 31}}
		s.ResyncBytesLeft = 3 << 29
	}
	return s, f.fail
}
func (f *fake) ListDisks(context.Context, *storagedv1.ListDisksRequest) (*storagedv1.ListDisksResponse, error) {
	s, _ := f.GetStatus(context.Background(), nil)
	return &storagedv1.ListDisksResponse{Disks: s.GetDisks()}, nil
}
func (f *fake) DrainDisk(_ context.Context, r *storagedv1.DrainDiskRequest) (*storagedv1.Disk, error) {
	f.calls = append(f.calls, "drain "+r.GetId())
	return &storagedv1.Disk{Id: r.GetId(), Name: "d0", State: "Draining"}, nil
}

func serve(t *testing.T, f *fake) (dir string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	storagedv1.RegisterVolumesServer(gs, f)
	storagedv1.RegisterClusterServer(gs, f)
	go func() { _ = gs.Serve(ln) }()
	t.Cleanup(gs.Stop)
	dir = t.TempDir()
	// The first address is of a member that is down.
	b, err := json.Marshal(control{Meta: []string{"127.0.0.1:1", ln.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "control.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func run(t *testing.T, args ...string) (stdout string, code int, text string) {
	t.Helper()
	cmd := NewCommand()
	var out, errOut bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	cmd.SilenceErrors = true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	if err == nil {
		return out.String(), 0, ""
	}
	var coded interface{ ExitCode() int }
	if !errors.As(err, &coded) {
		t.Errorf("%v: error without an exit code: %v", args, err)
		return out.String(), 1, err.Error()
	}
	return out.String(), coded.ExitCode(), err.Error()
}

func TestOutputs(t *testing.T) {
	for _, c := range []struct {
		name string
		sick bool
		args string
		code int
	}{
		{"create", false, "volume create data --size 3Gi --replicas 3", 0},
		{"create-json", false, "volume create data --size 3Gi --replicas 3 -o json", 0},
		{"show-sick", true, "volume show data --extents", 0},
		{"list", false, "volume list", 0},
		{"list-json", false, "volume list -o json", 0},
		{"status", false, "status", 0},
		{"status-json", false, "status -o json", 0},
		{"status-sick", true, "status", 3},
		{"publish", false, "volume publish data --initiator iqn.2026-01.com.example:h --node n1", 0},
		{"drain", false, "disk drain n1/d0", 0},
		{"snapshots-empty", false, "snapshot list", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{sick: c.sick}
			out, code, text := run(t, append([]string{"--dir", serve(t, f)}, strings.Fields(c.args)...)...)
			if code != c.code {
				t.Fatalf("exit code %d, want %d: %s", code, c.code, text)
			}
			path := filepath.Join("testdata", c.name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if out != string(want) {
				t.Errorf("output differs from %s:\n%s", path, out)
			}
		})
	}
}

func TestCreatePublishesUnlessTold(t *testing.T) {
	f := &fake{}
	dir := serve(t, f)
	if _, code, text := run(t, "--dir", dir, "volume", "create", "data", "--size", "1Gi", "--thick"); code != 0 {
		t.Fatal(text)
	}
	if !f.created.GetThick() || f.created.GetSizeBytes() != 1<<30 || len(f.published) != 1 || !f.published[0].GetNoAuth() || f.published[0].GetInitiator() != "*" {
		t.Errorf("created %v, published %v", f.created, f.published)
	}
	// Deleting withdraws that grant, and only then.
	if _, code, text := run(t, "--dir", dir, "volume", "delete", "data"); code != 0 || strings.Join(f.calls, ",") != "unpublish,delete" {
		t.Errorf("calls %v: %s", f.calls, text)
	}
	if _, code, _ := run(t, "--dir", dir, "volume", "create", "data", "--size", "1Gi", "--no-grant"); code != 0 || len(f.published) != 0 {
		t.Errorf("published %v", f.published)
	}
}

func TestErrorsSayWhatOnWhatAndWhatToTry(t *testing.T) {
	dir := serve(t, &fake{fail: status.Error(codes.ResourceExhausted, "needs 3 nodes with an active disk, 2 have one: n1, n2")})
	for _, c := range []struct {
		args string
		code int
		text []string
	}{
		{"--dir " + dir + " volume create x --size 1Gi", 1, []string{"create volume x", "2 have one: n1, n2", "add disks or nodes"}},
		{"--dir " + dir + " volume create x --size 1.5Gi", 2, []string{"1.5Gi", "whole number"}},
		{"--dir " + dir + " volume create x", 2, []string{"--size is missing"}},
		{"--dir " + dir + " volume create", 2, []string{"0 arguments given, want 1"}},
		{"--dir " + dir + " volume show nosuch", 1, []string{"show volume nosuch", "does not exist", "list"}},
		{"--dir " + dir + " volume frobnicate", 2, []string{"frobnicate", "--help"}},
		{"--dir " + dir + " frobnicate", 2, []string{"frobnicate", "--help"}},
		{"--dir " + dir + " status --nonsense", 2, []string{"nonsense", "--help"}},
		{"--dir " + dir + " status -o yaml", 2, []string{"yaml", "table or json"}},
		{"--dir " + dir + " disk drain nosuch", 1, []string{"disk nosuch does not exist", "disk list"}},
		{"--dir /nonexistent status", 1, []string{"/nonexistent", "storaged dev --dir"}},
		{"status", 2, []string{"--dir", "--meta"}},
		{"--meta 127.0.0.1:1 status", 2, []string{"--tls-dir"}},
		{"--meta 127.0.0.1:1 --insecure-plain --timeout 5s status", 1, []string{"read status", "127.0.0.1:1", "check that storaged meta runs"}},
	} {
		_, code, text := run(t, strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d (%s)", c.args, code, c.code, text)
		}
		for _, want := range c.text {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q does not say %q", c.args, text, want)
			}
		}
	}
}
