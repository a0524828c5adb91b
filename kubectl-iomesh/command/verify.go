package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) volumeVerifyCommand() *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "verify NAME", Short: "Read all replicas of a volume once, compare them, repair what is bad", Args: exactly(1, "the name or id of a volume"),
		Long: "Read all replicas of a volume once while it is in use: every checksum is verified and the replicas are compared. Bad blocks are written anew from\n" +
			"a good replica. It goes on when this command is interrupted; the same line waits for it again. Exit code 3 when something was found.",
		Example: "  kubectl iomesh volume verify pvc-0e9c…\n  kubectl iomesh volume verify pvc-0e9c… --wait=false",
	}
	cmd.Flags().BoolVar(&wait, "wait", true, "wait for the end")
	cmd.Flags().DurationVar(&timeout, "timeout", 24*time.Hour, "how long to wait")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return e.withCluster(cmd.Context(), func(ctx context.Context, l *link.Link, _ *v1alpha1.IOMeshCluster) error {
			v, err := l.Verify(ctx, args[0], true)
			if err != nil {
				return err
			}
			if !wait {
				e.say("Verification started. Follow it with the same command.")
				return show(report.BuildVerification(v))
			}
			err = e.await(ctx, timeout, func(ctx context.Context) (string, bool, error) {
				// A new owner knows nothing of what the one before had read.
				now, err := l.Verify(ctx, args[0], v.State == "None")
				if err != nil {
					return "", false, err
				}
				v = now
				return fmt.Sprintf("%d of %s read, %s, %d bad blocks", v.ExtentsDone, output.Count(v.Extents, "extent"), output.Bytes(v.BytesRead), v.BlocksBad), v.State == "Done", nil
			})
			if err != nil {
				return err
			}
			r := report.BuildVerification(v)
			if err := show(r); err != nil {
				return err
			}
			if r.Problems() {
				return fault.ErrProblems
			}
			return nil
		})
	}
	return cmd
}
