package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/diskmap"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/release"
)

// exchange is a change that takes disks out.
type exchange struct {
	out      []string // names, or NODE:PATH
	in       string   // takes the place of the first of them, "" for none
	object   string   // confirmed by its name
	question string
	dryRun   string
	confirm  string
	wait     bool
	timeout  time.Duration
	// after is done once the plan is applied, or was before; may be nil.
	after func() error
}

func (x *exchange) flags(cmd *cobra.Command, confirm string) {
	f := cmd.Flags()
	f.StringVar(&x.dryRun, "dry-run", "none", "none, client or server: print what would be applied")
	f.StringVar(&x.confirm, "confirm", "", confirm+": confirms the plan without asking")
	f.BoolVar(&x.wait, "wait", true, "wait until it is done and every volume has all its replicas")
	f.DurationVar(&x.timeout, "timeout", 2*time.Hour, "how long to wait")
}

func (e *Env) diskReleaseCommand() *cobra.Command {
	var x exchange
	cmd := &cobra.Command{
		Use: "release DISK…", Short: "Take disks out of the cluster: their data moves to others, then they are erased",
		Long: "Take disks out of the cluster. The plan is shown first and carried out after confirmation: the disks are excluded from the device map, the\n" +
			"block service makes their replicas elsewhere, and only then they are given back and erased (as spec.reclaimPolicy says). A disk that is dead\n" +
			"already is released in the same way: its replicas are made from the others. Interrupted, it goes on by itself; the same command waits for it again.",
		Example: "  kubectl iomesh disk release bd-0f3a…\n  kubectl iomesh disk release worker-2:/dev/sdc --confirm iomesh",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fault.Usage("%s needs the names of disks, or NODE:PATH", cmd.CommandPath())
			}
			return nil
		},
	}
	x.flags(cmd, "name of the cluster")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		x.out = args
		return e.withCluster(cmd.Context(), func(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster) error {
			x.object, x.question = c.Name, fmt.Sprintf("Release %s of cluster %s?", strings.Join(args, ", "), c.Name)
			return e.exchangeDisks(ctx, l, c, x, show)
		})
	}
	return cmd
}

func (e *Env) diskReplaceCommand() *cobra.Command {
	var x exchange
	cmd := &cobra.Command{
		Use: "replace DISK", Short: "Put a new disk in the place of an old or dead one", Args: exactly(1, "the name of the old disk, or NODE:PATH"),
		Long: "Put a new disk in the place of an old or dead one: the new disk is taken into the cluster, the replicas of the old one are made elsewhere (from\n" +
			"the other replicas, if it is dead), and the old one is released. Without --with, the new disk is the only eligible one on the same node that is\n" +
			"not smaller. It is done when every volume has all its replicas again.",
		Example: "  kubectl iomesh disk replace bd-0f3a…\n  kubectl iomesh disk replace worker-2:/dev/sdc --with worker-2:/dev/sdd --confirm iomesh",
	}
	cmd.Flags().StringVar(&x.in, "with", "", "the new disk: a name, or NODE:PATH")
	x.flags(cmd, "name of the cluster")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		x.out = args
		return e.withCluster(cmd.Context(), func(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster) error {
			if x.in == "" {
				devices, err := l.ListDevices(ctx)
				if err != nil {
					return err
				}
				if x.in, err = diskmap.Substitute(c, devices, args[0]); err != nil {
					return fault.Failed(nil, "", "%v", err)
				}
			}
			x.object, x.question = c.Name, fmt.Sprintf("Replace %s by %s in cluster %s?", args[0], x.in, c.Name)
			return e.exchangeDisks(ctx, l, c, x, show)
		})
	}
	return cmd
}

// withCluster connects and finds the cluster.
func (e *Env) withCluster(ctx context.Context, f func(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster) error) error {
	l, _, err := e.connect(ctx)
	if err != nil {
		return err
	}
	c, err := l.Cluster(ctx)
	if err != nil {
		return err
	}
	return f(ctx, l, c)
}

// exchangeDisks plans and carries out an exchange.
func (e *Env) exchangeDisks(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster, x exchange, show func(output.Value) error) error {
	dry, err := release.ParseDryRun(x.dryRun)
	if err != nil {
		return err
	}
	devices, err := l.ListDevices(ctx)
	if err != nil {
		return err
	}
	plan, err := diskmap.Exchange(c, devices, x.out, x.in)
	if err != nil {
		return fault.Failed(nil, "", "%v", err)
	}
	if x.in != "" {
		if err := plan.Replaces(devices, x.in, x.out[0]); err != nil {
			return err
		}
	}
	if dry != release.DryRunNone {
		return e.dryMap(ctx, l, c, plan, dry)
	}
	if len(plan.Releases) == 0 && len(plan.Takes) == 0 {
		e.say("Nothing to change: the disks are on their way out already, or out.")
	} else {
		if err := e.carryOut(ctx, l, c, plan, x.object, x.confirm, x.question, show); err != nil {
			return err
		}
		e.say("Device map of cluster %s applied.", c.Name)
	}
	if x.after != nil {
		if err := x.after(); err != nil {
			return err
		}
	}
	if !x.wait {
		e.say("Follow it with: kubectl iomesh status")
		return nil
	}
	// All that are asked for, also those that were on their way already.
	var leaving []string
	for _, name := range x.out {
		d, err := diskmap.Find(devices, name)
		if err != nil {
			return err
		}
		leaving = append(leaving, d.Name)
	}
	return e.waitReleased(ctx, l, leaving, plan, x.timeout)
}
