package ctl

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/metadb/metadbtest"
)

type peer struct {
	storagedv1.UnimplementedMetaPeerServer
	url string
}

func (p peer) Probe(context.Context, *storagedv1.ProbeRequest) (*storagedv1.ProbeResponse, error) {
	return &storagedv1.ProbeResponse{Name: "m0", Established: true, ClientUrl: p.url, MemberId: 1, LeaderId: 1}, nil
}

// servePeer runs a meta member whose etcd is at url, and returns the directory of a cluster that has it.
func servePeer(t *testing.T, url string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	storagedv1.RegisterMetaPeerServer(gs, peer{url: url})
	go func() { _ = gs.Serve(ln) }()
	t.Cleanup(gs.Stop)
	dir := t.TempDir()
	b, err := json.Marshal(control{Meta: []string{ln.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "control.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBackupIsAnEtcdSnapshotAndNeverOverwrites(t *testing.T) {
	srv := metadbtest.Start(t)
	metadbtest.Lead(t, srv.Open(t), 1)
	dir := servePeer(t, srv.Endpoint)
	file := filepath.Join(dir, "backup.db")
	out, code, text := run(t, "--dir", dir, "meta", "backup", file)
	if code != 0 || !strings.Contains(out, "from member m0") {
		t.Fatalf("%s %s", out, text)
	}
	st, err := snapshot.NewV3(zap.NewNop()).Status(file)
	if err != nil || st.TotalKey == 0 {
		t.Errorf("etcd reads %+v, %v", st, err)
	}
	if _, code, text := run(t, "--dir", dir, "meta", "backup", file); code != 2 || !strings.Contains(text, "exists") {
		t.Errorf("a second time: %d %s", code, text)
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAMemberThatAnswersIsNotRemoved(t *testing.T) {
	srv := metadbtest.Start(t)
	dir := servePeer(t, srv.Endpoint)
	if out, code, text := run(t, "--dir", dir, "meta", "member", "list"); code != 0 || !strings.Contains(out, "answers") {
		t.Errorf("list: %d %s %s", code, out, text)
	}
	if _, code, text := run(t, "--dir", dir, "meta", "member", "remove", "default"); code != 2 || !strings.Contains(text, "--confirm default") {
		t.Errorf("without confirmation: %d %s", code, text)
	}
	if _, code, text := run(t, "--dir", dir, "meta", "member", "remove", "default", "--confirm", "default"); code != 1 || !strings.Contains(text, "it answers") {
		t.Errorf("a member that answers: %d %s", code, text)
	}
	if out, code, text := run(t, "--dir", dir, "meta", "member", "remove", "other", "--confirm", "other"); code != 0 || !strings.Contains(out, "is no member") {
		t.Errorf("an unknown member: %d %s %s", code, out, text)
	}
}
