package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/eligibility"
	"github.com/iomesh/iomesh/agent/host"
	"github.com/iomesh/iomesh/agent/inventory"
	"github.com/iomesh/iomesh/agent/keeper"
	"github.com/iomesh/iomesh/agent/server"
	"github.com/iomesh/iomesh/agent/smart"
	"github.com/iomesh/iomesh/agent/uevent"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/version"
)

// Options of the agent.
type Options struct {
	Node, Namespace string
	Cluster         string // name of the IOMeshCluster; "" = the oldest of the namespace
	StateDir        string // /var/lib/iomesh
	DiskDir         string // StateDir/disks
	Socket          string
	MetricsAddress  string // "" serves none
	MinDiskBytes    uint64
	MinLoopBytes    uint64
	RescanEvery     time.Duration
	Scanner         *blockdev.Scanner
	Machine         host.Machine
	Kube            *rest.Config
	Log             *slog.Logger
}

// roundGap keeps rounds apart when events come in bursts.
const roundGap = 300 * time.Millisecond

// Run works until ctx ends.
func Run(ctx context.Context, o Options) error {
	if o.Node == "" || o.Namespace == "" {
		return errors.New("name of the node and namespace are needed: set --node and --namespace (or NODE_NAME and POD_NAMESPACE)")
	}
	client, err := dynamic.NewForConfig(o.Kube)
	if err != nil {
		return fmt.Errorf("make Kubernetes client: %w", err)
	}
	kube := &inventory.Kube{Client: client, Node: o.Node, Namespace: o.Namespace, Name: o.Cluster}
	keep := keeper.New(keeper.Options{
		StateDir: filepath.Join(o.StateDir, "agent"), DiskDir: o.DiskDir, Devices: keeper.Machine{Scanner: o.Scanner}, Now: time.Now, Log: o.Log,
	})
	var attach atomic.Value
	attach.Store(v1alpha1.AttachAuto)
	kick := make(chan struct{}, 1)
	ask := func() {
		select {
		case kick <- struct{}{}:
		default:
		}
	}
	disks := smart.New(smart.Device, time.Now, o.Log, ask)
	inv := inventory.New(inventory.Options{
		Node: o.Node, Namespace: o.Namespace, API: kube, Scanner: o.Scanner, Keeper: keep, Now: time.Now, Log: o.Log,
		Smart:  disks,
		Policy: eligibility.Policy{MinDiskBytes: o.MinDiskBytes, MinLoopBytes: o.MinLoopBytes},
		Host: func(wish v1alpha1.AttachMode) v1alpha1.HostStatus {
			mode, reason := o.Machine.Attach(wish)
			attach.Store(mode)
			return v1alpha1.HostStatus{Attach: mode, AttachReason: reason, Addresses: host.Addresses(), AgentVersion: version.String()}
		},
	})
	srv := server.New(server.Options{
		Node: o.Node, Version: version.String(), Started: time.Now(), Snapshot: inv.Snapshot, Machine: o.Machine, StateDir: o.StateDir,
		Attach: func() v1alpha1.AttachMode {
			if mode := attach.Load().(v1alpha1.AttachMode); mode != v1alpha1.AttachAuto {
				return mode
			}
			mode, _ := o.Machine.Attach(v1alpha1.AttachAuto)
			return mode
		},
		DevPath: o.Scanner.DevPath, Now: time.Now,
	})

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Serve(ctx, o.Socket) })
	g.Go(func() error {
		if err := uevent.Listen(ctx, ask); err != nil {
			o.Log.Warn("kernel events cannot be heard; devices are found by the clock alone", "err", err)
		}
		return nil
	})
	g.Go(func() error { kube.Watch(ctx, ask); return nil })
	g.Go(func() error { disks.Run(ctx); return nil })
	g.Go(func() error { watchStatuses(ctx, o.DiskDir, ask); return nil })
	if o.MetricsAddress != "" {
		g.Go(func() error { return serveMetrics(ctx, o.MetricsAddress, inv.Snapshot) })
	}
	g.Go(func() error { rounds(ctx, o, inv, kick); return nil })
	return g.Wait()
}

// rounds makes a round at the start, when asked to, and by the clock.
func rounds(ctx context.Context, o Options, inv *inventory.Inventory, kick <-chan struct{}) {
	clock := time.NewTicker(o.RescanEvery)
	defer clock.Stop()
	last := ""
	for {
		err := inv.Round(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && err.Error() != last:
			last = err.Error()
			o.Log.Error("round failed; the next one follows", "err", err)
		case err == nil && last != "":
			last = ""
			o.Log.Info("rounds go through again")
		}
		select {
		case <-ctx.Done():
			return
		case <-clock.C:
		case <-kick:
			gap := time.NewTimer(roundGap)
			select {
			case <-ctx.Done():
				gap.Stop()
				return
			case <-gap.C:
			}
		}
	}
}

// watchStatuses asks for a round when a chunk has reported on a disk. The directory has a few files: looking at them each second is cheaper
// and simpler than following renames.
func watchStatuses(ctx context.Context, dir string, ask func()) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		var b strings.Builder
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // made with the first claim
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), ".status") {
				fmt.Fprintln(&b, e.Name(), info.ModTime().UnixNano(), info.Size())
			}
		}
		if now := b.String(); now != last {
			last = now
			ask()
		}
	}
}
