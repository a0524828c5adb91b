package ctl

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

type lossView struct {
	Extent     uint32   `json:"extent"`
	Recorded   uint32   `json:"recordedGeneration"`
	Generation uint32   `json:"generation"`
	Disk       string   `json:"disk"`
	Node       string   `json:"node"`
	Missing    []string `json:"missing"`
}

type acceptView struct {
	head
	Volume   string     `json:"volume"`
	Accepted bool       `json:"accepted"`
	Epoch    uint64     `json:"epoch"`
	Missing  []string   `json:"missingDisks"`
	Extents  []lossView `json:"extents"`
}

func (a *app) volumeAcceptLoss() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{
		Use:   "accept-loss VOLUME [--confirm VOLUME]",
		Short: "Let a volume serve from older replicas, because its newest are gone for good",
		Long: `Let a volume serve from older replicas, because its newest are gone for good.

Without --confirm it only says which extents would go on with what, and which disks may hold newer content. Writes that only those disks have are
given up: should they come back, they are overwritten. Bring the disks back instead if there is any way to.

It is also what lets a volume serve after "storaged meta restore" while disks are missing.`,
		Args: exactly(1),
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "name of the volume, to do it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.run(cmd, "accept loss of volume "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			v, err := find(ctx, vc, args[0], false)
			if err != nil {
				return err
			}
			if confirm != "" && confirm != v.GetName() {
				return usage("accept loss of volume %s: --confirm %q is not its name, %s", args[0], confirm, v.GetName())
			}
			r, err := vc.AcceptLoss(ctx, &storagedv1.AcceptLossRequest{Id: v.GetId(), Confirm: confirm})
			if err != nil {
				return err
			}
			view := acceptView{head: kind("AcceptedLoss"), Volume: v.GetName(), Accepted: r.GetAccepted(), Epoch: r.GetEpoch(), Missing: r.GetMissingDisks(), Extents: []lossView{}}
			for _, e := range r.GetExtents() {
				view.Extents = append(view.Extents, lossView{e.GetIndex(), e.GetRecordedGeneration(), e.GetGeneration(), e.GetDiskId(), e.GetNode(), e.GetMissing()})
			}
			return a.print(cmd.OutOrStdout(), view, view.table)
		})
	}
	return cmd
}

func (v acceptView) table(w io.Writer) {
	var rows [][]string
	for _, e := range v.Extents {
		rows = append(rows, []string{strconv.Itoa(int(e.Extent)), strconv.Itoa(int(e.Recorded)), strconv.Itoa(int(e.Generation)), e.Node, e.Disk, strings.Join(e.Missing, ",")})
	}
	if len(rows) > 0 {
		columns(w, "EXTENT RECORDED FOUND NODE DISK MISSING", rows)
		fmt.Fprintln(w)
	}
	if len(v.Missing) > 0 {
		fmt.Fprintln(w, "may hold newer content:", strings.Join(v.Missing, ", "))
	}
	if v.Accepted {
		fmt.Fprintf(w, "accepted: volume %s serves from what is left, in epoch above %d\n", v.Volume, v.Epoch)
		return
	}
	fmt.Fprintf(w, "nothing was changed; to do it: --confirm %s\n", v.Volume)
}
