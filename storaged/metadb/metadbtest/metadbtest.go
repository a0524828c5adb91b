// Package metadbtest starts an etcd member for tests, on a unix socket in a temporary directory, and offers the few
// writes that only a meta leader can do.
package metadbtest

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/iomesh/iomesh/storaged/metadb"
)

// Server is a running member.
type Server struct {
	Endpoint string // for metadb.Options
	Etcd     *embed.Etcd
}

// Start runs a member without TLS until the test ends. It does not flush its log to disk.
func Start(t testing.TB) *Server { return start(t, true) }

// StartDurable is Start with flushes, for measurements.
func StartDurable(t testing.TB) *Server { return start(t, false) }

func start(t testing.TB, noFsync bool) *Server {
	t.Helper()
	// Unix socket paths are limited to 108 bytes, which t.TempDir may exceed.
	dir, err := os.MkdirTemp("", "metadb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "data")
	cfg.LogLevel = "error"
	cfg.LogOutputs = []string{filepath.Join(dir, "log")}
	client := url.URL{Scheme: "unix", Path: filepath.Join(dir, "c:1")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(dir, "p:1")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.UnsafeNoFsync = noFsync
	cfg.EnableGRPCGateway = false
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return &Server{Endpoint: client.String(), Etcd: e}
}

// Open connects to the member until the test ends.
func (s *Server) Open(t testing.TB) *metadb.DB {
	t.Helper()
	db, err := metadb.Open(metadb.Options{Endpoints: []string{s.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Lead takes the leadership in term, to write records as the leader does.
func Lead(t testing.TB, db *metadb.DB, term uint64) metadb.LeaderGuard {
	t.Helper()
	g, err := db.TakeLeadership(t.Context(), metadb.Leader{Member: term, Name: "test", Term: term, Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	return g
}
