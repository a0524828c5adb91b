package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/rpc"
)

// app is what the commands share: how to reach the cluster, and how to print.
type app struct {
	dir, tlsDir, output string
	meta                []string
	timeout             time.Duration
	plain               bool
}

// NewCommand returns the command `ctl`.
func NewCommand() *cobra.Command {
	a := &app{}
	cmd := &cobra.Command{
		Use:   "ctl",
		Short: "Inspect and control a running cluster",
		Long: `Inspect and control a running cluster through its meta members.

Give either --dir, the directory of a development cluster (storaged dev), or --meta with --tls-dir.`,
		SilenceUsage: true,
		Args:         noSubcommand,
		RunE:         func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	f.StringVar(&a.dir, "dir", "", "directory of a development cluster; its control.json says how to reach it")
	f.StringSliceVar(&a.meta, "meta", nil, "control addresses of meta members: HOST:PORT,…")
	f.StringVar(&a.tlsDir, "tls-dir", "", "directory with ca.crt, tls.crt and tls.key of role admin")
	f.BoolVar(&a.plain, "insecure-plain", false, "talk to meta members that run without TLS (development only)")
	f.DurationVar(&a.timeout, "timeout", 60*time.Second, "how long a command may take")
	f.StringVarP(&a.output, "output", "o", "table", "table or json")
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%s: %v; see %s --help", c.CommandPath(), err, c.CommandPath())
	})
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "table" && a.output != "json" {
			return usage("--output %q: want table or json", a.output)
		}
		return nil
	}
	cmd.AddCommand(a.volumeCommand(), a.snapshotCommand(), a.nodeCommand(), a.diskCommand(), a.statusCommand(), a.whyCommand(), a.taskCommand(), a.metaCommand(), a.selftestCommand())
	return cmd
}

// noSubcommand refuses words that are no subcommand, which cobra would take for arguments.
func noSubcommand(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%s: there is no command %q; see %s --help", c.CommandPath(), args[0], c.CommandPath())
	}
	return nil
}

// group makes a command that only has subcommands.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: noSubcommand, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(sub...)
	return c
}

// exactly wants so many arguments, named in the usage line.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usage("%s: %d arguments given, want %d: %s; see --help", c.CommandPath(), len(args), n, c.UseLine())
		}
		return nil
	}
}

// control is DIR/control.json, as storaged dev writes it.
type control struct {
	Meta   []string `json:"meta"`
	TLSDir string   `json:"tlsDir"`
}

// client is the connection of one command.
type client struct {
	addresses []string
	conns     []*grpc.ClientConn
	tls       *mtls.Source // nil = plain
}

func (a *app) connect() (*client, error) {
	addresses, tlsDir := a.meta, a.tlsDir
	switch {
	case a.dir != "" && len(a.meta) > 0:
		return nil, usage("--dir and --meta: only one may be given")
	case a.dir != "":
		path := filepath.Join(a.dir, "control.json")
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &Error{code: exitFailed, err: err, msg: fmt.Sprintf("no development cluster in %s: %s does not exist; start one with: storaged dev --dir %s", a.dir, path, a.dir)}
		}
		if err != nil {
			return nil, &Error{code: exitFailed, err: err, msg: fmt.Sprintf("read %s: %v", path, err)}
		}
		var c control
		if err := json.Unmarshal(b, &c); err != nil || len(c.Meta) == 0 {
			return nil, &Error{code: exitFailed, err: err, msg: fmt.Sprintf("%s is not the control file of a development cluster: %v; start it anew with: storaged dev --dir %s", path, err, a.dir)}
		}
		addresses = c.Meta
		if tlsDir == "" {
			tlsDir = c.TLSDir
		}
		a.plain = a.plain || tlsDir == ""
	case len(a.meta) == 0:
		return nil, usage("no cluster given; use --dir DIR of a development cluster, or --meta HOST:PORT with --tls-dir DIR")
	}
	var creds credentials.TransportCredentials = insecure.NewCredentials()
	c := &client{addresses: addresses}
	if !a.plain {
		if tlsDir == "" {
			return nil, usage("--tls-dir is missing: it names the directory with ca.crt, tls.crt and tls.key of role admin")
		}
		src, err := mtls.Load(tlsDir)
		if err != nil {
			return nil, &Error{code: exitFailed, err: err, msg: fmt.Sprintf("credentials in %s: %v; --tls-dir must hold ca.crt, tls.crt and tls.key", tlsDir, err)}
		}
		c.tls, creds = src, src.ClientCredentials(mtls.RoleMeta)
	}
	for _, addr := range addresses {
		cc, err := rpc.Connect(strings.TrimSpace(addr), rpc.Options{Credentials: creds})
		if err != nil {
			c.close()
			return nil, usage("--meta %q: %v", addr, err)
		}
		c.conns = append(c.conns, cc)
	}
	return c, nil
}

// probeWait is how long members are waited for when one is chosen.
const probeWait = time.Second

// choose puts a member that answers and sees a leader first: one that is frozen accepts calls and never answers.
func (c *client) choose(ctx context.Context) {
	if len(c.conns) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	first := make(chan int, len(c.conns))
	var wg sync.WaitGroup
	for i, cc := range c.conns {
		wg.Go(func() {
			p, err := storagedv1.NewMetaPeerClient(cc).Probe(ctx, &storagedv1.ProbeRequest{})
			if err == nil && p.GetLeaderId() != 0 {
				first <- i
				cancel()
			}
		})
	}
	wg.Wait()
	select {
	case i := <-first:
		c.conns[0], c.conns[i] = c.conns[i], c.conns[0]
	default:
	}
}

func (c *client) close() {
	for _, cc := range c.conns {
		_ = cc.Close()
	}
}

// Invoke calls the first member that can be reached; the interface is idempotent, so a call may be repeated at the next.
func (c *client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	var err error
	for _, cc := range c.conns {
		if err = cc.Invoke(ctx, method, args, reply, opts...); err == nil || !unreachable(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// NewStream implements grpc.ClientConnInterface; no command streams.
func (c *client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.conns[0].NewStream(ctx, desc, method, opts...)
}

// unreachable tells a member that was not reached from one that answered "unavailable".
func unreachable(err error) bool {
	st := status.Convert(err)
	return st.Code() == codes.Unavailable && (strings.Contains(st.Message(), "connection error") || strings.Contains(st.Message(), "error reading") || strings.Contains(st.Message(), "transport"))
}

// run connects, calls f within the time-out, and explains its error as one of what.
func (a *app) run(cmd *cobra.Command, what string, f func(ctx context.Context, v storagedv1.VolumesClient, c storagedv1.ClusterClient) error) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	cl.choose(ctx)
	err = f(ctx, storagedv1.NewVolumesClient(cl), storagedv1.NewClusterClient(cl))
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	return explain(what, cl.addresses, err)
}
