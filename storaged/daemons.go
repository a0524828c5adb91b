package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/internal/calm"
	"github.com/iomesh/iomesh/internal/profiling"
	"github.com/iomesh/iomesh/internal/version"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/chunk"
	"github.com/iomesh/iomesh/storaged/meta"
	"github.com/iomesh/iomesh/storaged/redirect"
)

// logFlag adds what all daemons have, --log-level and --pprof-socket, and returns what makes the logger of a daemon, JSON on standard
// error, and serves its profiles.
func logFlag(cmd *cobra.Command) func() (*slog.Logger, error) {
	level := cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	socket := cmd.Flags().String("pprof-socket", "", "serve profiles (net/http/pprof) at this Unix socket")
	return func() (*slog.Logger, error) {
		var l slog.Level
		if err := l.UnmarshalText([]byte(*level)); err != nil {
			return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", *level)
		}
		v := new(slog.LevelVar)
		v.Set(l)
		switchOnSignal(cmd, v, l)
		log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: v}))
		return log, profiling.Serve(cmd.Context(), *socket, log)
	}
}

// switchOnSignal makes SIGUSR1 switch between debug and the level that was asked for, while the command runs.
func switchOnSignal(cmd *cobra.Command, v *slog.LevelVar, l slog.Level) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	go func() {
		defer signal.Stop(ch)
		for {
			select {
			case <-cmd.Context().Done():
				return
			case <-ch:
			}
			if v.Level() == slog.LevelDebug {
				v.Set(l)
			} else {
				v.Set(slog.LevelDebug)
			}
		}
	}()
}

func metaCommand() *cobra.Command {
	var o meta.Options
	var members, cluster string
	cmd := &cobra.Command{Use: "meta", Short: "Run a metadata member", Args: cobra.NoArgs}
	log := logFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "", "name of this member, one of --members")
	f.StringVar(&members, "members", "", "all members: NAME=HOST[:GRPC[:CLIENT[:PEER]]],… (default ports 10100, 10101, 10102)")
	f.StringVar(&o.DataDir, "data-dir", "/var/lib/iomesh/meta", "directory of the etcd member")
	f.StringVar(&o.TLSDir, "tls-dir", "/etc/iomesh/tls", "directory with ca.crt, tls.crt and tls.key of role meta")
	f.StringVar(&cluster, "cluster-id", "", "UUID of a new cluster; a random one by default")
	f.StringVar(&o.MetricsListen, "metrics-listen", "", "HOST:PORT of /metrics and /healthz (default the member's own host and port 10103; \"off\": none)")
	f.DurationVar(&o.RepairDelay, "repair-delay", 10*time.Minute, "how long the replicas of a node that is away are waited for before they are made elsewhere")
	f.DurationVar(&o.ErrorWindow, "error-window", 15*time.Minute, "how long an error of a disk or a refused login stays in the status after the last one")
	f.Float64Var(&o.OverProvisioning, "over-provisioning", 2, "provisioned bytes per usable byte up to which volumes are placed")
	f.Float64Var(&o.Reserve, "reserve", 0.05, "part of each disk that placement keeps free")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		slack := calm.Exec(calm.Slack)
		var err error
		if o.Log, err = log(); err != nil {
			return err
		}
		if slack != nil {
			o.Log.Info("the timers stay as they are, which costs processor time when idle", "error", slack)
		}
		go calm.New(false, o.Log).Run(cmd.Context())
		if o.Members, err = meta.ParseMembers(members); err != nil {
			return err
		}
		if cluster != "" {
			if o.ClusterID, err = block.ParseClusterID(cluster); err != nil {
				return err
			}
		}
		o.Version = version.String()
		if o.MetricsListen == "" {
			for _, m := range o.Members {
				if host, _, err := net.SplitHostPort(m.GRPC); err == nil && m.Name == o.Name {
					o.MetricsListen = net.JoinHostPort(host, strconv.Itoa(meta.DefaultMetricsPort))
				}
			}
		}
		return meta.Run(cmd.Context(), o)
	}
	cmd.AddCommand(restoreCommand())
	return cmd
}

