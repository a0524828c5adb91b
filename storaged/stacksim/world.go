package stacksim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
)

// Config is what a run is made of. Use Random to draw one from a seed.
type Config struct {
	Seed    uint64
	Nodes   int // with a chunk; three or more
	Disks   int // per node
	Members int // of the metadata
	Volumes []VolumeConfig
	// Depth is how many requests a client has under way, Think its longest pause between two.
	Depth int
	Think time.Duration
	// Counting: most requests are to the counter and to what is beside it in its block.
	Counting bool
	// SlowDisks: all disks are slow while there is load.
	SlowDisks bool
	// Length is how long load and faults go on. Faults of the Kinds are drawn evenly over it.
	Length time.Duration
	Faults int
	Kinds  []FaultKind
	// Overlap: a fault does not wait for the end of the one before. Only with faults of connections and disks.
	Overlap bool
	// Work is what the administrator does meanwhile.
	Work []WorkKind
	// RepairDelay and ResyncBytes are those of the leader and of the chunks.
	RepairDelay time.Duration
	ResyncBytes int64
	ScrubBytes  int64
	// Bugs and TargetBug are planted in all chunks.
	Bugs      replication.Bugs
	TargetBug target.Bug
	// Dir is an empty directory for the files of the run (disk entries); TLSDir holds credentials by role (Credentials).
	Dir, TLSDir string
	// Trace gets what happens; nil for none. With Verbose also what the parts log.
	Trace   io.Writer
	Verbose bool
}

// VolumeConfig is a volume with its clients.
type VolumeConfig struct {
	Replicas  int
	SizeBytes uint64
	Clients   int
}

// Violation is what must not happen.
type Violation struct{ What string }

func (v *Violation) Error() string { return v.What }

// Stats counts what a run did.
type Stats struct {
	Reads, Writes, Faults, Snapshots, Moves int
	Virtual                                 time.Duration
}

// World is one run. Its goroutines belong to one bubble of testing/synctest.
type World struct {
	cfg   Config
	dir   string
	began time.Time

	rngMu sync.Mutex
	rng   *rand.Rand

	net     *network
	etcd    *etcd
	raft    *raft
	members []*member
	nodes   []*node
	volumes []*volume

	admin   *process
	conns   []*grpc.ClientConn
	ctx     context.Context // of the load
	cancel  context.CancelFunc
	clients sync.WaitGroup
	clientN int

	mu    sync.Mutex
	bad   *Violation
	stats Stats
}

// Credentials writes the certificates of all roles into dir. Within a bubble: they are valid in its time.
func Credentials(dir string) error {
	ca, err := mtls.NewAuthority("simulated", 24*time.Hour)
	if err != nil {
		return err
	}
	return ca.IssueAll(dir, []string{"127.0.0.1"}, 24*time.Hour)
}

func (w *World) tls(r mtls.Role) string { return filepath.Join(w.cfg.TLSDir, string(r)) }

// fork makes a random number generator of its own.
func (w *World) fork() *rand.Rand {
	w.rngMu.Lock()
	defer w.rngMu.Unlock()
	return rand.New(rand.NewPCG(w.rng.Uint64(), w.rng.Uint64()))
}

func (w *World) tracef(format string, args ...any) {
	if w.cfg.Trace == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintf(w.cfg.Trace, "%10.4f "+format+"\n", append([]any{time.Since(w.began).Seconds()}, args...)...)
}

func (w *World) log(who string) *slog.Logger {
	if w.cfg.Trace == nil || !w.cfg.Verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(logWriter{w, who}, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

type logWriter struct {
	w   *World
	who string
}

func (l logWriter) Write(b []byte) (int, error) {
	l.w.tracef("%s: %s", l.who, b[:max(0, len(b)-1)])
	return len(b), nil
}

// fail notes the first violation and ends the load.
func (w *World) fail(format string, args ...any) {
	v := &Violation{fmt.Sprintf(format, args...)}
	w.tracef("VIOLATION: %s", v.What)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bad == nil {
		w.bad = v
		w.cancel()
	}
}

func (w *World) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bad != nil
}

func (w *World) count(n *int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*n++
}

// Run plays one run and returns what was wrong, nil if nothing was. All goroutines it started have ended when it returns. It must be called within
// a bubble of testing/synctest; an error that is no *Violation says that the run could not be played.
func Run(c Config) (Stats, error) {
	w := &World{cfg: c, dir: c.Dir, began: time.Now(), rng: rand.New(rand.NewPCG(c.Seed, 0x57ac))}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	defer w.cancel()
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return w.stats, err
	}
	w.net = newNetwork(w.fork())
	w.etcd = newEtcd()
	w.raft = newRaft(w.fork(), c.Members)
	for i := range c.Members {
		w.members = append(w.members, w.newMember(i))
	}
	for i := range c.Nodes {
		n, err := w.newNode(i, c.Disks)
		if err != nil {
			return w.stats, err
		}
		w.nodes = append(w.nodes, n)
	}
	if err := w.connectAdmin(); err != nil {
		return w.stats, err
	}
	for _, m := range w.members {
		m.start()
	}
	w.raft.elect(1)
	// One after the other, so that their numbers are those of the nodes.
	for _, n := range w.nodes {
		time.Sleep(400 * time.Millisecond)
		n.start()
	}
	err := w.play()
	if w.failed() {
		w.describe()
	}
	w.shutdown()
	if w.bad == nil && err == nil {
		w.compareDisks()
		w.judge()
	}
	w.stats.Virtual = time.Since(w.began)
	if w.bad != nil {
		return w.stats, w.bad
	}
	return w.stats, err
}

