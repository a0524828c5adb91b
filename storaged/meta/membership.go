package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// membershipService is what chunks call.
type membershipService struct {
	storagedv1.UnimplementedMembershipServer
	s *server
}

// Register implements the RPC of the same name.
func (m *membershipService) Register(ctx context.Context, req *storagedv1.RegisterRequest) (*storagedv1.RegisterResponse, error) {
	l := leaderOf(ctx)
	if err := checkRegister(req); err != nil {
		return nil, err
	}
	unlock, err := l.locks.lock(ctx, "registration")
	if err != nil {
		return nil, err
	}
	defer unlock()

	var cluster metadb.Cluster
	var old metadb.Chunk
	l.view(func(s *state) {
		cluster = s.cluster
		old, _ = s.chunkOfNode(req.GetNode())
	})
	if id := req.GetClusterId(); id != "" && id != cluster.ID.String() {
		return nil, failf(codes.FailedPrecondition, "node %s belongs to cluster %s, this is cluster %s: check its meta addresses and its disks", req.GetNode(), id, cluster.ID)
	}
	if req.GetFeatureLevel() < uint32(cluster.Feature) {
		return nil, failf(codes.FailedPrecondition, "node %s knows feature level %d, the cluster uses %d: upgrade storaged on it", req.GetNode(), req.GetFeatureLevel(), cluster.Feature)
	}
	c := metadb.Chunk{
		ID: old.ID, Node: req.GetNode(), Zone: req.GetZone(), DataAddress: req.GetDataAddress(), ISCSIAddress: req.GetIscsiAddress(),
		ControlAddress: req.GetControlAddress(), Version: req.GetVersion(), Feature: block.Feature(req.GetFeatureLevel()),
		BootID: req.GetBootId(), PID: req.GetPid(), Revision: old.Revision,
	}
	if c != old {
		var ops []metadb.Op
		if c.ID == 0 {
			cluster.LastChunk++
			c.ID = cluster.LastChunk
			ops = append(ops, metadb.PutCluster(cluster))
		}
		if c.Revision, err = l.commit(ctx, append(ops, metadb.PutChunk(c))...); err != nil {
			return nil, fmt.Errorf("register node %s: %w", req.GetNode(), err)
		}
		l.log.Info("chunk registered", "chunk", c.ID, "node", c.Node, "pid", c.PID, "restarted", old.ID != 0)
		l.reg.signal()
	}
	return &storagedv1.RegisterResponse{
		ClusterId: cluster.ID.String(), Chunk: uint32(c.ID), EtcdEndpoints: m.s.etcdEndpoints(),
		FeatureLevel: uint32(cluster.Feature), Revision: c.Revision, Incarnation: cluster.Incarnation,
	}, nil
}

func checkRegister(req *storagedv1.RegisterRequest) error {
	if !memberName.MatchString(req.GetNode()) {
		return failf(codes.InvalidArgument, "node: %q is not a name of 1 to 63 letters, digits, dots and hyphens", req.GetNode())
	}
	for _, a := range []struct{ field, address string }{
		{"data_address", req.GetDataAddress()}, {"iscsi_address", req.GetIscsiAddress()}, {"control_address", req.GetControlAddress()},
	} {
		if host, port, err := net.SplitHostPort(a.address); err != nil || host == "" || port == "" || port == "0" {
			return failf(codes.InvalidArgument, "%s: %q is not host:port", a.field, a.address)
		}
	}
	if req.GetBootId() == 0 {
		return failf(codes.InvalidArgument, "boot_id: must be a random number of the process, not 0")
	}
	return nil
}

// etcdEndpoints are the client addresses of all members that etcd knows.
func (s *server) etcdEndpoints() []string {
	if s.opts.Host != nil {
		return s.opts.Host.Endpoints
	}
	var out []string
	for _, m := range s.etcd.Load().Server.Cluster().Members() {
		if !m.IsLearner { // which answers no reads
			out = append(out, m.ClientURLs...)
		}
	}
	return out
}

// Heartbeat implements the RPC of the same name. It ends with the leadership.
func (m *membershipService) Heartbeat(stream grpc.BidiStreamingServer[storagedv1.HeartbeatRequest, storagedv1.HeartbeatResponse]) error {
	l := leaderOf(stream.Context())
	in := make(chan *storagedv1.HeartbeatRequest)
	ended := make(chan error, 1)
	// Recv has no deadline of its own; the goroutine ends when the handler returns, which ends the stream.
	go func() {
		for {
			req, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case in <- req:
			case <-stream.Context().Done():
				ended <- stream.Context().Err()
				return
			}
		}
	}()
	var id block.ChunkID
	var number uint64
	answer := &storagedv1.HeartbeatResponse{LeaderTerm: l.term}
	for {
		select {
		case <-l.ctx.Done():
			return notLeader(m.s.leaderAddress())
		case err := <-ended:
			if number != 0 {
				l.reg.close(id, number)
				l.log.Info("heartbeat stream ended", "chunk", id, "reason", streamEnd(err))
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case req := <-in:
			if number == 0 {
				id = block.ChunkID(req.GetChunk())
				var c metadb.Chunk
				l.view(func(s *state) { c = s.chunks[id] })
				if c.ID == 0 || c.BootID != req.GetBootId() {
					return failf(codes.FailedPrecondition, "chunk %d with boot id %x is not registered: register first", id, req.GetBootId())
				}
				number = l.reg.open(id, req.GetBootId())
				answer.EtcdEndpoints = m.s.etcdEndpoints()
				l.view(func(s *state) { answer.Incarnation = s.cluster.Incarnation })
				l.log.Info("heartbeat stream opened", "chunk", id, "node", c.Node)
			}
			if !l.reg.report(number, req) {
				return failf(codes.Aborted, "chunk %d has opened another heartbeat stream", id)
			}
			if err := stream.Send(answer); err != nil {
				l.reg.close(id, number)
				return err
			}
			answer = &storagedv1.HeartbeatResponse{LeaderTerm: l.term, Incarnation: answer.Incarnation}
		}
	}
}

func streamEnd(err error) string {
	if errors.Is(err, io.EOF) {
		return "closed by the chunk"
	}
	return status.Convert(err).Message()
}