func chunkCommand() *cobra.Command {
	var o chunk.Options
	var metas string
	cmd := &cobra.Command{Use: "chunk", Short: "Run the data server of a node", Args: cobra.NoArgs}
	log := logFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Node, "node", "", "name of this node")
	f.StringVar(&o.Zone, "zone", "", "zone of this node, for placement")
	f.StringVar(&o.DiskDir, "disk-dir", "/var/lib/iomesh/disks", "directory that lists this node's disks")
	f.StringVar(&metas, "meta", "", "gRPC addresses of the meta members: HOST:PORT,…")
	f.StringVar(&o.TLSDir, "tls-dir", "/etc/iomesh/tls", "directory with ca.crt, tls.crt and tls.key of role chunk")
	f.StringVar(&o.Advertise, "advertise", "", "address of this node on the storage network")
	f.StringVar(&o.ControlListen, "control-listen", "", "HOST:PORT of the control interface (default ADVERTISE:10200)")
	f.StringVar(&o.DataListen, "data-listen", "", "HOST:PORT of replica traffic (default ADVERTISE:10201)")
	f.StringVar(&o.ISCSIListen, "iscsi-listen", "", "HOST:PORT of the iSCSI target (default ADVERTISE:10202)")
	f.StringVar(&o.MetricsListen, "metrics-listen", "", "HOST:PORT of the metrics (default ADVERTISE:10203; \"off\": none)")
	f.BoolVar(&o.EncryptPayload, "encrypt-payload", false, "encrypt replica traffic, not only authenticate it; equal on all chunks")
	f.Int64Var(&o.ResyncBytesPerSecond, "resync-bytes-per-second", 400<<20, "limit of copying for resync and rebuild, which also make way for the clients' I/O")
	f.Int64Var(&o.ScrubBytesPerSecond, "scrub-bytes-per-second", 8<<20, "limit of what scrub reads, of all replicas of the volumes owned here; negative: no scrub")
	f.DurationVar(&o.ScrubEvery, "scrub-every", 24*time.Hour, "time from the beginning of one scrub of a volume to that of the next")
	f.StringVar(&o.BackupDir, "meta-backup-dir", "", `directory for backups of the metadata (default: meta-backups beside the disk directory; "off": none)`)
	f.DurationVar(&o.BackupEvery, "meta-backup-every", 10*time.Minute, "how often the metadata is backed up to this node")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		slack := calm.Exec(calm.Working)
		var err error
		if o.Log, err = log(); err != nil {
			return err
		}
		if slack != nil {
			o.Log.Info("the timers stay as they are, which costs processor time", "error", slack)
		}
		switch o.BackupDir {
		case "":
			o.BackupDir = filepath.Join(filepath.Dir(filepath.Clean(o.DiskDir)), "meta-backups")
		case "off":
			o.BackupDir = ""
		}
		o.Meta = split(metas)
		for addr, port := range map[*string]string{&o.ControlListen: "10200", &o.DataListen: "10201", &o.ISCSIListen: "10202", &o.MetricsListen: "10203"} {
			if *addr == "" {
				*addr = net.JoinHostPort(o.Advertise, port)
			}
		}
		if o.MetricsListen == "off" {
			o.MetricsListen = ""
		}
		o.Calm = calm.New(true, o.Log)
		go o.Calm.Run(cmd.Context())
		return chunk.Run(cmd.Context(), o)
	}
	return cmd
}

func redirectCommand() *cobra.Command {
	var o redirect.DaemonOptions
	var metas string
	cmd := &cobra.Command{Use: "redirect", Short: "Answer iSCSI logins on a node with the owner's portal", Args: cobra.NoArgs}
	log := logFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Listen, "listen", "127.0.0.1:3260", "HOST:PORT initiators log in at")
	f.StringVar(&o.MetricsListen, "metrics-listen", "off", "HOST:PORT of /metrics and /healthz, for example :10303; \"off\": none")
	f.StringVar(&metas, "meta", "", "gRPC addresses of the meta members: HOST:PORT,…")
	f.StringVar(&o.TLSDir, "tls-dir", "/etc/iomesh/tls", "directory with ca.crt, tls.crt and tls.key of role node")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.Log, err = log(); err != nil {
			return err
		}
		o.Meta = split(metas)
		return redirect.Run(cmd.Context(), o)
	}
	return cmd
}

func split(list string) []string {
	var out []string
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}
