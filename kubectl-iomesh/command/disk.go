package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) diskCommand() *cobra.Command {
	return group("disk", "Show the disks of all nodes and decide which are used", e.diskListCommand(), e.diskMapCommand(), e.diskReplaceCommand(), e.diskReleaseCommand())
}

func (e *Env) diskListCommand() *cobra.Command {
	var node string
	var eligible bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the disks of all nodes, and what speaks against using them", Args: noArgs,
		Example: "  kubectl iomesh disk list\n  kubectl iomesh disk list --node worker-1 -o wide\n  kubectl iomesh disk list --eligible -o name",
	}
	cmd.Flags().StringVar(&node, "node", "", "only disks of this node")
	cmd.Flags().BoolVar(&eligible, "eligible", false, "only disks that could be mapped now")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
		defer cancel()
		l, _, err := e.connect(ctx)
		if err != nil {
			return err
		}
		if _, err := l.Cluster(ctx); err != nil {
			return err
		}
		devices, err := l.ListDevices(ctx)
		if err != nil {
			return err
		}
		if node != "" && !slices.ContainsFunc(devices, func(d v1alpha1.BlockDevice) bool { return d.Spec.Node == node }) {
			return fault.Failed(nil, "does its agent run? see: kubectl iomesh status", "node %q has published no disks", node)
		}
		devices = slices.DeleteFunc(devices, func(d v1alpha1.BlockDevice) bool {
			return node != "" && d.Spec.Node != node || eligible && !d.Status.Eligible
		})
		slices.SortFunc(devices, func(a, b v1alpha1.BlockDevice) int {
			if c := strings.Compare(a.Spec.Node, b.Spec.Node); c != 0 {
				return c
			}
			if c := len(a.Spec.Path) - len(b.Spec.Path); c != 0 {
				return c
			}
			return strings.Compare(a.Spec.Path, b.Spec.Path)
		})
		return show(report.BuildDisks(devices))
	}
	return cmd
}
