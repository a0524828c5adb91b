package meta

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// etcd's raft log writer and grpc's resolver of the in-process client end a moment after Close returns.
		goleak.IgnoreAnyFunction("go.etcd.io/etcd/client/pkg/v3/logutil.(*MergeLogger).outputLoop"))
}

// freePort returns a loopback address nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func testLog(t testing.TB) *slog.Logger {
	level := slog.LevelWarn
	if os.Getenv("META_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if os.Getenv("META_TEST_LOG") != "" {
		_, _ = os.Stderr.Write(b)
	}
	return len(b), nil
}

// metaProcess is one running member.
type metaProcess struct {
	opts Options
	stop context.CancelFunc
	done chan error
}

func (p *metaProcess) kill() error {
	p.stop()
	return <-p.done
}

// metaCluster is a set of members of a test.
type metaCluster struct {
	t       testing.TB
	members []Member
	procs   map[string]*metaProcess
	edit    func(*Options)
}

func startMeta(t testing.TB, n int, edit func(*Options)) *metaCluster {
	t.Helper()
	c := &metaCluster{t: t, procs: map[string]*metaProcess{}, edit: edit}
	for i := range n {
		c.members = append(c.members, Member{Name: fmt.Sprintf("m%d", i), GRPC: freePort(t), Client: freePort(t), Peer: freePort(t)})
	}
	for _, m := range c.members {
		c.start(m.Name, t.TempDir())
	}
	t.Cleanup(func() {
		for _, p := range c.procs {
			p.stop()
		}
		for _, p := range c.procs {
			if err := <-p.done; err != nil {
				t.Errorf("member %s: %v", p.opts.Name, err)
			}
		}
	})
	return c
}

