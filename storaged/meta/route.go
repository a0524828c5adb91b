package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/metadb"
)

const (
	headerForwarded = "iomesh-forwarded" // request: by which member
	headerAnswered  = "iomesh-answered"  // response: a leader handled it, whatever the status
	// leaderWait is how long a call waits at a member for a leader, as during an election.
	leaderWait  = 5 * time.Second
	leaderPause = 100 * time.Millisecond
)

// local lists the methods that every member answers itself.
var local = map[string]bool{
	storagedv1.Volumes_Locate_FullMethodName: true,
	storagedv1.MetaPeer_Probe_FullMethodName: true,
}

// allowed says which roles may call a method, by full name or by service. The role meta may call everything: it forwards.
var allowed = map[string][]mtls.Role{
	"iomesh.storaged.v1.Volumes":    {mtls.RoleController, mtls.RoleAdmin},
	"iomesh.storaged.v1.Cluster":    {mtls.RoleController, mtls.RoleAdmin},
	"iomesh.storaged.v1.Membership": {mtls.RoleChunk},
	"iomesh.storaged.v1.MetaPeer":   {mtls.RoleController, mtls.RoleAdmin},
	// The node's parts attach volumes: they find targets and read the grants of their own initiators.
	storagedv1.Volumes_Locate_FullMethodName:      {mtls.RoleController, mtls.RoleAdmin, mtls.RoleNode, mtls.RoleChunk},
	storagedv1.Volumes_ListVolumes_FullMethodName: {mtls.RoleController, mtls.RoleAdmin, mtls.RoleNode},
	storagedv1.Volumes_GetVolume_FullMethodName:   {mtls.RoleController, mtls.RoleAdmin, mtls.RoleNode},
	storagedv1.Volumes_GetGrant_FullMethodName:    {mtls.RoleController, mtls.RoleAdmin, mtls.RoleNode},
	storagedv1.Cluster_GetStatus_FullMethodName:   {mtls.RoleController, mtls.RoleAdmin, mtls.RoleNode},
	storagedv1.Cluster_ListNodes_FullMethodName:   {mtls.RoleController, mtls.RoleAdmin, mtls.RoleNode},
	storagedv1.Cluster_ListDisks_FullMethodName:   {mtls.RoleController, mtls.RoleAdmin, mtls.RoleNode},
}

// authorise checks the caller's role. Without TLS everybody may do everything.
func (s *server) authorise(ctx context.Context, method string) error {
	if s.tls == nil {
		return nil
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.Unauthenticated, "the caller is unknown")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return status.Errorf(codes.Unauthenticated, "the caller %s sent no certificate", p.Addr)
	}
	id, err := mtls.PeerIdentity(info.State)
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "caller %s: %v", p.Addr, err)
	}
	if id.Role == mtls.RoleMeta {
		return nil
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	roles, ok := allowed[method]
	if !ok {
		roles = allowed[service]
	}
	if !slices.Contains(roles, id.Role) {
		return status.Errorf(codes.PermissionDenied, "%s may not be called by role %s (caller %s); allowed: %v", method, id.Role, p.Addr, roles)
	}
	return nil
}

type leaderKey struct{}

// leaderOf returns the leadership a call was routed to.
func leaderOf(ctx context.Context) *leader { return ctx.Value(leaderKey{}).(*leader) }

