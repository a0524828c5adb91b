package meta

import (
	"context"
	"fmt"
	"net"
	"sync"

	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/iomesh/iomesh/storaged/metadb"
)

// Host replaces the embedded etcd member and the network: the simulator of the whole stack runs members on it. All fields are required.
type Host struct {
	Etcd *clientv3.Client
	Raft Raft
	// Endpoints are what chunks are told to reach etcd at.
	Endpoints []string
	Listen    func(address string) (net.Listener, error)
	Dial      func(ctx context.Context, address string) (net.Conn, error)
}

// Raft is what a member needs to know of the consensus beside it; the server of an embedded etcd has it.
type Raft interface {
	MemberID() types.ID
	// Leader is the member that leads in Term, as far as this one knows; 0: none.
	Leader() types.ID
	Term() uint64
	IsLearner() bool
	// LeaderChangedNotify is closed at the next change of the leader.
	LeaderChangedNotify() <-chan struct{}
}

// raft is nil until the member has started.
func (s *server) raft() Raft {
	if s.opts.Host != nil {
		return s.opts.Host.Raft
	}
	if e := s.etcd.Load(); e != nil {
		return e.Server
	}
	return nil
}

// hosted is the life of a member whose etcd is the host's: that of Run without what concerns the embedded one.
func (s *server) hosted(ctx context.Context, cancel context.CancelFunc, gs *grpc.Server, served <-chan error) error {
	db := metadb.New(s.opts.Host.Etcd, s.log)
	s.db.Store(db)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer gs.Stop()
	defer cancel()
	parts.Go(func() { s.mirror.run(ctx, db) })
	parts.Go(func() { s.electionLoop(ctx, s.opts.Host.Raft, db) })
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		return fmt.Errorf("meta: control interface: %w", err)
	}
}
