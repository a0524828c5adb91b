package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) statusCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "status", Short: "Show the state of the whole cluster, what is wrong and what to do about it", Args: noArgs,
		Long: "Show the state of the whole cluster, what is wrong and what to do about it.\n\n" +
			"What cannot be read is listed, and the rest is shown. Exit code 3 when there are problems.",
		Example: "  kubectl iomesh status\n  kubectl iomesh status -o wide\n  kubectl iomesh status -o jsonpath='{.health}'",
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for answers")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		l, _, err := e.connect(ctx)
		if err != nil {
			return err
		}
		c, err := l.Cluster(ctx)
		if err != nil {
			return err
		}
		s := report.BuildStatus(e.facts(ctx, l, c))
		if err := show(s); err != nil {
			return err
		}
		if s.Sick() {
			return fault.ErrProblems
		}
		return nil
	}
	return cmd
}

// facts reads everything that a status needs, and notes what cannot be read.
func (e *Env) facts(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster) report.Facts {
	f := report.Facts{Now: e.Now(), ClientVersion: clientVersion(), Cluster: c}
	unread := func(what string, err error) {
		if err != nil {
			f.Unread = append(f.Unread, report.Unread{What: what, Why: err.Error()})
		}
	}
	var err error
	f.Devices, err = l.ListDevices(ctx)
	unread("disks", err)
	f.Pods, err = l.Pods(ctx, "")
	unread("pods", err)
	var nodes *corev1.NodeList
	nodes, err = l.Core.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	unread("nodes", err)
	if err == nil {
		f.Nodes = nodes.Items
	}
	f.Data, err = l.StorageStatus(ctx)
	unread("block service", err)
	return f
}
