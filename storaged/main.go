// Command storaged is the block service: metadata, replicas and data path, iSCSI. One binary with a role per subcommand.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/internal/version"
	"github.com/iomesh/iomesh/storaged/ctl"
	"github.com/iomesh/iomesh/storaged/dev"
	"github.com/iomesh/iomesh/storaged/inspect"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal kills: a shutdown that hangs must not need kill -9.
	context.AfterFunc(ctx, stop)
	root := &cobra.Command{
		Use:           "storaged",
		Short:         "The block service of IOMesh",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(metaCommand(), chunkCommand(), redirectCommand(), dev.NewCommand(), dev.NewDemoCommand(), ctl.NewCommand(), inspect.NewCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "storaged:", err)
		os.Exit(exitCode(err))
	}
}

// exitCode is what an error asks for (2 usage, 3 problems found, 4 timed out), else 1.
func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	switch {
	case errors.As(err, &coded):
		return coded.ExitCode()
	case errors.Is(err, context.Canceled):
		return 130
	}
	return 1
}
