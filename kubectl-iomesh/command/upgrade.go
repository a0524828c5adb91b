package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/release"
)

func (e *Env) upgradeCommand() *cobra.Command {
	var v valueFlags
	var reset bool
	var m upgradeMode
	cmd := &cobra.Command{
		Use: "upgrade", Short: "Upgrade IOMesh to this plugin's version, or change its values", Args: noArgs,
		Long: "Upgrade the Helm release to the chart that this plugin contains. The values that were given before are kept, and those given now are\n" +
			"laid on top; --reset-values forgets the earlier ones. The operator then updates one node at a time, only while every volume keeps its\n" +
			"redundancy.\n\n" +
			"With --wait a terminal shows the progress on a screen, by whose keys the update is paused or rolled back; elsewhere it is lines. --watch\n" +
			"shows the update under way without starting one. --rollback returns to the chart and images of the Helm revision before, other\n" +
			"values stay; it is possible until new features of the disks or the wire are in use, which comes only when all nodes run the new version.",
		Example: "  kubectl iomesh upgrade --wait\n  kubectl iomesh upgrade --watch\n  kubectl iomesh upgrade --pause\n  kubectl iomesh upgrade --rollback --confirm iomesh\n  kubectl iomesh upgrade --set operator.replicaCount=1\n  kubectl iomesh upgrade --dry-run=server",
	}
	v.add(cmd)
	cmd.Flags().BoolVar(&reset, "reset-values", false, "forget the values that were given before")
	m.add(cmd)
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if m.only() {
			return e.steerUpgrade(ctx, m, v, show)
		}
		dry, err := release.ParseDryRun(v.dryRun)
		if err != nil {
			return err
		}
		values, err := v.values()
		if err != nil {
			return err
		}
		l, _, err := e.connect(ctx)
		if err != nil {
			return err
		}
		if !l.Given {
			// A release whose cluster is in another namespace is found by it; without a cluster the default namespace counts.
			if _, err := l.Cluster(ctx); err != nil && fault.Code(err) == fault.CodeUsage {
				return err
			}
		}
		h, err := e.helm(l, v.name)
		if err != nil {
			return err
		}
		rel, err := h.Current()
		if err != nil {
			return err
		}
		if rel == nil {
			return fault.Failed(nil, "install it with: kubectl iomesh install; or name it with -n and --release", "there is no Helm release %s in namespace %s", v.name, l.Namespace)
		}
		all := only(values)
		if !reset {
			all = func(now map[string]any) map[string]any { return release.Merge(now, values) }
		}
		if dry == release.DryRunNone {
			e.say("Upgrading Helm release %s in namespace %s: chart %s to %s", v.name, l.Namespace, rel.Chart.Metadata.Version, h.ChartVersion())
		}
		out, err := h.Upgrade(ctx, release.Change{Values: all, DryRun: dry, Timeout: v.timeout})
		if err != nil {
			return fault.Failed(err, "see: helm history -n "+l.Namespace+" "+v.name, "upgrade Helm release %s", v.name)
		}
		if dry != release.DryRunNone {
			fmt.Fprint(e.Streams.Out, release.Manifests(out))
			return nil
		}
		if !v.wait {
			e.say("Upgrade started. Follow it with: kubectl iomesh status")
			return nil
		}
		if err := e.followUpgrade(ctx, l, v); err != nil {
			return err
		}
		return e.waitReady(ctx, l, v.timeout)
	}
	return cmd
}
