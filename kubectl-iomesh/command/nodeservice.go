package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) nodeMaintenanceCommand() *cobra.Command {
	var end, wait, dry bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "maintenance NODE", Short: "Prepare a node for a reboot or repair, or end that", Args: exactly(1, "the name of a node"),
		Long: "Prepare a node for a reboot or repair: its volumes move to other owners, and while it is away its replicas are waited for instead of being\n" +
			"made elsewhere. Data is not moved: volumes have a replica less while the node is away. --end ends it; then only missed writes are copied.\n" +
			"To take a node out for good: kubectl iomesh node drain, or node remove.",
		Example: "  kubectl iomesh node maintenance worker-2\n  kubectl iomesh node maintenance worker-2 --end",
	}
	f := cmd.Flags()
	f.BoolVar(&end, "end", false, "the node serves again")
	f.BoolVar(&wait, "wait", true, "wait until the node owns no volume, or with --end until every volume has all its replicas")
	f.DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait")
	f.BoolVar(&dry, "dry-run", false, "say what would be done")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return e.withCluster(cmd.Context(), func(ctx context.Context, l *link.Link, _ *v1alpha1.IOMeshCluster) error {
			st, n, err := storageNode(ctx, l, args[0])
			if err != nil {
				return err
			}
			if end {
				e.say("Node %s serves again; it gets what it missed.", n.GetName())
			} else {
				e.say("%s", output.Count(int(n.GetOwnedVolumes()), "volume")+" of node "+n.GetName()+" move to other owners; its replicas are waited for while it is away.")
				for _, other := range st.GetNodes() {
					if other.GetName() != n.GetName() && (other.GetState() != "Online" || other.GetMode() == "maintenance") {
						e.say("Mind: node %s is away or in maintenance too; volumes with replicas on both may stop.", other.GetName())
					}
				}
			}
			if dry {
				e.say("Nothing was changed.")
				return nil
			}
			verb := "maintenance"
			if end {
				verb = "active"
			}
			if _, err := l.Ctl(ctx, "node", verb, "--", n.GetName()); err != nil {
				return err
			}
			switch {
			case !wait:
				return nil
			case end:
				return e.waitRedundant(ctx, l, timeout)
			}
			return e.await(ctx, timeout, func(ctx context.Context) (string, bool, error) {
				_, n, err := storageNode(ctx, l, args[0])
				if err != nil {
					return "", false, err
				}
				return fmt.Sprintf("node %s owns %s", n.GetName(), output.Count(int(n.GetOwnedVolumes()), "volume")), n.GetOwnedVolumes() == 0, nil
			})
		})
	}
	return cmd
}

func (e *Env) nodeDrainCommand() *cobra.Command {
	var x exchange
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Move all data off a node and release its disks", Args: exactly(1, "the name of a node"),
		Long: "Move all data off a node and release its disks: every disk of it is excluded from the device map, its replicas are made on other nodes, then\n" +
			"the disks are erased. The node may be dead. This moves data; for a reboot use: kubectl iomesh node maintenance.",
		Example: "  kubectl iomesh node drain worker-2\n  kubectl iomesh node drain worker-2 --confirm worker-2 --wait=false",
	}
	x.flags(cmd, "name of the node")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return e.withCluster(cmd.Context(), func(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster) error {
			var err error
			if x.out, err = disksOf(ctx, l, c, args[0]); err != nil {
				return err
			}
			if len(x.out) == 0 {
				return fault.Failed(nil, "see: kubectl iomesh disk list --node "+args[0], "node %s has no disk of cluster %s", args[0], c.Name)
			}
			x.object, x.question = args[0], fmt.Sprintf("Move all data off node %s?", args[0])
			return e.exchangeDisks(ctx, l, c, x, show)
		})
	}
	return cmd
}

