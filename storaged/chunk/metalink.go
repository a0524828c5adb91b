package chunk

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/rpc"
	"github.com/iomesh/iomesh/internal/version"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// metaLink is the chunk's side of the membership: registration once, then heartbeats to whichever meta member leads.
type metaLink struct {
	s     *Server
	req   *storagedv1.RegisterRequest
	conns map[string]*grpc.ClientConn
	// incarnation of the metadata in which this process registered.
	incarnation uint64
}

// A heartbeat to the meta leader goes out with those to other chunks, so that all of them cost one wake-up: when the last was heartbeatMin ago, and by
// itself after heartbeatMax.
const (
	heartbeatMin = timeouts.Heartbeat * 3 / 4
	heartbeatMax = timeouts.Heartbeat * 9 / 8
)

// errRestored: the metadata was restored from a backup. What this process knows of its number and its volumes is of another history, so it has to
// start again.
var errRestored = errors.New("the metadata was restored from a backup; starting again")

// forgotten reports whether a member does not know this process, although it has registered.
func forgotten(err error) bool {
	st := status.Convert(err)
	return st.Code() == codes.FailedPrecondition && leaderIn(err) == "" && strings.Contains(st.Message(), "is not registered")
}

func newMetaLink(s *Server, data, iscsi, control net.Listener) (*metaLink, error) {
	return &metaLink{s: s, conns: map[string]*grpc.ClientConn{}, req: &storagedv1.RegisterRequest{
		Node: s.o.Node, Zone: s.o.Zone, DataAddress: hostPort(s.o.Advertise, data), IscsiAddress: hostPort(s.o.Advertise, iscsi),
		ControlAddress: hostPort(s.o.Advertise, control), Version: version.String(), FeatureLevel: uint32(block.FeatureLevel),
		Pid: int32(os.Getpid()), BootId: s.boot,
	}}, nil
}

func (l *metaLink) close() {
	for _, c := range l.conns {
		_ = c.Close()
	}
}

func (l *metaLink) conn(addr string) (storagedv1.MembershipClient, error) {
	c := l.conns[addr]
	if c == nil {
		// After a long outage of the metadata the new leader takes a chunk for dead that it has not heard of for timeouts.OwnerDead: ask often.
		o := rpc.Options{Credentials: l.s.tls.ClientCredentials(mtls.RoleMeta), MaxDelay: 400 * time.Millisecond, Dial: l.s.o.Host.Dial}
		var err error
		if c, err = rpc.Connect(addr, o); err != nil {
			return nil, fmt.Errorf("meta member: %w", err)
		}
		l.conns[addr] = c
	}
	return storagedv1.NewMembershipClient(c), nil
}

// leaderIn returns the leader's address if err says where it is.
func leaderIn(err error) string {
	for _, d := range status.Convert(err).Details() {
		if n, ok := d.(*storagedv1.NotLeader); ok {
			return n.LeaderAddress
		}
	}
	return ""
}

