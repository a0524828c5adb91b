// Command kubelab runs a real Kubernetes cluster on this machine and breaks it
// on demand. See package cluster and tests/kube/README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/tests/kube/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode()) // of a command run by exec; it has spoken for itself
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubelab:", err)
		os.Exit(1)
	}
}

// lab carries the global flags.
type lab struct{ dir, source string }

func (l *lab) open() (*cluster.Cluster, error) {
	start := time.Now()
	return cluster.Open(cluster.Options{Dir: l.dir, Source: l.source, Progress: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}})
}

func command() *cobra.Command {
	l := &lab{}
	root := &cobra.Command{
		Use:           "kubelab",
		Short:         "A real Kubernetes cluster on one machine, from Go modules and Debian packages",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&l.dir, "dir", cluster.DefaultDir, "work directory: absolute, short, for one cluster alone")
	root.PersistentFlags().StringVar(&l.source, "source", "", "tests/kube/tools of a checkout (default: of the one around the current directory)")
	root.AddCommand(l.upCommand(), l.downCommand(), l.buildCommand(), l.preflightCommand(), l.statusCommand(),
		l.addNodeCommand(), l.disksCommand(), l.imagesCommand(), l.execCommand(), l.kubectlCommand(), l.envCommand())
	for _, f := range []struct {
		use, short string
		do         func(*cluster.Cluster, context.Context, string) error
	}{
		{"poweroff", "Switch a node off without warning", (*cluster.Cluster).PowerOff},
		{"boot", "Switch a node on again and wait until it is Ready", (*cluster.Cluster).Boot},
		{"freeze", "Stop every process of a node", (*cluster.Cluster).Freeze},
		{"thaw", "Let a frozen node go on", (*cluster.Cluster).Thaw},
	} {
		root.AddCommand(l.nodeCommand(f.use, f.short, f.do))
	}
	root.AddCommand(l.cutCommand(), l.nodeCommand("heal", "Undo cut, of either kind", func(c *cluster.Cluster, ctx context.Context, node string) error {
		return errors.Join(c.HealNetwork(ctx, node), c.HealAPI(ctx, node))
	}))
	return root
}

// run wraps a function that needs the cluster.
func (l *lab) run(f func(*cobra.Command, *cluster.Cluster, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := l.open()
		if err != nil {
			return err
		}
		return f(cmd, c, args)
	}
}

func (l *lab) nodeCommand(use, short string, do func(*cluster.Cluster, context.Context, string) error) *cobra.Command {
	return &cobra.Command{Use: use + " NODE", Short: short, Args: cobra.ExactArgs(1),
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, args []string) error {
			return do(c, cmd.Context(), args[0])
		})}
}

func (l *lab) cutCommand() *cobra.Command {
	var apiOnly bool
	cmd := l.nodeCommand("cut", "Pull a node's network cable", func(c *cluster.Cluster, ctx context.Context, node string) error {
		if apiOnly {
			return c.CutAPI(ctx, node)
		}
		return c.CutNetwork(ctx, node)
	})
	cmd.Flags().BoolVar(&apiOnly, "api-only", false, "cut it from the API server only")
	return cmd
}

func (l *lab) upCommand() *cobra.Command {
	var nodes int
	cmd := &cobra.Command{Use: "up", Short: "Start a cluster, or resume one", Args: cobra.NoArgs,
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, _ []string) error {
			if err := c.Up(cmd.Context(), nodes); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "\nUse it:      %s kubectl get nodes\nor:          eval \"$(%s shell-env)\"; $KUBELAB kubectl get nodes\nTake it down: %s down --purge\n",
				l.self(), l.self(), l.self())
			return nil
		})}
	cmd.Flags().IntVar(&nodes, "nodes", 3, "number of nodes")
	return cmd
}

// self returns how to call this program for the same cluster.
func (l *lab) self() string {
	s := filepath.Base(os.Args[0])
	if l.dir != cluster.DefaultDir {
		s += " --dir " + l.dir
	}
	return s
}

func (l *lab) downCommand() *cobra.Command {
	var purge bool
	cmd := &cobra.Command{Use: "down", Short: "Stop the cluster; leaves nothing running or mounted", Args: cobra.NoArgs,
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, _ []string) error {
			return c.Down(cmd.Context(), purge)
		})}
	cmd.Flags().BoolVar(&purge, "purge", false, "remove the work directory with all data too")
	return cmd
}

func (l *lab) addNodeCommand() *cobra.Command {
	return &cobra.Command{Use: "add-node", Short: "Add a node; prints its name", Args: cobra.NoArgs,
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, _ []string) error {
			name, err := c.AddNode(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), name)
			return nil
		})}
}

func (l *lab) imagesCommand() *cobra.Command {
	images := &cobra.Command{Use: "images", Short: "Images on the nodes"}
	images.AddCommand(&cobra.Command{Use: "import TAR...", Short: "Give image archives to all nodes, also later ones", Args: cobra.MinimumNArgs(1),
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, args []string) error {
			for _, tar := range args {
				if err := c.ImportImage(cmd.Context(), tar); err != nil {
					return err
				}
			}
			return nil
		})})
	return images
}

func (l *lab) execCommand() *cobra.Command {
	return &cobra.Command{Use: "exec NODE -- COMMAND...", Short: "Run a command on a node", Args: cobra.MinimumNArgs(2),
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, args []string) error {
			p, err := c.Command(cmd.Context(), args[0], args[1:]...)
			if err != nil {
				return err
			}
			p.Stdin, p.Stdout, p.Stderr = os.Stdin, os.Stdout, os.Stderr
			return p.Run()
		})}
}

func (l *lab) kubectlCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "kubectl ARGS...", Short: "Run kubectl as the cluster's administrator",
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, args []string) error {
			bin, err := c.Bin()
			if err != nil {
				return err
			}
			argv := append(append(c.Enter(), filepath.Join(bin, "kubectl")), args...)
			p := exec.CommandContext(cmd.Context(), argv[0], argv[1:]...)
			p.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
			p.Stdin, p.Stdout, p.Stderr = os.Stdin, os.Stdout, os.Stderr
			return p.Run()
		})}
	cmd.Flags().SetInterspersed(false) // the flags after the first word are kubectl's
	return cmd
}

func (l *lab) envCommand() *cobra.Command {
	return &cobra.Command{Use: "shell-env", Short: "Print variables for a shell: KUBECONFIG, KUBELAB (prefix to run a program in the cluster's network), PATH", Args: cobra.NoArgs,
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, _ []string) error {
			bin, err := c.Bin()
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "export KUBECONFIG=%s\nexport KUBELAB_NETNS=%s\nexport KUBELAB='%s'\nexport PATH=\"%s:$PATH\"\n",
				c.Kubeconfig(), c.Network(), strings.Join(c.Enter(), " "), bin)
			return nil
		})}
}