func (c *metaCluster) start(name, dir string) {
	o := Options{Name: name, Members: c.members, DataDir: dir, Log: testLog(c.t), Version: "test"}
	if c.edit != nil {
		c.edit(&o)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &metaProcess{opts: o, stop: stop, done: make(chan error, 1)}
	c.procs[name] = p
	go func() { p.done <- Run(ctx, o) }()
}

// kill stops a member and returns its data directory.
func (c *metaCluster) kill(name string) string {
	p := c.procs[name]
	delete(c.procs, name)
	if err := p.kill(); err != nil {
		c.t.Fatalf("member %s: %v", name, err)
	}
	return p.opts.DataDir
}

func dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// client is the interfaces at one member.
type client struct {
	storagedv1.VolumesClient
	storagedv1.ClusterClient
	storagedv1.MembershipClient
	storagedv1.MetaPeerClient
}

func (c *metaCluster) client(i int) client {
	cc := dial(c.t, c.members[i].GRPC)
	return client{storagedv1.NewVolumesClient(cc), storagedv1.NewClusterClient(cc), storagedv1.NewMembershipClient(cc), storagedv1.NewMetaPeerClient(cc)}
}

// eventually polls until ok is true; the test's deadline is the only limit that matters, this one names what did not happen.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened: %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// fakeChunk registers, reports and obeys like a chunk, and keeps no data.
type fakeChunk struct {
	storagedv1.UnimplementedChunkControlServer
	t       testing.TB
	members []Member
	node    string
	zone    string
	disks   []*storagedv1.Disk
	control string
	gs      *grpc.Server

	mu        sync.Mutex
	id        block.ChunkID
	revision  int64
	db        *metadb.DB
	owned     map[block.VolumeID]metadb.Owner
	closed    []string          // initiators whose sessions were closed
	deleted   []string          // volumes whose replicas were deleted
	views     map[string]string // last SetSnapshots by volume
	resized   map[string]uint64
	created   map[string]int // replicas created by volume
	refuse    error          // of CreateReplicas
	extra     []*storagedv1.ReplicaInfo
	buried    []*storagedv1.ReplicaRef
	listed    int  // inventories
	hang      bool // CloseSessions does not answer
	joinSlow  bool // AddMember is accepted and reported as joining, not finished
	joining   map[block.ExtentID]block.DiskID
	frozen    atomic.Bool // reports nothing, keeps its stream
	stop      context.CancelFunc
	wg        sync.WaitGroup
	connected chan struct{} // closed at the first answer to a heartbeat
}

func newChunk(t testing.TB, c *metaCluster, node string, disks int, diskSize uint64) *fakeChunk {
	f := &fakeChunk{t: t, members: c.members, node: node, control: freePort(t), views: map[string]string{}, resized: map[string]uint64{}}
	for i := range disks {
		f.disks = append(f.disks, &storagedv1.Disk{Id: block.NewDiskID().String(), Name: fmt.Sprintf("%s-d%d", node, i), SizeBytes: diskSize, State: "Active", MountType: "dataStoreWithJournal"})
	}
	ln, err := net.Listen("tcp", f.control)
	if err != nil {
		t.Fatal(err)
	}
	f.gs = grpc.NewServer()
	storagedv1.RegisterChunkControlServer(f.gs, f)
	go func() { _ = f.gs.Serve(ln) }()
	t.Cleanup(func() { f.kill(); f.gs.Stop() })
	f.boot()
	return f
}

// boot starts a new process of the chunk and returns when it is registered and heard of.
func (f *fakeChunk) boot() {
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	f.connected = make(chan struct{})
	f.frozen.Store(false)
	boot := rand.Uint64() | 1
	f.mu.Lock()
	f.owned, f.joining = map[block.VolumeID]metadb.Owner{}, map[block.ExtentID]block.DiskID{}
	f.mu.Unlock()
	f.wg.Go(func() { f.run(ctx, boot) })
	<-f.connected
}

// kill ends the process: its stream breaks.
func (f *fakeChunk) kill() {
	f.stop()
	f.wg.Wait()
}

func (f *fakeChunk) run(ctx context.Context, boot uint64) {
	var once sync.Once
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := 0; ctx.Err() == nil; i++ {
		cc, err := grpc.NewClient("passthrough:///"+f.members[i%len(f.members)].GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			panic(err)
		}
		mc := storagedv1.NewMembershipClient(cc)
		rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		resp, err := mc.Register(rctx, &storagedv1.RegisterRequest{
			Node: f.node, Zone: f.zone, DataAddress: "127.0.0.1:1", IscsiAddress: "127.0.0.1:3" + fmt.Sprintf("%03d", len(f.node)+int(f.node[len(f.node)-1])), ControlAddress: f.control,
			BootId: boot, Pid: 42, FeatureLevel: uint32(block.FeatureLevel),
		})
		cancel()
		if err != nil {
			_ = cc.Close()
			wait(ctx, 100*time.Millisecond)
			continue
		}
		f.mu.Lock()
		f.id, f.revision = block.ChunkID(resp.GetChunk()), resp.GetRevision()
		first := f.db == nil
		if first {
			f.db, err = metadb.Open(metadb.Options{Endpoints: resp.GetEtcdEndpoints()})
			if err != nil {
				panic(err)
			}
			f.t.Cleanup(func() { _ = f.db.Close() })
		}
		f.mu.Unlock()
		if i == 0 || first {
			wg.Go(func() { f.watch(ctx) })
		}
		for _, m := range f.members {
			f.stream(ctx, m.GRPC, boot, func() { once.Do(func() { close(f.connected) }) })
			if ctx.Err() != nil {
				break
			}
		}
		_ = cc.Close()
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (f *fakeChunk) watch(ctx context.Context) {
	for u := range f.db.WatchOwners(ctx) {
		f.mu.Lock()
		if u.Reset {
			clear(f.owned)
		}
		for _, o := range u.Owners {
			if o.Chunk == f.id && o.Revision > f.revision {
				f.owned[o.Volume] = o
			} else {
				delete(f.owned, o.Volume)
			}
		}
		for _, v := range u.Deleted {
			delete(f.owned, v)
		}
		f.mu.Unlock()
	}
}

func (f *fakeChunk) stream(ctx context.Context, address string, boot uint64, up func()) {
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := storagedv1.NewMembershipClient(cc).Heartbeat(ctx)
	if err != nil {
		return
	}
	for ctx.Err() == nil {
		if !f.frozen.Load() {
			if s.Send(f.report(boot)) != nil {
				return
			}
			if _, err := s.Recv(); err != nil {
				return
			}
			up()
		}
		wait(ctx, timeouts.Heartbeat/4)
	}
}

func (f *fakeChunk) report(boot uint64) *storagedv1.HeartbeatRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	req := &storagedv1.HeartbeatRequest{Chunk: uint32(f.id), BootId: boot, Full: true}
	for i, d := range f.disks {
		d = proto.CloneOf(d)
		for _, r := range f.extra {
			if r.GetDiskId() == d.GetId() {
				d.Replicas++
			}
		}
		req.Disks = append(req.Disks, &storagedv1.DiskReport{Disk: d, MountCounter: uint64(i) + 1})
	}
	for id, o := range f.owned {
		r := &storagedv1.VolumeReport{VolumeId: id.String(), Epoch: uint64(o.Epoch), Status: &storagedv1.VolumeStatus{Health: storagedv1.Health_HEALTH_OK}}
		for e, d := range f.joining {
			if e.Volume == id {
				r.Status.ExtentStatus = append(r.Status.ExtentStatus, &storagedv1.ExtentStatus{Index: uint32(e.Index), Members: []*storagedv1.Member{{DiskId: d.String(), Kind: "joining"}}})
			}
		}
		req.Volumes = append(req.Volumes, r)
	}
	return req
}

func (f *fakeChunk) owner(id string) (metadb.Owner, error) {
	vid, err := block.ParseVolumeID(id)
	if err != nil {
		return metadb.Owner{}, status.Error(codes.InvalidArgument, err.Error())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	o, ok := f.owned[vid]
	if !ok {
		return metadb.Owner{}, status.Error(codes.FailedPrecondition, "not the owner")
	}
	return o, nil
}

func (f *fakeChunk) Snapshot(ctx context.Context, req *storagedv1.ChunkSnapshotRequest) (*storagedv1.ChunkSnapshotResponse, error) {
	o, err := f.owner(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	id, err := block.ParseSnapshotID(req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	view, err := f.db.CommitSnapshot(ctx, o.Guard(), id)
	return &storagedv1.ChunkSnapshotResponse{SnapSeq: uint32(view)}, err
}

func (f *fakeChunk) CloseSessions(ctx context.Context, req *storagedv1.CloseSessionsRequest) (*storagedv1.CloseSessionsResponse, error) {
	o, err := f.owner(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	grants, err := f.db.ListGrants(ctx, o.Volume)
	if err != nil {
		return nil, err
	}
	for _, g := range grants {
		if g.Initiator == req.GetInitiator() {
			return nil, status.Error(codes.InvalidArgument, "the grant is still there")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = append(f.closed, req.GetInitiator())
	return &storagedv1.CloseSessionsResponse{Closed: 1}, nil
}

func (f *fakeChunk) ReleaseOwner(ctx context.Context, req *storagedv1.ReleaseOwnerRequest) (*storagedv1.ReleaseOwnerResponse, error) {
	o, err := f.owner(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if uint64(o.Epoch) != req.GetEpoch() {
		return nil, status.Error(codes.FailedPrecondition, "another epoch")
	}
	_, err = f.db.PassOwner(ctx, o.Guard(), block.ChunkID(req.GetToChunk()))
	return &storagedv1.ReleaseOwnerResponse{}, err
}

func (f *fakeChunk) extent(ctx context.Context, volume string, index uint32, change func(*metadb.Extent)) error {
	o, err := f.owner(volume)
	if err != nil {
		return err
	}
	c, err := f.db.LoadVolume(ctx, o.Volume)
	if err != nil {
		return err
	}
	e := c.Extents[index]
	before := e
	before.Members, before.Absent = slices.Clone(e.Members), slices.Clone(e.Absent)
	change(&e)
	if e.Equal(&before) {
		return nil
	}
	e.Generation++
	res, err := f.db.UpdateExtents(ctx, o.Guard(), []metadb.Extent{e})
	if err == nil && res[0].Outcome != metadb.Committed {
		err = status.Error(codes.Aborted, "conflict")
	}
	return err
}

func (f *fakeChunk) AddMember(ctx context.Context, req *storagedv1.AddMemberRequest) (*storagedv1.AddMemberResponse, error) {
	d, err := block.ParseDiskID(req.GetDiskId())
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	slow := f.joinSlow
	if slow {
		v, _ := block.ParseVolumeID(req.GetVolumeId())
		f.joining[block.ExtentID{Volume: v, Index: block.ExtentIndex(req.GetExtent())}] = d
	}
	f.mu.Unlock()
	if slow {
		return &storagedv1.AddMemberResponse{}, nil
	}
	return &storagedv1.AddMemberResponse{}, f.extent(ctx, req.GetVolumeId(), req.GetExtent(), func(e *metadb.Extent) {
		if !hasMember(e, d) {
			e.Members = append(e.Members, metadb.Member{Disk: d, Chunk: block.ChunkID(req.GetChunk())})
		}
	})
}

func (f *fakeChunk) RemoveMember(ctx context.Context, req *storagedv1.RemoveMemberRequest) (*storagedv1.RemoveMemberResponse, error) {
	d, err := block.ParseDiskID(req.GetDiskId())
	if err != nil {
		return nil, err
	}
	return &storagedv1.RemoveMemberResponse{}, f.extent(ctx, req.GetVolumeId(), req.GetExtent(), func(e *metadb.Extent) {
		e.Members = slices.DeleteFunc(e.Members, func(m metadb.Member) bool { return m.Disk == d })
		e.Absent = slices.DeleteFunc(e.Absent, func(a metadb.Absent) bool { return a.Disk == d })
	})
}

// drop takes a disk out of all sets of a volume, as its owner does when a member is silent.
func (f *fakeChunk) drop(ctx context.Context, volume string, disk block.DiskID) error {
	v, err := block.ParseVolumeID(volume)
	if err != nil {
		return err
	}
	c, err := f.db.LoadVolume(ctx, v)
	if err != nil {
		return err
	}
	for i := range c.Extents {
		if err := f.extent(ctx, volume, uint32(i), func(e *metadb.Extent) {
			for j, m := range e.Members {
				if m.Disk == disk {
					e.Members = slices.Delete(e.Members, j, j+1)
					e.Absent = append(e.Absent, metadb.Absent{Disk: m.Disk, Chunk: m.Chunk, Watermark: 1})
					return
				}
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeChunk) Resize(_ context.Context, req *storagedv1.ResizeRequest) (*storagedv1.ResizeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resized[req.GetVolumeId()] = req.GetSizeBytes()
	return &storagedv1.ResizeResponse{}, nil
}

func (f *fakeChunk) DeleteReplicas(_ context.Context, req *storagedv1.DeleteReplicasRequest) (*storagedv1.DeleteReplicasResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deleted = append(f.deleted, req.GetVolumeIds()...)
	for _, r := range req.GetReplicas() {
		f.buried = append(f.buried, r)
		f.extra = slices.DeleteFunc(f.extra, func(i *storagedv1.ReplicaInfo) bool {
			return i.GetVolumeId() == r.GetVolumeId() && i.GetExtent() == r.GetExtent() && i.GetDiskId() == r.GetDiskId()
		})
	}
	return &storagedv1.DeleteReplicasResponse{}, nil
}

func (f *fakeChunk) SetSnapshots(_ context.Context, req *storagedv1.SetSnapshotsRequest) (*storagedv1.SetSnapshotsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.views[req.GetVolumeId()] = fmt.Sprint(req.GetSnapSeqs(), "<", req.GetSnapSeq())
	return &storagedv1.SetSnapshotsResponse{}, nil
}

// threeNodes starts n chunks with two disks each, and waits until all disks are recorded.
func nodes(t testing.TB, c *metaCluster, n int) []*fakeChunk {
	t.Helper()
	var out []*fakeChunk
	for i := range n {
		out = append(out, newChunk(t, c, fmt.Sprintf("n%d", i+1), 2, 100<<30))
	}
	cl := c.client(0)
	eventually(t, "all disks are recorded and active", func() bool {
		r, err := cl.ListDisks(t.Context(), &storagedv1.ListDisksRequest{})
		active := 0
		for _, d := range r.GetDisks() {
			if d.GetState() == "Active" {
				active++
			}
		}
		return err == nil && active == 2*n
	})
	return out
}

func byID(chunks []*fakeChunk, id uint32) *fakeChunk {
	for _, c := range chunks {
		if uint32(c.id) == id {
			return c
		}
	}
	return nil
}

func (f *fakeChunk) CreateReplicas(_ context.Context, r *storagedv1.CreateReplicasRequest) (*storagedv1.CreateReplicasResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, f.refuse
	}
	if f.created == nil {
		f.created = map[string]int{}
	}
	f.created[r.VolumeId] += len(r.Replicas)
	return &storagedv1.CreateReplicasResponse{}, nil
}

func (f *fakeChunk) ListReplicas(_ *storagedv1.ListReplicasRequest, st grpc.ServerStreamingServer[storagedv1.ReplicaInfo]) error {
	f.mu.Lock()
	list := slices.Clone(f.extra)
	f.listed++
	f.mu.Unlock()
	for _, r := range list {
		if err := st.Send(r); err != nil {
			return err
		}
	}
	return nil
}
