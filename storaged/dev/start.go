package dev

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/version"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/chunk"
	"github.com/iomesh/iomesh/storaged/meta"
	"github.com/iomesh/iomesh/storaged/redirect"
)

// daemon is one part of the cluster, as a function and as arguments of this program.
type daemon struct {
	name string
	run  func(context.Context, *slog.Logger) error
	args []string
}

func daemons(o Options, c Control) ([]daemon, error) {
	members, err := meta.ParseMembers(c.Members)
	if err != nil {
		return nil, err
	}
	cluster, err := block.ParseClusterID(c.ClusterID)
	if err != nil {
		return nil, err
	}
	metrics := func(address string) string {
		if address == "" {
			return "off"
		}
		return address
	}
	tls := func(r mtls.Role) string { return filepath.Join(o.Dir, "tls", string(r)) }
	out := []daemon{{
		name: "meta",
		run: func(ctx context.Context, log *slog.Logger) error {
			return meta.Run(ctx, meta.Options{Name: "m1", Members: members, DataDir: filepath.Join(o.Dir, "meta"), TLSDir: tls(mtls.RoleMeta),
				ClusterID: cluster, RepairDelay: o.RepairDelay, MetricsListen: metrics(c.MetaMetrics), Version: version.String(), Log: log})
		},
		args: []string{"meta", "--name", "m1", "--members", c.Members, "--data-dir", filepath.Join(o.Dir, "meta"), "--tls-dir", tls(mtls.RoleMeta),
			"--cluster-id", c.ClusterID, "--repair-delay", o.RepairDelay.String(), "--metrics-listen", metrics(c.MetaMetrics)},
	}}
	for _, n := range c.Nodes {
		disks := filepath.Join(o.Dir, "nodes", n.Name, "disks")
		out = append(out, daemon{
			name: "chunk-" + n.Name,
			run: func(ctx context.Context, log *slog.Logger) error {
				return chunk.Run(ctx, chunk.Options{Node: n.Name, DiskDir: disks, Meta: c.Meta, TLSDir: tls(mtls.RoleChunk), Advertise: "127.0.0.1",
					DataListen: n.Data, ISCSIListen: n.ISCSI, ControlListen: n.Control, MetricsListen: n.Metrics, Log: log})
			},
			args: []string{"chunk", "--node", n.Name, "--disk-dir", disks, "--meta", c.Meta[0], "--tls-dir", tls(mtls.RoleChunk), "--advertise", "127.0.0.1",
				"--data-listen", n.Data, "--iscsi-listen", n.ISCSI, "--control-listen", n.Control, "--metrics-listen", n.Metrics},
		})
	}
	out = append(out, daemon{
		name: "redirect",
		run: func(ctx context.Context, log *slog.Logger) error {
			return redirect.Run(ctx, redirect.DaemonOptions{Listen: c.Portal, Meta: c.Meta, TLSDir: tls(mtls.RoleNode), MetricsListen: metrics(c.RedirectMetrics), Log: log})
		},
		args: []string{"redirect", "--listen", c.Portal, "--meta", c.Meta[0], "--tls-dir", tls(mtls.RoleNode), "--metrics-listen", metrics(c.RedirectMetrics)},
	})
	return out, nil
}

// Start brings the cluster up and returns when all chunks with all disks are online. stop ends it and waits for all daemons.
func Start(ctx context.Context, o Options) (Control, func(), error) {
	c, err := prepare(o)
	if err != nil {
		return c, nil, err
	}
	list, err := daemons(o, c)
	if err != nil {
		return c, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	stop := func() {
		cancel(context.Canceled)
		wg.Wait()
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "logs"), 0o700); err != nil {
		return c, nil, err
	}
	for _, d := range list {
		log, err := os.OpenFile(filepath.Join(o.Dir, "logs", d.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			stop()
			return c, nil, err
		}
		// A daemon of its own serves its profiles beside its log. Names of Unix sockets are short (unix(7)).
		if socket := filepath.Join(o.Dir, "logs", d.name+".pprof"); len(socket) < 100 {
			d.args = append(d.args, "--pprof-socket", socket)
		}
		wg.Go(func() {
			defer log.Close()
			if o.Processes {
				supervise(ctx, d, log, o.RestartAfter)
				return
			}
			if err := d.run(ctx, slog.New(slog.NewJSONHandler(log, nil))); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", d.name, err))
			}
		})
	}
	if err := awaitOnline(ctx, o, c); err != nil {
		stop()
		return c, nil, fmt.Errorf("%w (logs: %s)", err, filepath.Join(o.Dir, "logs"))
	}
	return c, stop, nil
}

// supervise runs a daemon as a process, again after it died, until ctx ends.
func supervise(ctx context.Context, d daemon, log io.Writer, again time.Duration) {
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(log, "own program not found:", err)
		return
	}
	for ctx.Err() == nil {
		p, err := launch(exe, d.args, log)
		if err != nil {
			fmt.Fprintln(log, err)
			return
		}
		select {
		case err := <-p.exited:
			fmt.Fprintf(log, "%s ended: %v\n", d.name, err)
		case <-ctx.Done():
			p.terminate()
			return
		}
		if again == 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// awaitOnline polls the status until every chunk and disk is there.
func awaitOnline(ctx context.Context, o Options, c Control) error {
	src, err := mtls.Load(c.TLSDir)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(c.Meta[0], grpc.WithTransportCredentials(src.ClientCredentials(mtls.RoleMeta)))
	if err != nil {
		return err
	}
	defer conn.Close()
	cluster := storagedv1.NewClusterClient(conn)
	deadline := time.Now().Add(60 * time.Second)
	last := "no answer from meta"
	for time.Now().Before(deadline) {
		rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		st, err := cluster.GetStatus(rctx, &storagedv1.GetStatusRequest{})
		cancel()
		if err == nil {
			online, disks := 0, 0
			for _, n := range st.Nodes {
				if n.State == "Online" {
					online++
				}
			}
			for _, d := range st.Disks {
				if d.State == "Active" {
					disks++
				}
			}
			if online >= o.Chunks && disks >= o.Chunks*o.Disks {
				return awaitPortal(ctx, c.Portal)
			}
			last = fmt.Sprintf("%d of %d chunks and %d of %d disks online", online, o.Chunks, disks, o.Chunks*o.Disks)
		} else {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("the cluster is not up after 60 s: %s", last)
}

func awaitPortal(ctx context.Context, addr string) error {
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
