package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/iomesh/iomesh/internal/version"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// Env is what all commands share.
type Env struct {
	Streams genericiooptions.IOStreams
	Flags   *genericclioptions.ConfigFlags
	Now     func() time.Time
	// Open makes the connection; replaced by tests.
	Open func() (*link.Link, error)

	holdPause func(context.Context) error // see release.Helm; replaced by tests

	color   string
	quiet   bool
	verbose bool
}

// New returns the root command.
func New(streams genericiooptions.IOStreams) *cobra.Command {
	e := &Env{Streams: streams, Flags: genericclioptions.NewConfigFlags(true), Now: time.Now}
	e.Open = func() (*link.Link, error) { return link.Open(e.Flags) }
	return e.root()
}

func (e *Env) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-iomesh",
		Short: "Install, inspect, repair and upgrade IOMesh, replicated block storage for Kubernetes",
		Long: "Install, inspect, repair and upgrade IOMesh, replicated block storage for Kubernetes.\n\n" +
			"Exit codes: 0 done, 1 failed, 2 wrong usage, 3 ran well and found problems, 4 a wait timed out, 130 interrupted.",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl iomesh"},
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noSubcommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch e.color {
			case "auto", "always", "never":
				return nil
			}
			return fault.Usage("--color=%s: use auto, always or never", e.color)
		},
	}
	root.SetIn(e.Streams.In)
	root.SetOut(e.Streams.Out)
	root.SetErr(e.Streams.ErrOut)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fault.Usage("%v", err) })
	f := root.PersistentFlags()
	e.Flags.AddFlags(f)
	f.StringVar(&e.color, "color", "auto", "auto, always or never; NO_COLOR is honoured")
	f.BoolVarP(&e.quiet, "quiet", "q", false, "no progress on standard error")
	f.BoolVarP(&e.verbose, "verbose", "v", false, "say more on standard error")
	root.AddCommand(e.installCommand(), e.upgradeCommand(), e.uninstallCommand(), e.statusCommand(), e.whyCommand(), e.bundleCommand(), e.checkCommand(),
		e.diskCommand(), e.nodeCommand(), e.volumeCommand(), e.versionCommand())
	return root
}

// Execute runs the command and returns its exit code. An error is one line on standard error.
func Execute(ctx context.Context, root *cobra.Command, errOut io.Writer) int {
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, fault.ErrProblems) {
		return fault.CodeProblems
	}
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		fmt.Fprintln(errOut, "interrupted")
		return fault.CodeInterrupted
	}
	fmt.Fprintln(errOut, "Error:", err)
	return fault.Code(err)
}

// noArgs and exactly are cobra's checks with the exit code of wrong usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fault.Usage("%s takes no argument, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fault.Usage("%s needs %s", cmd.CommandPath(), what)
		}
		return nil
	}
}

// noSubcommand refuses words that are no subcommand, which cobra would take for arguments.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fault.Usage("unknown command %q for %q", args[0], cmd.CommandPath())
	}
	return nil
}

// group is a command that only has subcommands.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: noSubcommand, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(sub...)
	return c
}

// say writes a line of progress.
func (e *Env) say(format string, args ...any) {
	if !e.quiet {
		fmt.Fprintf(e.Streams.ErrOut, format+"\n", args...)
	}
}

// printer adds -o to a command and returns what prints a value.
func (e *Env) printer(cmd *cobra.Command) func(output.Value) error {
	var o string
	cmd.Flags().StringVarP(&o, "output", "o", "table", "table, wide, json, yaml, name or jsonpath=TEMPLATE")
	// A bad -o must be told before anything is asked of a cluster.
	run := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if _, err := output.Parse(o); err != nil {
			return err
		}
		if run != nil {
			return run(cmd, args)
		}
		return nil
	}
	return func(v output.Value) error {
		f, err := output.Parse(o)
		if err != nil {
			return err
		}
		return f.Print(e.Streams.Out, v, e.colored())
	}
}

func (e *Env) colored() bool {
	switch e.color {
	case "always":
		return true
	case "never":
		return false
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(e.Streams.Out)
}

func isTerminal(s any) bool {
	f, ok := s.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// connect opens the link and makes the first contact.
func (e *Env) connect(ctx context.Context) (*link.Link, string, error) {
	l, err := e.Open()
	if err != nil {
		return nil, "", err
	}
	v, err := l.Reach(ctx)
	if err != nil {
		return nil, "", err
	}
	return l, v, nil
}

// log is where libraries log: nowhere, unless --verbose.
func (e *Env) log() slog.Handler {
	if !e.verbose {
		return slog.DiscardHandler
	}
	return slog.NewTextHandler(e.Streams.ErrOut, &slog.HandlerOptions{Level: slog.LevelInfo})
}

func clientVersion() string { return version.String() }
