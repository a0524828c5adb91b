// Command iomesh-attach makes block devices of volumes on hosts whose kernel has no iSCSI initiator. See docs/csi.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	attachv1 "github.com/iomesh/iomesh/attach/api/v1"
	"github.com/iomesh/iomesh/attach/daemon"
	"github.com/iomesh/iomesh/attach/ioflusher"
	"github.com/iomesh/iomesh/attach/loop"
	"github.com/iomesh/iomesh/attach/session"
	"github.com/iomesh/iomesh/internal/version"
)

func main() {
	flusherErr := ioflusher.Enter() // first: it may start the process anew
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command(flusherErr).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "iomesh-attach:", err)
		os.Exit(1)
	}
}

func command(flusherErr error) *cobra.Command {
	var socket, dir, level string
	var drain time.Duration
	cmd := &cobra.Command{
		Use: "iomesh-attach", Short: "Block devices of volumes without a kernel initiator: FUSE file, loop device, own iSCSI initiator",
		Args: cobra.NoArgs, Version: version.String(), SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level: %w", err)
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
			if flusherErr != nil {
				log.Warn("running without IO_FLUSHER", "error", flusherErr)
			}
			return run(cmd.Context(), log, socket, dir, drain)
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "socket", "/run/iomesh/attach.sock", "unix socket to serve on")
	f.StringVar(&dir, "state-dir", "/run/iomesh/attach", "directory for mounts and records; shared with the node (Bidirectional), and has to vanish at a boot")
	f.DurationVar(&drain, "drain-timeout", 20*time.Second, "how long to flush and detach at the end")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func run(ctx context.Context, log *slog.Logger, socket, dir string, drain time.Duration) error {
	if err := loop.Supported(); err != nil {
		return err
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("the kernel's FUSE is missing (modprobe fuse): %w", err)
	}
	l, err := listen(socket)
	if err != nil {
		return err
	}
	d, err := daemon.New(ctx, daemon.Options{Dir: dir, Dialer: session.Dialer{Log: log}, Log: log})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(1 << 20))
	attachv1.RegisterAttacherServer(g, daemon.Server{Daemon: d})
	stop := context.AfterFunc(ctx, g.GracefulStop)
	defer stop()
	log.Info("serving", "socket", socket, "stateDir", dir, "version", version.String())
	if err := g.Serve(l); err != nil {
		return fmt.Errorf("serve on %s: %w", socket, err)
	}
	g.GracefulStop() // Serve returns when it begins; this, when the last call has ended
	// The node shuts down, or an administrator replaces us: what is in use cannot be kept, but what its users synced must be durable.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := d.Close(end); err != nil {
		log.Warn("ending while devices are in use: their I/O fails from now on", "error", err)
	}
	return nil
}

// listen makes the socket, for root only, in place of one that an earlier process left.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another attacher serves there", path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("listen on %s: the path exists and is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return l, nil
}
