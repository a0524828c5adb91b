package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/tests/faults/cluster"
)

const (
	redirectMetrics = "127.0.0.1:10303"
	// faultyNode has a disk that misbehaves on demand.
	faultyNode   = "n2"
	observerName = "iqn.2026-01.test:observer"
	// statusWithin is the bar: how long after a fault the status may be as before.
	statusWithin = 15 * time.Second
	alertsWithin = 40 * time.Second
	mendWithin   = 2 * time.Minute
	// okFor is how long all must be OK before the next fault: what the mending stirs up is not told of that one.
	okFor     = 5 * time.Second
	diskBytes = 512 << 20
)

// observer holds the cluster, the load and the Prometheus.
type observer struct {
	c          *cluster.Cluster
	storaged   string
	rules      string
	prometheus *exec.Cmd
	volumes    map[string]*storagedv1.Volume
	session    *initiator.Session
	sizeBytes  int64
	written    atomic.Uint64 // operations of the load
}

func main() {
	storaged := flag.String("storaged", "bin/storaged", "the program under test")
	rules := flag.String("rules", "manifests/chart/monitoring/rules.yaml", "the rules; dashboards lie beside")
	only := flag.String("only", "", "only the faults whose names contain this")
	from := flag.Int("from", 1, "only the faults from this number on")
	skipCost := flag.Bool("skip-cost", false, "do not measure the cost of being scraped")
	flag.Parse()
	if _, err := exec.LookPath("prometheus"); err != nil {
		fmt.Fprintln(os.Stderr, "observe: prometheus is not installed: hack/deps.sh installs it")
		os.Exit(1)
	}
	if code, done, err := cluster.Inside(); err != nil {
		fmt.Fprintln(os.Stderr, "observe:", err)
		os.Exit(1)
	} else if done {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := &observer{rules: *rules, volumes: map[string]*storagedv1.Volume{}}
	var err error
	if o.storaged, err = filepath.Abs(*storaged); err == nil {
		err = o.run(ctx, *only, *from, *skipCost)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "observe:", err)
		os.Exit(1)
	}
}

func (o *observer) run(ctx context.Context, only string, from int, skipCost bool) (err error) {
	dir, err := os.MkdirTemp("/dev/shm", "observe-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			_ = os.RemoveAll(dir)
		} else {
			fmt.Println("files stay in", dir)
		}
	}()
	o.c, err = cluster.New(ctx, cluster.Options{Dir: dir, Storaged: o.storaged, Nodes: 3, DiskBytes: diskBytes, FaultyOn: []string{faultyNode}, MetaArgs: []string{"--error-window", "12s"},
		RedirectArgs: []string{"--metrics-listen", redirectMetrics}})
	if err != nil {
		return err
	}
	defer o.c.Close()
	o.sizeBytes = 32 << 20
	for _, name := range []string{"data", "chap"} {
		if o.volumes[name], err = o.volume(ctx, name, o.sizeBytes); err != nil {
			return err
		}
	}
	if err := o.grantOnly(ctx, "chap"); err != nil {
		return err
	}
	if o.session, err = initiator.Dial(ctx, initiator.Options{Portals: []string{cluster.Portal}, Target: o.volumes["data"].Iqn, Initiator: observerName}); err != nil {
		return err
	}
	defer o.session.Close()
	lctx, endLoad := context.WithCancel(ctx)
	defer endLoad()
	go o.load(lctx)
	if err := o.startPrometheus(ctx); err != nil {
		return err
	}
	defer o.stopPrometheus()
	if took, ok := o.awaitOK(ctx); !ok {
		return fmt.Errorf("not OK after %s: %s", took, o.last(ctx))
	}
	select { // rates need a window
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(35 * time.Second):
	}
	bad := 0
	n, faults := o.panels(ctx)
	fmt.Printf("dashboards: %d queries evaluated, %d wrong\n", n, len(faults))
	for _, f := range faults {
		bad++
		fmt.Println("  " + f)
	}
	if !skipCost {
		if err := o.cost(ctx); err != nil {
			return err
		}
	}
	matrix, wrong := o.matrix(ctx, only, from)
	fmt.Println(matrix)
	if bad+wrong > 0 {
		return fmt.Errorf("%d queries and %d faults were not told as they should be", bad, wrong)
	}
	return nil
}

