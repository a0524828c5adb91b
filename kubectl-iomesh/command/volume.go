package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) volumeCommand() *cobra.Command {
	return group("volume", "Show and verify volumes", e.volumeListCommand(), e.volumeDescribeCommand(), e.volumeVerifyCommand())
}

// volumes are asked for in the same way by both commands; PersistentVolumes only add names.
func (e *Env) withVolumes(ctx context.Context, f func(ctx context.Context, l *link.Link, pvs []corev1.PersistentVolume, unread []report.Unread) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l, _, err := e.connect(ctx)
	if err != nil {
		return err
	}
	if _, err := l.Cluster(ctx); err != nil {
		return err
	}
	var unread []report.Unread
	pvs := &corev1.PersistentVolumeList{}
	if list, err := l.Core.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{}); err != nil {
		unread = append(unread, report.Unread{What: "PersistentVolumes", Why: err.Error()})
	} else {
		pvs = list
	}
	return f(ctx, l, pvs.Items, unread)
}

func (e *Env) volumeListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List volumes and who uses them", Args: noArgs,
		Example: "  kubectl iomesh volume list\n  kubectl iomesh volume list -o jsonpath='{.items[*].iqn}'",
	}
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return e.withVolumes(cmd.Context(), func(ctx context.Context, l *link.Link, pvs []corev1.PersistentVolume, unread []report.Unread) error {
			volumes, err := l.Volumes(ctx)
			if err != nil {
				return err
			}
			list := report.BuildVolumes(volumes, pvs)
			list.Unread = unread
			return show(list)
		})
	}
	return cmd
}

func (e *Env) volumeDescribeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "describe NAME", Short: "Show everything about one volume: target, health, where its replicas are", Args: exactly(1, "the name or id of a volume"),
		Example: "  kubectl iomesh volume describe pvc-0e9c…",
	}
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return e.withVolumes(cmd.Context(), func(ctx context.Context, l *link.Link, pvs []corev1.PersistentVolume, unread []report.Unread) error {
			v, err := l.Volume(ctx, args[0])
			if err != nil {
				return err
			}
			return show(&report.VolumeDetail{Meta: output.Of("Volume"), Volume: report.BuildVolume(v, pvs), Unread: unread})
		})
	}
	return cmd
}
