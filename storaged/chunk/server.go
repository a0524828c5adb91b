package chunk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/calm"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/rpc"
	"github.com/iomesh/iomesh/internal/version"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/peer"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
)

// Options of a chunk server.
type Options struct {
	// Node names the node; a chunk keeps its number as long as its node keeps its name. Zone may be empty.
	Node, Zone string
	// DiskDir is the disk directory (package diskdir).
	DiskDir string
	// Meta are the gRPC addresses of the meta members, host:port.
	Meta []string
	// TLSDir holds the credentials of role chunk.
	TLSDir string
	// Advertise is the address other nodes reach this one at. The listeners are bound to it, except where they name a host.
	Advertise string
	// DataListen, ISCSIListen, ControlListen and MetricsListen are host:port; port 0 picks one. An empty MetricsListen serves none.
	DataListen, ISCSIListen, ControlListen, MetricsListen string
	// EncryptPayload keeps replica traffic encrypted after the handshake. Must be equal on all chunks.
	EncryptPayload bool
	// ResyncBytesPerSecond limits copying for rebuild and resync. 0 means 400 MiB/s.
	ResyncBytesPerSecond int64
	// ScrubBytesPerSecond limits what scrub reads of all replicas of the volumes owned here. 0 means 8 MiB/s, negative none.
	ScrubBytesPerSecond int64
	// ScrubEvery is the time from the beginning of one scrub of a volume to that of the next. 0 means 24 h.
	ScrubEvery time.Duration
	// BackupDir gets a backup of the metadata every BackupEvery (10 min); empty: none.
	BackupDir   string
	BackupEvery time.Duration
	Log         *slog.Logger
	// Calm is told of work, so that the process is not calm then; nil: nobody.
	Calm *calm.Keeper
	// Host is the machine. Its zero value is the one this process runs on.
	Host Host

	// started is told of the running server; for tests.
	started func(*Server)
}

// Server is a running chunk.
type Server struct {
	o    Options
	log  *slog.Logger
	now  func() replication.Time
	boot uint64
	// start is when the server was made, from which since counts.
	start time.Time
	ctx   context.Context
	wg    sync.WaitGroup

	id         block.ChunkID
	cluster    block.ClusterID
	registered int64 // metadata revision of the registration

	tls      *mtls.Source
	db       *metadb.DB
	pool     pagebuf.Pool
	routes   routes
	crowd    crowd
	alive    liveness
	metrics  *chunkMetrics
	net      *peer.Network
	ticker   *ticker
	leases   *leases
	replicas *replicas
	volumes  *volumes
	peers    *peers
	disks    *disks
	target   *target.Server

	mu     sync.Mutex
	chunks map[block.ChunkID]metadb.Chunk
	byID   map[block.DiskID]*disk
}

