package ctl

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

type nodeView struct {
	head
	Name         string     `json:"name"`
	Chunk        uint32     `json:"chunk"`
	State        string     `json:"state"`
	Mode         string     `json:"mode"`
	Zone         string     `json:"zone,omitempty"`
	PID          int32      `json:"pid"`
	Version      string     `json:"version"`
	ISCSI        string     `json:"iscsi"`
	Data         string     `json:"data"`
	Control      string     `json:"control"`
	OwnedVolumes uint32     `json:"ownedVolumes"`
	Sessions     uint32     `json:"sessions"`
	LastSeen     *time.Time `json:"lastSeen,omitempty"`
	Message      string     `json:"message,omitempty"`
}

func viewNode(n *storagedv1.Node) nodeView {
	return nodeView{
		head: kind("Node"), Name: n.GetName(), Chunk: n.GetChunk(), State: n.GetState(), Mode: n.GetMode(), Zone: n.GetZone(), PID: n.GetPid(), Version: n.GetVersion(),
		ISCSI: n.GetIscsiAddress(), Data: n.GetDataAddress(), Control: n.GetControlAddress(), OwnedVolumes: n.GetOwnedVolumes(), Sessions: n.GetSessions(),
		LastSeen: timeOf(n.GetLastSeen()), Message: n.GetMessage(),
	}
}

func nodeTable(w io.Writer, views []nodeView) {
	var rows [][]string
	for _, n := range views {
		rows = append(rows, []string{n.Name, n.State, n.Mode, n.Zone, strconv.Itoa(int(n.OwnedVolumes)), strconv.Itoa(int(n.Sessions)), n.ISCSI, strconv.Itoa(int(n.PID)), n.Version, n.Message})
	}
	columns(w, "NODE STATE MODE ZONE VOLUMES SESSIONS ISCSI PID VERSION MESSAGE", rows)
}

func (a *app) nodeCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List nodes", Args: exactly(0), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.run(cmd, "list nodes", func(ctx context.Context, _ storagedv1.VolumesClient, cc storagedv1.ClusterClient) error {
			resp, err := cc.ListNodes(ctx, &storagedv1.ListNodesRequest{})
			if err != nil {
				return err
			}
			var views []nodeView
			for _, n := range resp.GetNodes() {
				views = append(views, viewNode(n))
			}
			return a.print(cmd.OutOrStdout(), newList("NodeList", views), func(w io.Writer) { nodeTable(w, views) })
		})
	}}
	mode := func(mode, short string) *cobra.Command {
		return &cobra.Command{Use: mode + " NODE", Short: short, Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, "set node "+args[0]+" to "+mode, func(ctx context.Context, _ storagedv1.VolumesClient, cc storagedv1.ClusterClient) error {
				n, err := cc.SetNodeMode(ctx, &storagedv1.SetNodeModeRequest{Node: args[0], Mode: mode})
				if err != nil {
					return err
				}
				view := viewNode(n)
				return a.print(cmd.OutOrStdout(), view, func(w io.Writer) { nodeTable(w, []nodeView{view}) })
			})
		}}
	}
	remove := &cobra.Command{Use: "remove NODE", Short: "Forget a node that is stopped and has no disks", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.run(cmd, "remove node "+args[0], func(ctx context.Context, _ storagedv1.VolumesClient, cc storagedv1.ClusterClient) error {
			if _, err := cc.RemoveNode(ctx, &storagedv1.RemoveNodeRequest{Node: args[0]}); err != nil {
				return err
			}
			return a.done(cmd, "Node", "", args[0], "removed")
		})
	}}
	return group("node", "List nodes and set their mode", list, mode("maintenance", "Move volumes off a node and do not rebuild its copies while it is away"),
		mode("active", "End a node's maintenance"), remove)
}
