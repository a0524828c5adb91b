package ctl

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// verifyView is how far a verification is.
type verifyView struct {
	head
	Volume         string     `json:"volume"`
	State          string     `json:"state"`
	Node           string     `json:"node"`
	Extents        uint32     `json:"extents"`
	ExtentsDone    uint32     `json:"extentsDone"`
	ExtentsPassed  uint32     `json:"extentsPassed"`
	BytesRead      uint64     `json:"bytesRead"`
	BlocksBad      uint64     `json:"blocksBad"`
	BlocksRepaired uint64     `json:"blocksRepaired"`
	BlocksLost     uint64     `json:"blocksLost"`
	ReplicasBehind uint32     `json:"replicasBehind"`
	Started        *time.Time `json:"started,omitempty"`
	Ended          *time.Time `json:"ended,omitempty"`
}

func (v *verifyView) problems() bool {
	return v.BlocksBad > 0 || v.BlocksLost > 0 || v.ReplicasBehind > 0 || v.ExtentsPassed > 0
}

func (v *verifyView) table(w io.Writer) {
	pairs(w, "Volume", v.Volume, "State", v.State, "Owner", v.Node, "Extents", fmt.Sprintf("%d of %d read", v.ExtentsDone, v.Extents), "Read", bytesText(v.BytesRead)+" on all replicas",
		"Bad blocks", fmt.Sprintf("%d, of which %d repaired and %d without a good copy", v.BlocksBad, v.BlocksRepaired, v.BlocksLost),
		"Replicas behind", fmt.Sprint(v.ReplicasBehind), "Passed over", fmt.Sprintf("%d extents, whose replicas are not all there", v.ExtentsPassed))
}

func (a *app) volumeVerify() *cobra.Command {
	var start, progress bool
	cmd := &cobra.Command{
		Use: "verify VOLUME", Short: "Read all replicas of a volume once, verify and compare them, repair what is bad", Args: exactly(1),
		Long: `Read all replicas of a volume once while it is in use: every checksum is verified and the replicas are compared. Bad blocks are written anew from a good
replica. Exit code 3 when something was found. It goes on when the command is interrupted; the same command waits for it again.`,
	}
	cmd.Flags().BoolVar(&start, "start", false, "only begin")
	cmd.Flags().BoolVar(&progress, "progress", false, "only say how far it is")
	cmd.MarkFlagsMutuallyExclusive("start", "progress")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ask := func(begin bool) (v *verifyView, err error) {
			err = a.run(cmd, "verify volume "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
				vol, err := find(ctx, vc, args[0], false)
				if err != nil {
					return err
				}
				r, err := vc.VerifyVolume(ctx, &storagedv1.VerifyVolumeRequest{Id: vol.GetId(), Start: begin})
				if err != nil {
					return err
				}
				v = &verifyView{
					head: kind("Verification"), Volume: vol.GetName(), State: r.GetState(), Node: r.GetNode(), Extents: r.GetExtents(), ExtentsDone: r.GetExtentsDone(),
					ExtentsPassed: r.GetExtentsPassed(), BytesRead: r.GetBytesRead(), BlocksBad: r.GetBlocksBad(), BlocksRepaired: r.GetBlocksRepaired(),
					BlocksLost: r.GetBlocksLost(), ReplicasBehind: r.GetReplicasBehind(), Started: timeOf(r.GetStarted()), Ended: timeOf(r.GetEnded()),
				}
				return nil
			})
			return v, err
		}
		v, err := ask(!progress)
		for err == nil && !start && !progress && v.State != "Done" {
			select {
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			case <-time.After(time.Second):
			}
			// An owner that took over meanwhile knows of none: it begins anew.
			v, err = ask(v.State == "None")
		}
		if err != nil {
			return err
		}
		if err := a.print(cmd.OutOrStdout(), v, v.table); err != nil {
			return err
		}
		if v.State == "Done" && v.problems() {
			return &Error{code: exitProblems, msg: "volume " + v.Volume + " was not found as it should be"}
		}
		return nil
	}
	return cmd
}