// Run serves until ctx ends, or something fails that the chunk cannot go on without. All goroutines have ended when it returns.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Host = o.Host.withDefaults()
	if o.ResyncBytesPerSecond == 0 {
		o.ResyncBytesPerSecond = 400 << 20
	}
	if o.ScrubBytesPerSecond == 0 {
		o.ScrubBytesPerSecond = 8 << 20
	}
	if o.ScrubEvery == 0 {
		o.ScrubEvery = scrubEvery
	}
	for what, v := range map[string]string{"node name": o.Node, "disk directory": o.DiskDir, "TLS directory": o.TLSDir, "address to advertise": o.Advertise} {
		if v == "" {
			return fmt.Errorf("chunk: no %s given", what)
		}
	}
	if len(o.Meta) == 0 {
		return errors.New("chunk: no meta addresses given")
	}
	src, err := mtls.Load(o.TLSDir)
	if err != nil {
		return fmt.Errorf("chunk: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &Server{o: o, log: o.Log, now: o.Host.Now, boot: incarnation(time.Now()), start: time.Now(), ctx: ctx, tls: src,
		chunks: map[block.ChunkID]metadb.Chunk{}, byID: map[block.DiskID]*disk{}, metrics: newMetrics()}

	data, err := o.Host.listen(o.DataListen, "replica traffic")
	if err != nil {
		return err
	}
	defer data.Close()
	iscsi, err := o.Host.listen(o.ISCSIListen, "iSCSI")
	if err != nil {
		return err
	}
	defer iscsi.Close()
	control, err := o.Host.listen(o.ControlListen, "control")
	if err != nil {
		return err
	}
	defer control.Close()

	link, err := newMetaLink(s, data, iscsi, control)
	if err != nil {
		return err
	}
	defer link.close()
	if err := link.register(ctx); err != nil {
		return err
	}
	s.log = s.log.With("chunk", uint32(s.id), "node", o.Node)
	s.metrics.watch(s)
	defer s.db.Close()

	s.ticker = newTicker()
	s.leases = newLeases(s)
	s.replicas = newReplicas(s)
	s.volumes = newVolumes(s)
	s.peers = newPeers(s)
	s.disks = newDisks(o.DiskDir, s.cluster, s, s.log)
	s.disks.device = o.Host.OpenDisk
	s.net = peer.New(peer.Options{Cluster: s.cluster, Self: s.id, Boot: s.boot, Secure: peer.MTLS(src), Encrypt: o.EncryptPayload,
		Dial: o.Host.Dial, Pool: &s.pool, Handler: s, Log: s.log})
	to := target.Options{Directory: s.volumes, Log: s.log, Pool: &s.pool}
	to.Plant(o.Host.TargetBug)
	if s.target, err = target.New(to); err != nil {
		return err
	}

	fatal := func(what string, f func() error) {
		s.wg.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	gs := grpc.NewServer(append(rpc.ServerOptions(), grpc.Creds(src.ServerCredentials(mtls.RoleMeta, mtls.RoleController, mtls.RoleAdmin, mtls.RoleChunk)))...)
	storagedv1.RegisterChunkControlServer(gs, &controlServer{s: s})

	// Disks first: their fences must be known before anything is answered (I3).
	s.disks.sync(ctx)
	s.wg.Go(func() { s.disks.run(ctx) })
	s.wg.Go(func() { s.peers.run(ctx) })
	s.wg.Go(func() { s.followChunks(ctx) })
	s.wg.Go(func() { s.ticker.run(ctx, s) })
	s.wg.Go(func() { s.sampleLoop(ctx) })
	fatal("replica traffic", func() error { return s.net.Serve(data) })
	fatal("control", func() error { return gs.Serve(control) })
	fatal("iSCSI", func() error {
		if err := s.target.Serve(iscsi); err != nil && !errors.Is(err, target.ErrClosed) {
			return err
		}
		return nil
	})
	if o.MetricsListen != "" {
		ln, err := o.Host.listen(o.MetricsListen, "metrics")
		if err != nil {
			cancel(err)
		} else {
			fatal("metrics", func() error { return s.metrics.serve(ctx, ln) })
		}
	}
	s.wg.Go(func() { s.volumes.run(ctx) })
	if o.BackupDir != "" {
		b := &metaBackups{dir: o.BackupDir, every: o.BackupEvery, keep: backupsKept, log: s.log, save: s.db.Backup}
		s.wg.Go(func() { b.run(ctx, time.Now) })
	}
	fatal("metadata", func() error { return link.heartbeat(ctx) })
	s.log.Info("chunk is up", "version", version.String(), "data", data.Addr().String(), "iscsi", iscsi.Addr().String(), "control", control.Addr().String())

	if o.started != nil {
		o.started(s)
	}

	<-ctx.Done()
	// Volumes are left as they are, as in a crash: nobody answers for their members any more, and the connections their answers would go to are
	// closed. Then sessions end, then peers; what replicas have begun is completed by the disks' closing.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.volumes.leave()
		gs.Stop()
		_ = s.target.Close()
		s.net.Close()
		s.wg.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(shutdownMax):
		s.log.Error("not everything ended in time; giving up", "waited", shutdownMax.String())
		return fmt.Errorf("chunk did not end within %s: %w", shutdownMax, context.Cause(ctx))
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// shutdownMax bounds an orderly end. A command may wait for a set that nobody will change any more; to stop like a crash is always safe, not to
// stop at all keeps the node's replicas away.
const shutdownMax = 8 * time.Second

// since is the time since the start, for what needs no more than a cheap clock of this process.
func (s *Server) since() time.Duration { return time.Since(s.start) }

func (h Host) listen(addr, what string) (net.Listener, error) {
	ln, err := h.Listen(addr)
	if err != nil {
		return nil, fmt.Errorf("listen for %s on %s: %w", what, addr, err)
	}
	return ln, nil
}

// incarnation numbers the processes of a chunk by their start, in units of 10 ms: higher for each later one, below 2^40.
func incarnation(t time.Time) uint64 { return uint64(t.UnixMilli() / 10) }

// followChunks keeps the connections to the other chunks.
func (s *Server) followChunks(ctx context.Context) {
	for u := range s.db.WatchChunks(ctx) {
		s.mu.Lock()
		gone := u.Deleted
		if u.Reset {
			for id := range s.chunks {
				gone = append(gone, id)
			}
		}
		for _, id := range gone {
			delete(s.chunks, id)
		}
		for _, c := range u.Chunks {
			s.chunks[c.ID] = c
		}
		s.mu.Unlock()
		for _, id := range gone {
			s.mu.Lock()
			_, still := s.chunks[id]
			s.mu.Unlock()
			if !still {
				s.net.Disconnect(id)
			}
		}
		for _, c := range u.Chunks {
			if c.ID != s.id {
				s.net.Connect(c.ID, c.DataAddress)
			}
		}
		s.volumes.change(func() {})
	}
}

// chain is the number of the unbroken row of promises given to a chunk.
func (s *Server) chain(id block.ChunkID) uint64 { return s.leases.l.Chain(id) }

// lineage reads which volume seeds the checksums of a volume.
func (s *Server) lineage(ctx context.Context, id block.VolumeID) (block.VolumeID, error) {
	v, err := s.db.GetVolume(ctx, id)
	return v.Lineage, err
}

func (s *Server) diskByID(id block.DiskID) *disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// readersPerDisk bounds the large reads, and those that wait, which a disk has at once.
const readersPerDisk = 32

// diskOpened implements diskEvents.
func (s *Server) diskOpened(d *disk) {
	d.reads = make(chan *storeOp, 1024)
	for range readersPerDisk {
		d.readers.Go(func() {
			for o := range d.reads {
				o.read()
			}
		})
	}
	s.replicas.diskOpened(d)
	s.mu.Lock()
	s.byID[d.id] = d
	s.mu.Unlock()
}

// diskGone implements diskEvents.
func (s *Server) diskGone(d *disk, _ error) {
	s.mu.Lock()
	delete(s.byID, d.id)
	s.mu.Unlock()
	d.stop()
}

// diskInUse implements diskEvents: a disk with replicas is needed until they have been moved away.
func (s *Server) diskInUse(d *disk) string {
	if n := d.store.Stats().Replicas; n > 0 {
		return fmt.Sprintf("%d replicas; drain it first", n)
	}
	return ""
}
