package meta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/metrics"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/rpc"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// server is one meta member: its etcd member, mirror, control interface and, while it leads, its leadership.
type server struct {
	opts   Options
	log    *slog.Logger
	tls    *mtls.Source // nil = plain
	conns  *conns
	mirror *mirror

	etcd    atomic.Pointer[embed.Etcd] // nil until started
	db      atomic.Pointer[metadb.DB]
	lead    atomic.Pointer[leader] // nil unless leading
	waiting atomic.Pointer[string] // what the start waits for

	counters metaCounters
}

// Run runs a meta member until ctx ends or it fails. When it returns, everything it started has stopped.
func Run(ctx context.Context, o Options) error {
	if err := o.complete(); err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	s := &server{opts: o, log: o.Log.With("member", o.Name), mirror: newMirror()}
	if o.TLSDir != "" {
		src, err := mtls.Load(o.TLSDir)
		if err != nil {
			return fmt.Errorf("meta: %w", err)
		}
		if id := src.Identity(); id.Role != mtls.RoleMeta {
			return fmt.Errorf("meta: the certificate in %s is for role %s, want %s", o.TLSDir, id.Role, mtls.RoleMeta)
		}
		s.tls = src
	}
	s.conns = newConns(s.tls)
	if o.Host != nil {
		s.conns.dial = o.Host.Dial
	}
	defer s.conns.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	ln, err := s.listen()
	if err != nil {
		return err
	}
	gs := s.grpcServer()
	var wg sync.WaitGroup
	defer wg.Wait()
	served := make(chan error, 1)
	wg.Go(func() { served <- gs.Serve(ln) })
	defer gs.Stop()
	if scraped, err := metrics.Start(ctx, o.MetricsListen, metrics.Handler(s.metricsRegistry(), s.healthy), s.log); err != nil {
		s.log.Error("no metrics are served", "err", err) // no reason to leave the cluster without a member
	} else {
		defer scraped()
		defer cancel()
	}
	if o.Ready != nil {
		o.Ready(ln.Addr().String())
	}

	if o.Host != nil {
		return s.hosted(ctx, cancel, gs, served)
	}
	e, err := s.startEtcd(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("meta: %w", err)
	}
	s.etcd.Store(e)
	defer e.Close()
	cli := v3client.New(e.Server)
	defer cli.Close()
	db := metadb.New(cli, s.log)
	s.db.Store(db)

	// The parts end before etcd does: their context is cancelled and they are waited for.
	var parts sync.WaitGroup
	defer parts.Wait()
	defer gs.Stop()
	defer cancel()
	parts.Go(func() { s.mirror.run(ctx, db) })
	parts.Go(func() { s.promote(ctx, e) })
	parts.Go(func() { s.electionLoop(ctx, e.Server, db) })
	parts.Go(func() { s.lonelyLoop(ctx, e.Server) })
	parts.Go(func() { s.upkeepLoop(ctx, e, cli) })
	s.log.Info("meta member is up", "grpc", ln.Addr().String(), "etcd", o.me().Client)

	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		return fmt.Errorf("meta: control interface: %w", err)
	case err := <-e.Err():
		return fmt.Errorf("meta: etcd: %w", err)
	case <-e.Server.StopNotify():
		return errors.New("meta: etcd stopped; if another member removed this one, move its data directory away and start it again: it joins anew")
	}
}

func (s *server) grpcServer() *grpc.Server {
	var creds credentials.TransportCredentials = insecure.NewCredentials()
	if s.tls != nil {
		creds = s.tls.ServerCredentials(mtls.Roles()...)
	}
	gs := grpc.NewServer(append(rpc.ServerOptions(),
		grpc.Creds(creds),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(16<<20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		// Connections without traffic are few, but each ping wakes both sides; chunks have their heartbeats.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
	)...)
	storagedv1.RegisterVolumesServer(gs, &volumesService{s: s})
	storagedv1.RegisterClusterServer(gs, &clusterService{s: s})
	storagedv1.RegisterMembershipServer(gs, &membershipService{s: s})
	storagedv1.RegisterMetaPeerServer(gs, &peerService{s: s})
	return gs
}

// peerService answers the other members.
type peerService struct {
	storagedv1.UnimplementedMetaPeerServer
	s *server
}

// Probe implements the RPC of the same name.
func (p *peerService) Probe(context.Context, *storagedv1.ProbeRequest) (*storagedv1.ProbeResponse, error) {
	return p.s.describe(), nil
}

// describe is this member's answer to a probe.
func (s *server) describe() *storagedv1.ProbeResponse {
	r := &storagedv1.ProbeResponse{
		Name: s.opts.Name, Established: established(s.opts.DataDir), ClientUrl: s.opts.urls(s.opts.me().Client)[0].String(),
		Pid: int32(os.Getpid()), Version: s.opts.Version,
	}
	if s.tls != nil {
		r.CertificateExpires = timestamppb.New(s.tls.NotAfter())
	}
	e := s.etcd.Load()
	if e == nil {
		if w := s.waiting.Load(); w != nil {
			r.Message = "waiting for " + *w
		}
		return r
	}
	r.MemberId, r.LeaderId, r.Learner = uint64(e.Server.MemberID()), e.Server.Lead(), e.Server.IsLearner()
	r.DbBytes, r.DbBytesInUse = uint64(e.Server.Backend().Size()), uint64(e.Server.Backend().SizeInUse())
	r.Message = alarmText(e)
	return r
}

// probePeers asks all other members what they are, and returns the answers and the names of those that gave none.
func (s *server) probePeers(ctx context.Context) (answers []*storagedv1.ProbeResponse, silent []string) {
	all := make([]*storagedv1.ProbeResponse, len(s.opts.Members))
	var wg sync.WaitGroup
	for i, m := range s.opts.Members {
		if m.Name == s.opts.Name {
			continue
		}
		wg.Go(func() {
			if r, err := s.probe(ctx, m.GRPC); err == nil && r.GetName() == m.Name {
				all[i] = r
			}
		})
	}
	wg.Wait()
	for i, m := range s.opts.Members {
		switch {
		case all[i] != nil:
			answers = append(answers, all[i])
		case m.Name != s.opts.Name:
			silent = append(silent, m.Name)
		}
	}
	return answers, silent
}

func (s *server) probe(ctx context.Context, address string) (*storagedv1.ProbeResponse, error) {
	cc, err := s.conns.to(address, mtls.RoleMeta)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	return storagedv1.NewMetaPeerClient(cc).Probe(ctx, &storagedv1.ProbeRequest{}, grpc.WaitForReady(true))
}