// play is the part between start and end of the processes.
func (w *World) play() error {
	if err := w.settle("start", func() string { return w.disksMissing() }); err != nil {
		return err
	}
	for i, vc := range w.cfg.Volumes {
		if err := w.newVolume(i, vc); err != nil {
			return err
		}
	}
	w.tracef("load begins")
	for _, n := range w.nodes {
		for _, d := range n.all() {
			if w.cfg.SlowDisks {
				d.setSpeed(diskSlow)
			}
		}
	}
	end := time.AfterFunc(w.cfg.Length, w.cancel)
	defer end.Stop()
	for _, v := range w.volumes {
		for _, c := range v.clients {
			c.begin()
		}
	}
	var work sync.WaitGroup
	work.Go(w.administrate)
	w.faults()
	w.cancel()
	w.tracef("load ends")
	work.Wait()
	w.heal()
	done := make(chan struct{})
	go func() { w.clients.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		w.fail("requests are not answered 120 s after the last fault: %s", w.unanswered())
	}
	if w.failed() {
		return nil
	}
	if err := w.settle("end", w.unwell); err != nil {
		return err
	}
	w.readAll()
	// The disks are compared as they are when all is well, which a member of a set that was given up at the very end of the faults, and taken back, may
	// have ended while everything was read.
	return w.settle("very end", w.unwell)
}

// settle waits until why is "", in two looks one after the other: between an owner's decision to give a member up and its record all looks well.
func (w *World) settle(when string, why func() string) error {
	last, well := "", 0
	for range 600 {
		if w.failed() {
			return nil
		}
		if last = why(); last == "" {
			well++
		} else {
			well = 0
		}
		if well == 2 {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	w.fail("not well after 120 s at the %s: %s", when, last)
	return nil
}

func (w *World) shutdown() {
	for _, v := range w.volumes {
		for _, c := range append(v.clients, v.retired...) {
			c.close()
		}
	}
	for _, c := range w.conns {
		_ = c.Close()
	}
	var wg sync.WaitGroup
	for _, n := range w.nodes {
		wg.Go(func() { n.stop(orderly) })
	}
	wg.Wait()
	for _, m := range w.members {
		m.stop()
	}
	w.admin.host.stop(false)
}

// connectAdmin opens the administrator's way to the meta members.
func (w *World) connectAdmin() error {
	w.admin = w.net.host("10.0.9.1").start()
	src, err := mtls.Load(w.tls(mtls.RoleAdmin))
	if err != nil {
		return err
	}
	for _, a := range w.metaAddresses() {
		c, err := grpc.NewClient("passthrough:///"+a, grpc.WithTransportCredentials(src.ClientCredentials(mtls.RoleMeta)), grpc.WithContextDialer(w.admin.dial))
		if err != nil {
			return err
		}
		w.conns = append(w.conns, c)
	}
	return nil
}

var errGivenUp = errors.New("no meta member answers")

// ask calls the members in turn until one answers or patience ends. Requests are repeatable by their names.
func (w *World) ask(patience time.Duration, f func(context.Context, *grpc.ClientConn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := 0; ; i++ {
		actx, stop := context.WithTimeout(ctx, 10*time.Second)
		err := f(actx, w.conns[i%len(w.conns)])
		stop()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", errGivenUp, err)
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("%w: %w", errGivenUp, err)
		}
	}
}

func (w *World) disksMissing() string {
	var st *storagedv1.ClusterStatus
	if err := w.ask(time.Second, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		st, err = storagedv1.NewClusterClient(c).GetStatus(ctx, &storagedv1.GetStatusRequest{})
		return err
	}); err != nil {
		return err.Error()
	}
	active := 0
	for _, d := range st.Disks {
		if d.State == "Active" {
			active++
		}
	}
	if want := w.cfg.Nodes * w.cfg.Disks; active < want {
		return fmt.Sprintf("%d of %d disks are active", active, want)
	}
	return ""
}
