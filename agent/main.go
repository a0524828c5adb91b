// Command iomesh-agent finds, prepares, releases and watches the disks of one node and answers the plugin about it. See docs/agent.md.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/daemon"
	"github.com/iomesh/iomesh/agent/eligibility"
	"github.com/iomesh/iomesh/agent/host"
	"github.com/iomesh/iomesh/agent/server"
	"github.com/iomesh/iomesh/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "iomesh-agent:", err)
		os.Exit(1)
	}
}

const socketDefault = "/run/iomesh/agent.sock"

func command() *cobra.Command {
	var (
		o                               daemon.Options
		sysDir, devDir, udevDir, proc   string
		kubeconfig, minDisk, minLoop, l string
	)
	cmd := &cobra.Command{
		Use: "iomesh-agent", Short: "Finds, prepares, releases and watches the disks of one node", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true, Version: version.String(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.MinDiskBytes, err = parseBytes("min-disk-size", minDisk); err != nil {
				return err
			}
			if o.MinLoopBytes, err = parseBytes("min-loop-size", minLoop); err != nil {
				return err
			}
			var level slog.Level
			if err := level.UnmarshalText([]byte(l)); err != nil {
				return fmt.Errorf("--log-level: %w", err)
			}
			if o.Kube, err = kubeConfig(kubeconfig); err != nil {
				return err
			}
			if o.DiskDir == "" {
				o.DiskDir = filepath.Join(o.StateDir, "disks")
			}
			if o.RescanEvery < time.Second {
				return fmt.Errorf("--rescan: %s is less than 1s", o.RescanEvery)
			}
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("node", o.Node)
			o.Scanner = &blockdev.Scanner{SysDir: sysDir, DevDir: devDir, UdevDir: udevDir, ProcDir: proc, Node: o.Node}
			o.Machine = host.Machine{ProcDir: proc, SysDir: sysDir, DevDir: devDir}
			o.Log.Info("agent starts", "version", version.String(), "stateDir", o.StateDir)
			return daemon.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Node, "node", os.Getenv("NODE_NAME"), "name of this Kubernetes node (env NODE_NAME)")
	f.StringVar(&o.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace of the cluster and its BlockDevices (env POD_NAMESPACE)")
	f.StringVar(&o.Cluster, "cluster", "", "name of the IOMeshCluster (default: the oldest of the namespace)")
	f.StringVar(&o.StateDir, "state-dir", "/var/lib/iomesh", "directory of the machine for records of claims")
	f.StringVar(&o.DiskDir, "disk-dir", "", "disk directory, shared with the chunk (default <state-dir>/disks)")
	f.StringVar(&o.Socket, "socket", socketDefault, "unix socket to answer the plugin on")
	f.StringVar(&o.MetricsAddress, "metrics-address", ":10403", `address for /metrics and /healthz; "" for none`)
	f.StringVar(&minDisk, "min-disk-size", fmt.Sprint(eligibility.MinDiskBytesDefault), "smallest real disk that is eligible (bytes, or 60G, 64Gi)")
	f.StringVar(&minLoop, "min-loop-size", fmt.Sprint(eligibility.MinLoopBytesDefault), "smallest listed loop device that is eligible")
	f.DurationVar(&o.RescanEvery, "rescan", 30*time.Second, "look at all devices at least this often")
	f.StringVar(&sysDir, "sys-dir", "/sys", "the machine's sysfs")
	f.StringVar(&devDir, "dev-dir", "/dev", "the machine's devices")
	f.StringVar(&udevDir, "udev-dir", "/run/udev", "the machine's udev database; need not exist")
	f.StringVar(&proc, "proc-dir", "/proc", "the machine's proc (hostPID)")
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file, outside a cluster only")
	f.StringVar(&l, "log-level", "info", "debug, info, warn or error")
	cmd.AddCommand(dialCommand())
	return cmd
}

func dialCommand() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use: "dial", Short: "Join standard input and output to the agent's socket (used by the plugin through kubectl exec)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return server.Dial(socket, os.Stdin, os.Stdout) },
	}
	cmd.Flags().StringVar(&socket, "socket", socketDefault, "the agent's socket")
	return cmd
}

func kubeConfig(path string) (*rest.Config, error) {
	if path != "" {
		c, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig: %w", err)
		}
		return c, nil
	}
	c, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("find the Kubernetes API: %w (outside a pod give --kubeconfig)", err)
	}
	return c, nil
}