// register makes the chunk known and opens the metadata. It tries all members until ctx ends: a chunk may start before them.
func (l *metaLink) register(ctx context.Context) error {
	var said string
	next, hint := 0, ""
	for {
		addr := hint
		if addr == "" {
			addr = l.s.o.Meta[next%len(l.s.o.Meta)]
			next++
		}
		resp, err := l.tryRegister(ctx, addr)
		if err == nil {
			return l.registered(resp)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("register with meta: %w (last error: %w)", context.Cause(ctx), err)
		}
		hint = leaderIn(err)
		if hint == addr {
			hint = ""
		}
		if err.Error() != said {
			said = err.Error()
			l.s.log.Info("not registered yet", "meta", addr, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (l *metaLink) tryRegister(ctx context.Context, addr string) (*storagedv1.RegisterResponse, error) {
	c, err := l.conn(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return c.Register(ctx, l.req)
}

func (l *metaLink) registered(r *storagedv1.RegisterResponse) error {
	s := l.s
	var err error
	if s.cluster, err = block.ParseClusterID(r.ClusterId); err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	s.id = block.ChunkID(r.Chunk)
	s.registered = r.Revision
	l.incarnation = r.Incarnation
	if s.o.Host.OpenMeta != nil {
		s.db, err = s.o.Host.OpenMeta(r.EtcdEndpoints)
		return err
	}
	s.db, err = metadb.Open(metadb.Options{Endpoints: r.EtcdEndpoints, TLS: s.tls.ClientConfig(mtls.RoleMeta), Log: s.log, Discover: true})
	return err
}

// heartbeat keeps the stream to the leader until ctx ends, or this process has to start again.
func (l *metaLink) heartbeat(ctx context.Context) error {
	next, hint, said := 0, "", ""
	for ctx.Err() == nil {
		addr := hint
		if addr == "" {
			addr = l.s.o.Meta[next%len(l.s.o.Meta)]
			next++
		}
		err := l.stream(ctx, addr)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errRestored):
			return err
		case forgotten(err):
			return fmt.Errorf("the metadata does not know this process any more, starting again: %w", err)
		}
		if hint = leaderIn(err); hint == addr {
			hint = ""
		}
		if err != nil && err.Error() != said && hint == "" {
			said = err.Error()
			l.s.log.Info("no heartbeat stream", "meta", addr, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// fullEvery is how many heartbeats there are from one complete report to the next; the others carry changes only.
const fullEvery = 5

func (l *metaLink) stream(ctx context.Context, addr string) error {
	c, err := l.conn(addr)
	if err != nil {
		return err
	}
	// A member that is frozen accepts a stream and never answers.
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(timeouts.OwnerDead, cancel)
	defer watchdog.Stop()
	st, err := c.Heartbeat(sctx)
	if err != nil {
		return err
	}
	recv := make(chan error, 1)
	l.s.wg.Go(func() {
		for {
			r, err := st.Recv()
			if err != nil {
				recv <- err
				return
			}
			if len(r.EtcdEndpoints) > 0 {
				l.s.db.Endpoints(r.EtcdEndpoints)
			}
			if r.Incarnation != 0 && r.Incarnation != l.incarnation {
				recv <- fmt.Errorf("%w: incarnation %d, this chunk registered in %d", errRestored, r.Incarnation, l.incarnation)
				return
			}
			watchdog.Reset(timeouts.OwnerDead)
		}
	})
	t := time.NewTimer(0)
	defer t.Stop()
	r := newReporter(l.s)
	for n := 0; ; n++ {
		if err := st.Send(r.report(n%fullEvery == 0)); err != nil {
			return <-recv
		}
		sent := l.s.now()
		t.Reset(heartbeatMax)
		for due := false; !due; {
			select {
			case err := <-recv:
				return err
			case <-t.C:
				due = true
			case <-l.s.ticker.beat:
				due = l.s.now().Sub(sent) >= heartbeatMin
			case <-l.s.peers.changed: // who cannot be reached any more decides on failover
				due = true
				n--
			case <-l.s.disks.changed:
				due = true
				n--
			case <-ctx.Done():
				_ = st.CloseSend()
				return nil
			}
		}
	}
}

// reporter makes heartbeats.
type reporter struct {
	s       *Server
	changes uint64 // target.Changes at the last report
	last    map[block.VolumeID]string
	batches map[block.DiskID]uint64 // journal batches at the last full report
	state   map[block.DiskID]string // as last told
}

func newReporter(s *Server) *reporter {
	return &reporter{s: s, last: map[block.VolumeID]string{}, batches: map[block.DiskID]uint64{}, state: map[block.DiskID]string{}}
}

func (r *reporter) report(full bool) *storagedv1.HeartbeatRequest {
	s := r.s
	h := &storagedv1.HeartbeatRequest{Chunk: uint32(s.id), BootId: s.boot, Full: full, Unreachable: s.unreachable(),
		Clock: timestamppb.Now(), CertificateExpires: timestamppb.New(s.tls.NotAfter())}
	sessions, refused, changes := s.target.Brief()
	h.Sessions, h.LoginsRefused = uint32(sessions), refused
	all := full || changes != r.changes
	r.changes = changes
	for _, d := range s.disks.all() {
		// Told at once: the replicas of a failed disk leave their sets, and one that answers again is not to be replaced.
		state, _ := s.diskState(d)
		if !full && state == r.state[d.id] {
			continue
		}
		r.state[d.id] = state
		dr := s.diskReport(d)
		// The store's average is of the last requests, however long ago: it counts while there are any.
		st := d.store.Stats()
		if n := st.JournalBatches; full && n != r.batches[d.id] {
			r.batches[d.id] = n
			dr.Disk.LatencyNanoseconds = uint64(max(0, st.JournalLatency))
		}
		h.Disks = append(h.Disks, dr)
	}
	slices.SortFunc(h.Disks, func(a, b *storagedv1.DiskReport) int { return compare(a.Disk.Id, b.Disk.Id) })
	seen := map[block.VolumeID]bool{}
	for _, v := range s.volumes.all() {
		seen[v.id] = true
		if news := v.news.Swap(false); !news && !all {
			continue
		}
		rep := v.report()
		key := summary(rep)
		if full || r.last[v.id] != key {
			r.last[v.id] = key
			h.Volumes = append(h.Volumes, rep)
		}
	}
	for id := range r.last {
		if !seen[id] {
			delete(r.last, id)
		}
	}
	return h
}