// volume makes and publishes a volume with three replicas.
func (o *observer) volume(ctx context.Context, name string, size int64) (*storagedv1.Volume, error) {
	v, err := o.c.Client.Volumes.CreateVolume(ctx, &storagedv1.CreateVolumeRequest{Name: name, SizeBytes: uint64(size), ReplicaFactor: 3})
	if err != nil {
		return nil, err
	}
	_, err = o.c.Client.Volumes.PublishVolume(ctx, &storagedv1.PublishVolumeRequest{VolumeId: v.Id, Initiator: "*", Mode: storagedv1.AccessMode_ACCESS_MODE_SHARED, NoAuth: true})
	return v, err
}

// grantOnly takes the grant for everybody away.
func (o *observer) grantOnly(ctx context.Context, name string) error {
	_, err := o.c.Client.Volumes.UnpublishVolume(ctx, &storagedv1.UnpublishVolumeRequest{VolumeId: o.volumes[name].Id, Initiator: "*"})
	return err
}

// load writes and reads a little, all the time.
func (o *observer) load(ctx context.Context) {
	buf, back := make([]byte, 4096), make([]byte, 4096)
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for i := uint64(0); ctx.Err() == nil; i++ {
		_, _ = rand.Read(buf[:64])
		at := i % 2048 * 4096
		if o.session.WriteAt(ctx, buf, at) == nil && o.session.ReadAt(ctx, back, at) == nil && !bytes.Equal(buf, back) {
			fmt.Println("WRONG DATA READ at", at)
			os.Exit(1)
		}
		o.written.Add(2)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
}

func (o *observer) status(ctx context.Context) (*storagedv1.ClusterStatus, error) {
	return o.c.Client.Cluster.GetStatus(ctx, &storagedv1.GetStatusRequest{})
}

func (o *observer) owner() string {
	v, err := o.c.Client.Volumes.GetVolume(context.Background(), &storagedv1.GetVolumeRequest{Id: o.volumes["data"].Id})
	if err != nil {
		return "n1"
	}
	return v.OwnerNode
}

func (o *observer) leader() string {
	if st, err := o.status(context.Background()); err == nil {
		return st.Leader
	}
	return "n1"
}

func (o *observer) followers() []string {
	leader := o.leader()
	var out []string
	for _, n := range o.c.Nodes {
		if n.Name != leader {
			out = append(out, n.Name)
		}
	}
	return out
}

// why is the answer of the command.
type why struct {
	State  string
	Causes []struct {
		Code, State, Reason string
		Object              struct{ Kind, Name string }
	}
}

func (w why) has(code, object string) bool {
	for _, c := range w.Causes {
		if c.Code == code && (object == "*" || c.Object.Name == object) {
			return true
		}
	}
	return false
}

func (o *observer) why(ctx context.Context) why {
	var metas []string
	for _, n := range o.c.Nodes {
		metas = append(metas, n.Address+":10100")
	}
	cmd := exec.CommandContext(ctx, o.storaged, "ctl", "--meta", strings.Join(metas, ","), "--tls-dir", filepath.Join(o.c.Dir, "tls", "admin"), "-o", "json",
		"why", "cluster", "--component", "redirect@local=http://"+redirectMetrics+"/healthz")
	out, _ := cmd.Output() // exit code 3: problems were found
	var w why
	if err := json.Unmarshal(out, &w); err != nil {
		w.State = "?"
	}
	return w
}

func (o *observer) last(ctx context.Context) string {
	w := o.why(ctx)
	return fmt.Sprintf("%s %v, alerts %v", w.State, w.Causes, firing(ctx))
}

// awaitOK waits until nothing is found and no alert fires.
func (o *observer) awaitOK(ctx context.Context) (time.Duration, bool) {
	begin := time.Now()
	var since time.Time
	_, ok := await(ctx, mendWithin, func() bool {
		w := o.why(ctx)
		if w.State != "OK" || len(w.Causes) > 0 || len(alerts(ctx, "pending|firing")) > 0 {
			since = time.Time{}
			return false
		}
		if since.IsZero() {
			since = time.Now()
		}
		return time.Since(since) > okFor
	})
	if since.IsZero() {
		since = time.Now()
	}
	return since.Sub(begin), ok
}
