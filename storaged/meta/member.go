package meta

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

const (
	// txnOpsMax admits the transactions of package metadb with room to spare.
	txnOpsMax = 1024
	// requestBytesMax admits a volume record with many views and labels.
	requestBytesMax = 8 << 20
	// backendInterval is how often changes, which are durable in the write-ahead log already, are put into the database file. etcd's own
	// 100 ms would wake an idle member ten times a second.
	backendInterval = time.Second
	// historyRetention is how long old revisions are kept for watches that lag.
	historyRetention = "10m"
)

// established reports whether dataDir holds an etcd member.
func established(dataDir string) bool {
	_, err := os.Stat(filepath.Join(dataDir, "member"))
	return err == nil
}

// startEtcd starts the member: from its data directory if that has one, else by founding or joining a cluster.
//
//	data directory has a member ───────────────────────────────▶ start
//	empty, a peer is established ──▶ remove our old self, add as learner ──▶ start ──▶ promoted once it has caught up
//	empty, all peers answer that they are empty too, and we are the first of the list ──▶ found a cluster of one
//	empty, otherwise ──▶ ask again
//
// So an empty directory never starts under a member id that has voted before: what that member promised is lost, and raft
// relies on it. A peer that cannot be asked could be the rest of an existing cluster, so founding waits for it.
func (s *server) startEtcd(ctx context.Context) (*embed.Etcd, error) {
	cfg := s.etcdConfig()
	if !established(s.opts.DataDir) {
		if err := s.foundOrJoin(ctx, cfg); err != nil {
			return nil, err
		}
	}
	calmEtcd()
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", s.opts.DataDir, err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case <-e.Server.StopNotify():
		e.Close()
		return nil, fmt.Errorf("etcd in %s stopped while starting; if the log says that the member was removed from the cluster, move the directory away and start again: it joins anew", s.opts.DataDir)
	case <-ctx.Done():
		e.Close()
		return nil, context.Cause(ctx)
	}
	return e, nil
}

func (s *server) etcdConfig() *embed.Config {
	o, me := &s.opts, s.opts.me()
	cfg := embed.NewConfig()
	cfg.Name = o.Name
	cfg.Dir = o.DataDir
	cfg.TickMs = uint(timeouts.MetaHeartbeat / time.Millisecond)
	cfg.ElectionMs = uint(timeouts.MetaElection / time.Millisecond)
	cfg.QuotaBackendBytes = o.QuotaBytes
	cfg.BackendBatchInterval = backendInterval
	cfg.MaxTxnOps = txnOpsMax
	cfg.MaxRequestBytes = requestBytesMax
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "periodic", historyRetention
	cfg.GRPCKeepAliveMinTime = time.Second
	cfg.EnableGRPCGateway = false
	cfg.StrictReconfigCheck = true
	cfg.InitialClusterToken = "iomesh"
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = o.urls(me.Peer), o.urls(me.Peer)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = o.urls(me.Client), o.urls(me.Client)
	if o.TLSDir != "" {
		info := func(roles ...mtls.Role) transport.TLSInfo {
			t := transport.TLSInfo{
				CertFile: filepath.Join(o.TLSDir, mtls.CertFile), KeyFile: filepath.Join(o.TLSDir, mtls.KeyFile),
				TrustedCAFile: filepath.Join(o.TLSDir, mtls.CAFile), ClientCertAuth: true,
				// etcd would check the address of the peer against the names in the certificate; ours name roles.
				SkipClientSANVerify: true, ServerName: mtls.RoleMeta.DNSName(),
			}
			for _, r := range roles {
				t.AllowedHostnames = append(t.AllowedHostnames, r.DNSName())
			}
			return t
		}
		cfg.PeerTLSInfo = info(mtls.RoleMeta)
		cfg.ClientTLSInfo = info(mtls.RoleMeta, mtls.RoleChunk, mtls.RoleAdmin)
	}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapCore{s.log.With("part", "etcd")}))
	return cfg
}

func (o *Options) urls(hostport string) []url.URL {
	return []url.URL{{Scheme: o.scheme(), Host: hostport}}
}

