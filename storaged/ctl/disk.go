package ctl

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

type diskView struct {
	head
	ID             string     `json:"id"`
	Name           string     `json:"name"`
	Node           string     `json:"node"`
	State          string     `json:"state"`
	MountType      string     `json:"mountType"`
	Device         string     `json:"device,omitempty"`
	SizeBytes      uint64     `json:"sizeBytes"`
	UsedBytes      uint64     `json:"usedBytes"`
	Replicas       uint32     `json:"replicas"`
	IOErrors       uint64     `json:"ioErrors"`
	ChecksumErrors uint64     `json:"checksumErrors"`
	LastSeen       *time.Time `json:"lastSeen,omitempty"`
	Message        string     `json:"message,omitempty"`
}

func viewDisk(d *storagedv1.Disk) diskView {
	return diskView{
		head: kind("Disk"), ID: d.GetId(), Name: d.GetName(), Node: d.GetNode(), State: d.GetState(), MountType: d.GetMountType(), Device: d.GetDevice(),
		SizeBytes: d.GetSizeBytes(), UsedBytes: d.GetUsedBytes(), Replicas: d.GetReplicas(), IOErrors: d.GetIoErrors(), ChecksumErrors: d.GetChecksumErrors(),
		LastSeen: timeOf(d.GetLastSeen()), Message: d.GetMessage(),
	}
}

func diskTable(w io.Writer, views []diskView) {
	var rows [][]string
	for _, d := range views {
		rows = append(rows, []string{d.Node, d.Name, d.State, bytesText(d.SizeBytes), bytesText(d.UsedBytes), strconv.Itoa(int(d.Replicas)), fmt.Sprintf("%d/%d", d.IOErrors, d.ChecksumErrors), d.ID, d.Message})
	}
	columns(w, "NODE DISK STATE SIZE USED REPLICAS IO/CRC-ERRORS ID MESSAGE", rows)
}

// findDisk looks a disk up by id, by name, or by NODE/NAME.
func findDisk(ctx context.Context, cc storagedv1.ClusterClient, ref string) (*storagedv1.Disk, error) {
	resp, err := cc.ListDisks(ctx, &storagedv1.ListDisksRequest{})
	if err != nil {
		return nil, err
	}
	var found []*storagedv1.Disk
	for _, d := range resp.GetDisks() {
		if d.GetId() == ref || d.GetName() == ref || d.GetNode()+"/"+d.GetName() == ref {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if _, err := uuid.Parse(ref); err == nil && len(ref) == 36 {
			return &storagedv1.Disk{Id: ref, Name: ref}, nil // may be removed already, which is no error
		}
		return nil, &Error{code: exitFailed, msg: fmt.Sprintf("disk %s does not exist; `storaged ctl disk list` shows all", ref)}
	}
	return nil, usage("%d disks are called %s; give NODE/NAME or the id from `storaged ctl disk list`", len(found), ref)
}

func (a *app) diskCommand() *cobra.Command {
	var node string
	list := &cobra.Command{Use: "list", Short: "List disks", Args: exactly(0), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.run(cmd, "list disks", func(ctx context.Context, _ storagedv1.VolumesClient, cc storagedv1.ClusterClient) error {
			resp, err := cc.ListDisks(ctx, &storagedv1.ListDisksRequest{Node: node})
			if err != nil {
				return err
			}
			var views []diskView
			for _, d := range resp.GetDisks() {
				views = append(views, viewDisk(d))
			}
			return a.print(cmd.OutOrStdout(), newList("DiskList", views), func(w io.Writer) { diskTable(w, views) })
		})
	}}
	list.Flags().StringVar(&node, "node", "", "only of this node")
	var cancel bool
	drain := &cobra.Command{Use: "drain DISK", Short: "Move every copy off a disk: ID, NAME, or NODE/NAME", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.run(cmd, "drain disk "+args[0], func(ctx context.Context, _ storagedv1.VolumesClient, cc storagedv1.ClusterClient) error {
			d, err := findDisk(ctx, cc, args[0])
			if err != nil {
				return err
			}
			if d, err = cc.DrainDisk(ctx, &storagedv1.DrainDiskRequest{Id: d.GetId(), Cancel: cancel}); err != nil {
				return err
			}
			view := viewDisk(d)
			return a.print(cmd.OutOrStdout(), view, func(w io.Writer) { diskTable(w, []diskView{view}) })
		})
	}}
	drain.Flags().BoolVar(&cancel, "cancel", false, "stop draining and use the disk again")
	remove := &cobra.Command{Use: "remove DISK", Short: "Forget a drained or dead disk", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.run(cmd, "remove disk "+args[0], func(ctx context.Context, _ storagedv1.VolumesClient, cc storagedv1.ClusterClient) error {
			d, err := findDisk(ctx, cc, args[0])
			if err != nil {
				return err
			}
			if _, err := cc.RemoveDisk(ctx, &storagedv1.RemoveDiskRequest{Id: d.GetId()}); err != nil {
				return err
			}
			return a.done(cmd, "Disk", d.GetId(), d.GetName(), "removed")
		})
	}}
	return group("disk", "List, drain and remove disks", list, drain, remove)
}
