package meta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	etcdsnapshot "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"

	"github.com/iomesh/iomesh/storaged/metadb"
)

// revisionBump is how far a restore moves the revision on: further than anything written since the backup, so that no guard or
// watch of before can meet a revision it knows.
const revisionBump = 1 << 40

// RestoreOptions say how a backup becomes the first member of a new metadata cluster.
type RestoreOptions struct {
	Backup  string   // file written by a backup
	Name    string   // of this member, the first of Members
	Members []Member // all, as for Run
	DataDir string   // must not hold a member
	TLSDir  string   // as for Run: decides the scheme of the member's address
	Log     *slog.Logger
}

// Restored is what a restore has made.
type Restored struct {
	Cluster metadb.Cluster
	Volumes int
}

// Restore makes a data directory from a backup, with the next incarnation. Nothing may run with the old metadata any more: every other
// member starts with an empty directory after this one and joins. A volume is served again once its replicas have been compared with
// the backup (census.go).
//
// It works beside the directory and gives it its name last, so an interrupted restore leaves nothing that could start.
func Restore(ctx context.Context, o RestoreOptions) (Restored, error) {
	fail := func(err error) (Restored, error) { return Restored{}, fmt.Errorf("restore %s: %w", o.Backup, err) }
	run := Options{Name: o.Name, Members: o.Members, DataDir: o.DataDir, TLSDir: o.TLSDir, Log: o.Log}
	if err := run.complete(); err != nil {
		return fail(err)
	}
	if established(o.DataDir) {
		return fail(fmt.Errorf("%s holds a meta member already: move it away first, on all nodes", o.DataDir))
	}
	if run.self() != 0 {
		return fail(fmt.Errorf("%s is not the first of the members: restore at %s; the others join with empty directories", o.Name, o.Members[0].Name))
	}
	if _, err := os.Stat(o.Backup); err != nil {
		return fail(err)
	}
	work := filepath.Join(o.DataDir, "restore.part")
	if err := os.RemoveAll(work); err != nil {
		return fail(err)
	}
	defer os.RemoveAll(work)
	peer := run.urls(run.me().Peer)[0].String()
	err := etcdsnapshot.NewV3(zap.NewNop()).Restore(etcdsnapshot.RestoreConfig{
		SnapshotPath: o.Backup, Name: o.Name, OutputDataDir: work, PeerURLs: []string{peer}, InitialCluster: o.Name + "=" + peer,
		InitialClusterToken: "iomesh", RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return fail(err)
	}
	out, err := newIncarnation(ctx, &run, work)
	if err != nil {
		return fail(err)
	}
	if err := os.Rename(filepath.Join(work, "member"), filepath.Join(o.DataDir, "member")); err != nil {
		return fail(err)
	}
	d, err := os.Open(o.DataDir)
	if err != nil {
		return fail(err)
	}
	defer d.Close()
	return out, d.Sync()
}

// newIncarnation starts the member where nobody can reach it and prepares its records.
func newIncarnation(ctx context.Context, run *Options, dir string) (out Restored, err error) {
	socket, err := os.MkdirTemp("", "iomesh-restore-")
	if err != nil {
		return out, err
	}
	defer os.RemoveAll(socket)
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = run.Name, dir
	cfg.MaxTxnOps, cfg.MaxRequestBytes, cfg.QuotaBackendBytes = txnOpsMax, requestBytesMax, run.QuotaBytes
	cfg.EnableGRPCGateway = false
	unix := func(name string) []url.URL {
		return []url.URL{{Scheme: "unix", Path: filepath.Join(socket, name+":1")}}
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls, cfg.ListenPeerUrls = unix("c"), unix("c"), unix("p")
	// The restored data name the member's real address, which is advertised and not listened at.
	cfg.AdvertisePeerUrls = run.urls(run.me().Peer)
	cfg.InitialCluster = run.Name + "=" + cfg.AdvertisePeerUrls[0].String()
	cfg.InitialClusterToken = "iomesh"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapCore{run.Log.With("part", "etcd")}))
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return out, fmt.Errorf("start etcd with the restored data: %w", err)
	}
	defer e.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	select {
	case <-e.Server.ReadyNotify():
	case <-e.Server.StopNotify():
		return out, errors.New("etcd stopped while starting with the restored data")
	case <-ctx.Done():
		return out, context.Cause(ctx)
	}
	cli := v3client.New(e.Server)
	defer cli.Close()
	db := metadb.New(cli, run.Log)
	if out.Cluster, err = db.NewIncarnation(ctx); err != nil {
		return out, err
	}
	out.Volumes, err = db.CountVolumes(ctx)
	return out, err
}