// foundOrJoin fills in how a member with an empty directory starts.
func (s *server) foundOrJoin(ctx context.Context, cfg *embed.Config) error {
	said := ""
	for {
		answers, silent := s.probePeers(ctx)
		for _, p := range answers {
			if !p.GetEstablished() {
				continue
			}
			initial, err := s.join(ctx, p)
			if err != nil {
				s.log.Warn("joining the meta cluster failed; trying again", "through", p.GetName(), "error", err)
				break
			}
			cfg.InitialCluster, cfg.ClusterState = initial, embed.ClusterStateFlagExisting
			return nil
		}
		first := s.opts.Members[0].Name
		waiting := ""
		switch {
		case len(answers)+len(silent) > 0 && anyEstablished(answers):
			waiting = "an established member to let this one join"
		case len(silent) > 0:
			waiting = strings.Join(silent, ", ") + " to say whether a cluster exists"
		case s.opts.Name != first:
			waiting = first + " to found the cluster"
		default:
			s.log.Info("founding a new meta cluster", "member", s.opts.Name)
			cfg.InitialCluster = s.opts.Name + "=" + s.opts.urls(s.opts.me().Peer)[0].String()
			cfg.ClusterState = embed.ClusterStateFlagNew
			return nil
		}
		s.waiting.Store(&waiting)
		if waiting != said {
			s.log.Info("the data directory is empty; waiting for "+waiting, "dataDir", s.opts.DataDir)
			said = waiting
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", waiting, context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func anyEstablished(answers []*storagedv1.ProbeResponse) bool {
	for _, a := range answers {
		if a.GetEstablished() {
			return true
		}
	}
	return false
}

// join makes this member known to the cluster as a learner, through an established member, and returns the initial
// cluster to start with. A member of our name or address that is known already has lost its directory: it is removed
// first, which the others do only with a quorum.
func (s *server) join(ctx context.Context, through *storagedv1.ProbeResponse) (string, error) {
	cli, err := s.etcdClient(through.GetClientUrl())
	if err != nil {
		return "", err
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := cli.MemberList(ctx)
	if err != nil {
		return "", fmt.Errorf("list members at %s: %w", through.GetClientUrl(), err)
	}
	peerURL := s.opts.urls(s.opts.me().Peer)[0].String()
	for _, m := range list.Members {
		if m.Name != s.opts.Name && (len(m.PeerURLs) != 1 || m.PeerURLs[0] != peerURL) {
			continue
		}
		s.log.Warn("this member is known to the cluster but its data directory is empty; replacing it", "member", m.Name, "id", fmt.Sprintf("%x", m.ID))
		if _, err := cli.MemberRemove(ctx, m.ID); err != nil {
			return "", fmt.Errorf("remove the lost member %s (%x): %w", m.Name, m.ID, err)
		}
	}
	added, err := cli.MemberAddAsLearner(ctx, []string{peerURL})
	if err != nil {
		return "", fmt.Errorf("add member %s as learner: %w", s.opts.Name, err)
	}
	var initial []string
	for _, m := range added.Members {
		name := m.Name
		if m.ID == added.Member.ID {
			name = s.opts.Name
		}
		for _, u := range m.PeerURLs {
			initial = append(initial, name+"="+u)
		}
	}
	s.log.Info("joining the meta cluster as learner", "member", s.opts.Name, "id", fmt.Sprintf("%x", added.Member.ID), "through", through.GetName())
	return strings.Join(initial, ","), nil
}

// promote turns this member from learner to voter as soon as it has caught up. It returns at once for a voter.
func (s *server) promote(ctx context.Context, e *embed.Etcd) {
	for e.Server.IsLearner() {
		err := errors.New("no other member is established")
		answers, _ := s.probePeers(ctx)
		for _, p := range answers {
			if !p.GetEstablished() {
				continue
			}
			if err = s.promoteThrough(ctx, p.GetClientUrl(), uint64(e.Server.MemberID())); err == nil {
				s.log.Info("promoted to a voting meta member", "member", s.opts.Name)
				break
			}
		}
		if err != nil {
			s.log.Info("not promoted yet", "member", s.opts.Name, "reason", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func (s *server) promoteThrough(ctx context.Context, clientURL string, id uint64) error {
	cli, err := s.etcdClient(clientURL)
	if err != nil {
		return err
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = cli.MemberPromote(ctx, id)
	return err
}

func (s *server) etcdClient(endpoint string) (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 2 * time.Second, Logger: zap.NewNop()}
	if s.tls != nil {
		cfg.TLS = s.tls.ClientConfig(mtls.RoleMeta)
	}
	cli, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("etcd client of %s: %w", endpoint, err)
	}
	return cli, nil
}

// listen opens the control port. Early, so that peers can ask while etcd is not running.
func (s *server) listen() (net.Listener, error) {
	open := func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	if s.opts.Host != nil {
		open = s.opts.Host.Listen
	}
	ln, err := open(s.opts.me().GRPC)
	if err != nil {
		return nil, fmt.Errorf("control interface of meta member %s: %w", s.opts.Name, err)
	}
	return ln, nil
}