func (e *Env) nodeRemoveCommand() *cobra.Command {
	var x exchange
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "Drain a node and take it out of the storage cluster", Args: exactly(1, "the name of a node"),
		Long: "Drain a node (kubectl iomesh node drain), end its storage service and forget it. Afterwards it can be deleted from Kubernetes. Any node can go,\n" +
			"in any order, also a dead one, as long as the others have room. A metadata member that it holds moves to another node: for that the node is\n" +
			"labelled " + v1alpha1.LabelLeaving + "=true, which stays until the node is deleted or the label is removed.",
		Example: "  kubectl iomesh node remove worker-2\n  kubectl iomesh node remove worker-2 --confirm worker-2",
	}
	x.flags(cmd, "name of the node")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		return e.withCluster(cmd.Context(), func(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster) error {
			member, err := e.memberOf(ctx, l, name)
			if err != nil {
				return err
			}
			if member != "" {
				e.say("The metadata member %s moves from node %s to another.", member, name)
			}
			if x.out, err = disksOf(ctx, l, c, name); err != nil {
				return err
			}
			start := e.Now()
			switch {
			case len(x.out) > 0:
				x.object, x.question = name, fmt.Sprintf("Move all data off node %s and remove it?", name)
				x.after = func() error { return markLeaving(ctx, l, name) }
				if err := e.exchangeDisks(ctx, l, c, x, show); err != nil || x.dryRun != "none" || !x.wait {
					return err
				}
			case member != "":
				if x.dryRun != "none" {
					return nil
				}
				if err := e.confirmed(name, x.confirm, fmt.Sprintf("Remove node %s?", name)); err != nil {
					return err
				}
				if err := markLeaving(ctx, l, name); err != nil || !x.wait {
					return err
				}
			default:
				if _, _, err := storageNode(ctx, l, name); err != nil {
					if !leaving(ctx, l, name) {
						return err
					}
					e.say("Node %s has been removed already.", name)
				}
			}
			err = e.await(ctx, x.timeout-e.Now().Sub(start), func(ctx context.Context) (string, bool, error) {
				pods, err := l.Pods(ctx, link.ComponentMeta)
				if err != nil {
					return "", false, err
				}
				here, ready := "", 0
				for i := range pods {
					switch {
					case pods[i].Spec.NodeName == name:
						here = pods[i].Name
					case link.Trouble(&pods[i]) == "":
						ready++
					}
				}
				cur, err := l.Cluster(ctx)
				if err != nil {
					return "", false, err
				}
				switch task := cur.Status.TaskInProcess; {
				case here != "":
					return fmt.Sprintf("the metadata member %s is still on node %s; %s", here, name, task), false, nil
				case ready < len(pods) || strings.Contains(task, "metadata member"):
					return fmt.Sprintf("%d of %d metadata members are ready elsewhere; %s", ready, len(pods), task), false, nil
				}
				return fmt.Sprintf("all %d metadata members are on other nodes", len(pods)), true, nil
			})
			if err != nil {
				return err
			}
			return e.await(ctx, x.timeout-e.Now().Sub(start), func(ctx context.Context) (string, bool, error) {
				st, err := l.StorageStatus(ctx)
				if err != nil {
					return "", false, err
				}
				for _, n := range st.GetNodes() {
					if n.GetName() == name {
						return fmt.Sprintf("node %s is %s and will be forgotten", name, n.GetState()), false, nil
					}
				}
				return "node " + name + " is no storage node any more", true, nil
			})
		})
	}
	return cmd
}

// memberOf is the metadata member on a node, "" if there is none. It is an error if no other node could take it.
func (e *Env) memberOf(ctx context.Context, l *link.Link, name string) (string, error) {
	pods, err := l.Pods(ctx, link.ComponentMeta)
	if err != nil {
		return "", err
	}
	member, taken := "", map[string]bool{name: true}
	for i := range pods {
		taken[pods[i].Spec.NodeName] = true
		if pods[i].Spec.NodeName == name {
			member = pods[i].Name
		}
	}
	if member == "" {
		return "", nil
	}
	nodes, err := l.Core.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fault.API(err, "list nodes")
	}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if !taken[n.Name] && report.NodeReady(n) == report.NodeIsReady && n.Labels[v1alpha1.LabelLeaving] != "true" {
			return member, nil
		}
	}
	return "", fault.Failed(nil, "add a node to Kubernetes first; to take only its disks out: kubectl iomesh node drain "+name,
		"node %s holds the metadata member %s, and no other node can take it", name, member)
}

// markLeaving labels a node, so that it holds no metadata member. A node that has left Kubernetes needs no label.
func markLeaving(ctx context.Context, l *link.Link, name string) error {
	err := mergePatch(ctx, l.Core.CoreV1().Nodes(), name, labelPatch(v1alpha1.LabelLeaving, "true"), nil)
	if err != nil && !apierrors.IsNotFound(err) {
		return fault.API(err, "label node %s", name)
	}
	return nil
}

// leaving reports whether a node was marked by markLeaving.
func leaving(ctx context.Context, l *link.Link, name string) bool {
	n, err := l.Core.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	return err == nil && n.Labels[v1alpha1.LabelLeaving] == "true"
}

// disksOf lists the disks of a node that the cluster holds, or that are on their way out.
func disksOf(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster, node string) ([]string, error) {
	devices, err := l.ListDevices(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range devices {
		d := &devices[i]
		if d.Spec.Node != node {
			continue
		}
		if cl := d.Spec.Claim; cl != nil && cl.ClusterRef.UID == string(c.UID) {
			out = append(out, d.Name)
		}
	}
	return out, nil
}

func storageNode(ctx context.Context, l *link.Link, name string) (*storagedv1.ClusterStatus, *storagedv1.Node, error) {
	st, err := l.StorageStatus(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range st.GetNodes() {
		if n.GetName() == name {
			return st, n, nil
		}
	}
	return nil, nil, fault.Failed(nil, "see: kubectl iomesh node list", "%q is no storage node", name)
}