// unary answers a call here if this member leads or the method is local, and otherwise forwards it to the leader. A forwarded
// call is not forwarded again, so calls cannot go round.
func (s *server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := s.authorise(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	if local[info.FullMethod] {
		return handler(ctx, req)
	}
	deadline := time.Now().Add(leaderWait)
	for {
		resp, err := s.try(ctx, req, info, handler)
		if err == nil || !isNotLeader(err) || forwardedBy(ctx) != "" || time.Now().After(deadline) {
			return resp, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(leaderPause):
		}
	}
}

func (s *server) try(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if l := s.lead.Load(); l != nil {
		_ = grpc.SetHeader(ctx, metadata.Pairs(headerAnswered, s.opts.Name))
		resp, err := handler(context.WithValue(ctx, leaderKey{}, l), req)
		if err != nil {
			err = toStatus(err, s.leaderAddress)
		}
		return resp, err
	}
	address := s.leaderAddress()
	if forwardedBy(ctx) != "" || address == "" || address == s.opts.me().GRPC {
		return nil, notLeader(address)
	}
	return s.forward(ctx, address, req, info.FullMethod)
}

func forwardedBy(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(headerForwarded); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (s *server) forward(ctx context.Context, address string, req any, method string) (any, error) {
	resp, err := newResponse(method)
	if err != nil {
		return nil, err
	}
	cc, err := s.conns.to(address, mtls.RoleMeta)
	if err != nil {
		return nil, notLeader(address)
	}
	var header metadata.MD
	fctx, deposed, stop := s.whileLeading(ctx, address)
	defer stop()
	out := metadata.NewOutgoingContext(fctx, metadata.Pairs(headerForwarded, s.opts.Name))
	err = cc.Invoke(out, method, req, resp, grpc.Header(&header))
	if err == nil {
		return resp, nil
	}
	if deposed() {
		return nil, notLeader(s.leaderAddress())
	}
	// No leader handled it: the member is down or has just lost the leadership.
	if len(header.Get(headerAnswered)) == 0 && status.Code(err) == codes.Unavailable {
		return nil, notLeader(address)
	}
	return nil, err
}

// whileLeading returns a context that ends also when another member leads than the one at address: a frozen leader never
// answers, and calls may be repeated at its successor.
func (s *server) whileLeading(ctx context.Context, address string) (out context.Context, deposed func() bool, stop func()) {
	out, cancel := context.WithCancel(ctx)
	var gone atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(leaderPause)
		defer tick.Stop()
		for {
			select {
			case <-out.Done():
				return
			case <-tick.C:
				if now := s.leaderAddress(); now != "" && now != address {
					gone.Store(true)
					cancel()
					return
				}
			}
		}
	})
	return out, gone.Load, func() { cancel(); wg.Wait() }
}

// newResponse makes an empty response message of a method.
func newResponse(method string) (proto.Message, error) {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil, status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	md, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	mt, err := protoregistry.GlobalTypes.FindMessageByName(md.Output().FullName())
	if err != nil {
		return nil, status.Errorf(codes.Internal, "response type of %s: %v", method, err)
	}
	return mt.New().Interface(), nil
}

// stream admits streams, which are only served by the leader: a chunk goes to the leader itself.
func (s *server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := s.authorise(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	l := s.lead.Load()
	if l == nil {
		return notLeader(s.leaderAddress())
	}
	err := handler(srv, &leaderStream{ServerStream: ss, ctx: context.WithValue(ss.Context(), leaderKey{}, l)})
	if err != nil {
		err = toStatus(err, s.leaderAddress)
	}
	return err
}

type leaderStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *leaderStream) Context() context.Context { return s.ctx }

// leaderAddress is the leader's control address as far as this member knows, or "".
func (s *server) leaderAddress() (address string) {
	raft := s.raft()
	if raft == nil || raft.Leader() == 0 {
		return ""
	}
	lead := uint64(raft.Leader())
	s.mirror.view(func(st *state) {
		if st.leader.Member == lead {
			address = st.leader.Address
		}
	})
	return address
}

// notLeader is the status of a call that no leader has handled.
func notLeader(address string) error {
	msg := "this meta member does not lead, and there is no leader now: try again"
	if address != "" {
		msg = "this meta member does not lead; the leader is " + address
	}
	st, err := status.New(codes.FailedPrecondition, msg).WithDetails(&storagedv1.NotLeader{LeaderAddress: address})
	if err != nil {
		return status.Error(codes.FailedPrecondition, msg)
	}
	return st.Err()
}

func isNotLeader(err error) bool {
	st, ok := status.FromError(err)
	if !ok {
		return false
	}
	for _, d := range st.Details() {
		if _, ok := d.(*storagedv1.NotLeader); ok {
			return true
		}
	}
	return false
}

// toStatus maps errors to gRPC codes; errors that are statuses already stay.
func toStatus(err error, leaderAddress func() string) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	var room *noRoomError
	switch {
	case errors.As(err, &room):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, metadb.ErrDeposed):
		return notLeader(leaderAddress())
	case errors.Is(err, metadb.ErrConflict):
		return status.Error(codes.Aborted, err.Error()+": try again")
	case errors.Is(err, metadb.ErrOutcomeUnknown):
		return status.Error(codes.Unavailable, err.Error()+": try again")
	case errors.Is(err, metadb.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

func failf(code codes.Code, format string, args ...any) error {
	return status.Error(code, fmt.Sprintf(format, args...))
}
