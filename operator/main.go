// Command iomesh-operator keeps an IOMesh cluster equal to its IOMeshCluster object.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "iomesh-operator",
		Short:         "Keeps an IOMesh cluster equal to its IOMeshCluster object",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	run := runCommand()
	root.Flags().AddFlagSet(run.Flags())
	root.RunE = run.RunE
	root.AddCommand(run, cleanHostCommand(), preDeleteCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "iomesh-operator:", err)
		os.Exit(1)
	}
}
