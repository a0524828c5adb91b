package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) nodeCommand() *cobra.Command {
	return group("node", "Show the storage nodes, prepare them, and take them out of service", e.nodeListCommand(), e.nodeMaintenanceCommand(), e.nodeDrainCommand(), e.nodeRemoveCommand(),
		e.nodePrepareCommand())
}

func (e *Env) nodeListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the storage nodes", Args: noArgs,
		Example: "  kubectl iomesh node list -o wide",
	}
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
		defer cancel()
		l, _, err := e.connect(ctx)
		if err != nil {
			return err
		}
		c, err := l.Cluster(ctx)
		if err != nil {
			return err
		}
		return show(report.BuildNodes(report.BuildStatus(e.facts(ctx, l, c))))
	}
	return cmd
}
