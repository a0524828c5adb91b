package ctl

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

type snapshotView struct {
	head
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	VolumeID  string     `json:"volumeID"`
	Volume    string     `json:"volume,omitempty"`
	SizeBytes uint64     `json:"sizeBytes"`
	Ready     bool       `json:"ready"`
	Created   *time.Time `json:"created,omitempty"`
}

func viewSnapshot(s *storagedv1.Snapshot) snapshotView {
	return snapshotView{head: kind("Snapshot"), ID: s.GetId(), Name: s.GetName(), VolumeID: s.GetVolumeId(), SizeBytes: s.GetSizeBytes(), Ready: s.GetReady(), Created: timeOf(s.GetCreated())}
}

func (s *snapshotView) table(w io.Writer) {
	pairs(w, "Name", s.Name, "ID", s.ID, "Volume", orText(s.Volume, s.VolumeID), "Size", bytesText(s.SizeBytes), "Ready", strconv.FormatBool(s.Ready), "Created", timeText(s.Created))
}

func orText(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (a *app) snapshotCommand() *cobra.Command {
	var volume string
	list := &cobra.Command{Use: "list", Short: "List snapshots", Args: exactly(0), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.run(cmd, "list snapshots", func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			names := map[string]string{}
			req := &storagedv1.ListSnapshotsRequest{}
			if volume != "" {
				v, err := find(ctx, vc, volume, false)
				if err != nil {
					return err
				}
				req.VolumeId = v.GetId()
			}
			for token := ""; ; {
				page, err := vc.ListVolumes(ctx, &storagedv1.ListVolumesRequest{PageToken: token})
				if err != nil {
					return err
				}
				for _, v := range page.GetVolumes() {
					names[v.GetId()] = v.GetName()
				}
				if token = page.GetNextPageToken(); token == "" {
					break
				}
			}
			var views []snapshotView
			for {
				page, err := vc.ListSnapshots(ctx, req)
				if err != nil {
					return err
				}
				for _, s := range page.GetSnapshots() {
					v := viewSnapshot(s)
					v.Volume = names[v.VolumeID]
					views = append(views, v)
				}
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			sortedBy(views, func(v snapshotView) string { return v.Volume + "/" + v.Name })
			return a.print(cmd.OutOrStdout(), newList("SnapshotList", views), func(w io.Writer) {
				var rows [][]string
				for _, v := range views {
					rows = append(rows, []string{v.Volume, v.Name, bytesText(v.SizeBytes), strconv.FormatBool(v.Ready), timeText(v.Created), v.ID})
				}
				columns(w, "VOLUME NAME SIZE READY CREATED ID", rows)
			})
		})
	}}
	list.Flags().StringVar(&volume, "volume", "", "only of this volume")
	del := &cobra.Command{Use: "delete SNAPSHOT", Short: "Delete a snapshot: ID, NAME, or VOLUME/NAME", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.run(cmd, "delete snapshot "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			s, err := findSnapshot(ctx, vc, args[0])
			if err != nil {
				return err
			}
			if _, err := vc.DeleteSnapshot(ctx, &storagedv1.DeleteSnapshotRequest{Id: s.GetId()}); err != nil {
				return err
			}
			return a.done(cmd, "Snapshot", s.GetId(), s.GetName(), "deleted")
		})
	}}
	return group("snapshot", "List and delete snapshots", list, del)
}
