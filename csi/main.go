// Command iomesh-csi is the CSI driver com.iomesh.csi-driver: `controller` beside the standard sidecars, `node` on every node that uses
// volumes. See docs/csi.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/iomesh/iomesh/csi/controller"
	"github.com/iomesh/iomesh/csi/crash"
	"github.com/iomesh/iomesh/csi/health"
	"github.com/iomesh/iomesh/csi/identity"
	"github.com/iomesh/iomesh/csi/meta"
	"github.com/iomesh/iomesh/csi/rpc"
	"github.com/iomesh/iomesh/internal/metrics"
	"github.com/iomesh/iomesh/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "iomesh-csi:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "iomesh-csi", Short: "CSI driver of IOMesh", Version: version.String(), SilenceUsage: true, SilenceErrors: true,
	}
	cmd.AddCommand(controllerCommand(), nodeCommand())
	return cmd
}

// common are the flags of both plugins.
type common struct {
	component, endpoint, endpointsDir, meta, tlsDir, health, level, driver string
}

func (c *common) register(cmd *cobra.Command, endpoint, health string) {
	c.component = "csi-" + cmd.Name()
	f := cmd.Flags()
	f.StringVar(&c.endpoint, "endpoint", endpoint, "unix socket to serve CSI on")
	f.StringVar(&c.endpointsDir, "endpoints-dir", "", "directory with the files meta (comma-separated host:port) and clusterID, read again when they change")
	f.StringVar(&c.meta, "meta", "", "comma-separated host:port of meta members, instead of --endpoints-dir")
	f.StringVar(&c.tlsDir, "tls-dir", "", "directory with ca.crt, tls.crt and tls.key; empty = no TLS, for development only")
	f.StringVar(&c.health, "health-listen", health, `address of /healthz and /metrics; "" for none`)
	f.StringVar(&c.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&c.driver, "driver-name", identity.DriverName, "name under which Kubernetes knows the driver")
}

// open checks the flags and connects.
func (c *common) open() (*slog.Logger, *meta.Client, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.level)); err != nil {
		return nil, nil, fmt.Errorf("--log-level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if (c.meta == "") == (c.endpointsDir == "") {
		return nil, nil, errors.New("give either --meta or --endpoints-dir")
	}
	var creds credentials.TransportCredentials
	if c.tlsDir == "" {
		log.Warn("no --tls-dir: talking to the block service without TLS")
		creds = insecure.NewCredentials()
	} else {
		creds = meta.NewCredentials(c.tlsDir)
	}
	client, err := meta.Dial(meta.Options{Endpoints: meta.Split(c.meta), EndpointsDir: c.endpointsDir, Credentials: creds, Log: log})
	if err != nil {
		return nil, nil, fmt.Errorf("--meta: %w", err)
	}
	return log, client, nil
}

// serve serves CSI and health until ctx ends, and what else is given.
func (c *common) serve(ctx context.Context, log *slog.Logger, register func(rpc.Server), also ...func(context.Context) error) error {
	s := rpc.New(log)
	csipb.RegisterIdentityServer(s, identity.Service{Name: c.driver})
	register(s)
	l, err := rpc.Listen(c.endpoint)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		stop := context.AfterFunc(ctx, s.GracefulStop)
		defer stop()
		return s.Serve(l)
	})
	if c.health != "" {
		reg := metrics.NewRegistry(c.component)
		reg.MustRegister(s.Collectors()...)
		g.Go(func() error { return health.Serve(ctx, c.health, l.Addr().String(), metrics.Handler(reg, nil)) })
	}
	for _, f := range also {
		g.Go(func() error { return f(ctx) })
	}
	log.Info("serving", "endpoint", c.endpoint, "version", version.String())
	return g.Wait()
}

func controllerCommand() *cobra.Command {
	var c common
	cmd := &cobra.Command{
		Use: "controller", Short: "Provisions, publishes, snapshots and expands volumes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, client, err := c.open()
			if err != nil {
				return err
			}
			defer client.Close()
			socketDir := filepath.Dir(strings.TrimPrefix(c.endpoint, "unix://")) // of the pod: outlives the container
			step, err := crash.At(os.Getenv(crash.Env), controller.Steps(), socketDir, os.Exit, log)
			if err != nil {
				return err
			}
			service := &controller.Service{Store: client, Pool: client.Cluster, ClusterID: client.ClusterID, Log: log, Step: step}
			return c.serve(cmd.Context(), log, func(s rpc.Server) { csipb.RegisterControllerServer(s, service) })
		},
	}
	c.register(cmd, "unix:///csi/csi.sock", ":9810")
	return cmd
}

// pluginDir is where kubelet keeps a driver's socket.
func pluginDir(kubeletDir, driver string) string { return filepath.Join(kubeletDir, "plugins", driver) }
