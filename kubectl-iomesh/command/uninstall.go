package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/release"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) uninstallCommand() *cobra.Command {
	var name, confirm string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "uninstall", Short: "Remove IOMesh; refuses while volumes exist", Args: noArgs,
		Long: "Remove IOMesh. While volumes exist this refuses and lists them: delete their PersistentVolumeClaims first. Disks are released and\n" +
			"erased as spec.reclaimPolicy says. Interrupted, it goes on when it is run again.",
		Example: "  kubectl iomesh uninstall\n  kubectl iomesh uninstall --confirm iomesh",
	}
	f := cmd.Flags()
	f.StringVar(&name, "release", release.NameDefault, "name of the Helm release")
	f.StringVar(&confirm, "confirm", "", "name of the release: confirms without asking")
	f.DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait for the disks to be released")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		l, _, err := e.connect(ctx)
		if err != nil {
			return err
		}
		c, err := l.Cluster(ctx)
		if err != nil && !errors.Is(err, link.ErrNotInstalled) {
			return err
		}
		if c != nil {
			if err := e.refuseVolumes(ctx, l, c); err != nil {
				return err
			}
		}
		h, err := e.helm(l, name)
		if err != nil {
			return err
		}
		rel, err := h.Current()
		if err != nil {
			return err
		}
		left, err := leftLeases(ctx, l, h)
		if err != nil {
			return err
		}
		if rel == nil && c == nil && len(left) == 0 {
			e.say("Nothing to do: there is neither a Helm release %s nor an IOMeshCluster in namespace %s.", name, l.Namespace)
			return nil
		}
		if err := e.confirmed(name, confirm, fmt.Sprintf("Remove IOMesh from namespace %s and release its disks?", l.Namespace)); err != nil {
			return err
		}
		err = h.Uninstall(ctx, timeout, func(ctx context.Context) error {
			if c != nil {
				if err := e.deleteCluster(ctx, l, c, timeout); err != nil {
					return err
				}
			}
			if rel != nil {
				e.say("Removing Helm release %s", name)
			}
			return nil
		})
		if err != nil {
			if f := (*fault.Error)(nil); errors.As(err, &f) || errors.Is(err, context.Canceled) {
				return err
			}
			return fault.Failed(err, "run it again when the cause is gone", "remove Helm release %s", name)
		}
		if err := removeLeases(ctx, l); err != nil {
			return err
		}
		e.say("IOMesh is removed. Its kinds (CRDs) stay, because removing them would remove objects of other installations too.")
		return nil
	}
	return cmd
}

// leases are those by which the controller's programs agree on who works. No chart owns them.
var leases = []string{
	"iomesh-operator", "com-iomesh-csi-driver", "external-attacher-leader-com-iomesh-csi-driver", "external-resizer-com-iomesh-csi-driver",
	"external-snapshotter-leader-com-iomesh-csi-driver", "snapshot-controller-leader",
}

// leftLeases names those leases that exist, and the one by which runs of the plugin agree.
func leftLeases(ctx context.Context, l *link.Link, h *release.Helm) ([]string, error) {
	list, err := l.Core.CoordinationV1().Leases(l.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fault.API(err, "list Leases in namespace %s", l.Namespace)
	}
	var out []string
	for _, x := range list.Items {
		if x.Name == h.LeaseName() || slices.Contains(leases, x.Name) {
			out = append(out, x.Name)
		}
	}
	return out, nil
}

func removeLeases(ctx context.Context, l *link.Link) error {
	for _, name := range leases {
		err := l.Core.CoordinationV1().Leases(l.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fault.API(err, "delete Lease %s in namespace %s", name, l.Namespace)
		}
	}
	return nil
}

// refuseVolumes is an error that lists the volumes, and one when it cannot be known whether there are any.
func (e *Env) refuseVolumes(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster) error {
	if c.DeletionTimestamp != nil || len(c.Status.AttachedDevices) == 0 {
		return nil // under way, or without a disk there never was a volume
	}
	volumes, err := l.Volumes(ctx)
	if err != nil {
		return fault.Failed(err, "bring the metadata members back, so that they can say whether volumes exist", "cannot find out whether volumes exist")
	}
	if len(volumes) == 0 {
		return nil
	}
	pvs, err := l.Core.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fault.API(err, "list PersistentVolumes")
	}
	list := report.BuildVolumes(volumes, pvs.Items)
	var names []string
	for _, v := range list.Items {
		text := v.Name
		if v.PVC != "" {
			text += " (" + v.PVC + ")"
		}
		names = append(names, text)
	}
	slices.Sort(names)
	if len(names) > 20 {
		names = append(names[:20], fmt.Sprintf("and %d more", len(names)-20))
	}
	return fault.Failed(nil, "delete their PersistentVolumeClaims first", "refused: volumes exist (%d): %s", len(volumes), strings.Join(names, ", "))
}

// deleteCluster deletes the object and follows the operator's work until it is gone. Without an operator it could never go, so its absence is told.
func (e *Env) deleteCluster(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster, timeout time.Duration) error {
	if managedBy(c).gitops != "" {
		return fault.Failed(nil, "remove it there", "cluster %s is managed by %s and would come back", c.Name, managedBy(c).gitops)
	}
	if c.DeletionTimestamp == nil {
		e.say("Deleting cluster %s", c.Name)
		if err := l.Clusters().Delete(ctx, c.Name, metav1.DeleteOptions{}); err != nil {
			return fault.API(err, "delete IOMeshCluster %s", c.Name)
		}
	}
	return e.await(ctx, timeout, func(ctx context.Context) (string, bool, error) {
		list, err := l.Clusters().List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", false, err
		}
		if len(list.Items) == 0 {
			return "cluster is gone", true, nil
		}
		now, err := l.Cluster(ctx)
		if err != nil {
			return "", false, err
		}
		text := "cluster " + now.Name + " is being deleted"
		if now.Status.TaskInProcess != "" {
			text += ": " + now.Status.TaskInProcess
		} else if p := condition(now, v1alpha1.ConditionProgressing); p.Message != "" {
			text += ": " + p.Message
		}
		pods, err := l.Pods(ctx, "controller")
		if err == nil && len(pods) == 0 {
			text += "; no operator runs to do it: start it again (helm rollback), or remove the finalizer by hand"
		}
		return text, false, nil
	})
}
