package ctl

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/quantity"
	health "github.com/iomesh/iomesh/internal/status"
)

type volumeView struct {
	head
	ID             string            `json:"id"`
	Name           string            `json:"name"`
	IQN            string            `json:"iqn"`
	LUN            uint32            `json:"lun"`
	Portals        []string          `json:"portals"`
	SizeBytes      uint64            `json:"sizeBytes"`
	Replicas       uint32            `json:"replicas"`
	MinReplicas    uint32            `json:"minReplicas"`
	Thin           bool              `json:"thin"`
	State          string            `json:"state"`
	Health         string            `json:"health"`
	Reason         string            `json:"reason,omitempty"`
	NextStep       string            `json:"nextStep,omitempty"`
	OwnerNode      string            `json:"ownerNode"`
	OwnerChunk     uint32            `json:"ownerChunk"`
	Epoch          uint64            `json:"epoch"`
	Extents        uint32            `json:"extents"`
	Degraded       uint32            `json:"extentsDegraded"`
	Unavailable    uint32            `json:"extentsUnavailable"`
	ResyncLeft     uint64            `json:"resyncBytesLeft"`
	ResyncDone     uint64            `json:"resyncBytesDone"`
	Allocated      uint64            `json:"allocatedBytes"`
	SnapshotBytes  uint64            `json:"snapshotBytes"`
	Sessions       uint32            `json:"sessions"`
	SourceVolume   string            `json:"sourceVolume,omitempty"`
	SourceSnapshot string            `json:"sourceSnapshot,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Created        *time.Time        `json:"created,omitempty"`
	AsOf           *time.Time        `json:"asOf,omitempty"`
	Grants         []grantView       `json:"grants"`
	ExtentList     []extentView      `json:"extentList,omitempty"`
}

type grantView struct {
	Initiator  string `json:"initiator"`
	Mode       string `json:"mode"`
	Node       string `json:"node,omitempty"`
	CHAPUser   string `json:"chapUser,omitempty"`
	CHAPSecret string `json:"chapSecret,omitempty"`
}

type extentView struct {
	Index      uint32       `json:"index"`
	Generation uint32       `json:"generation"`
	State      string       `json:"state,omitempty"`
	Members    []memberView `json:"members"`
	Absent     []memberView `json:"absent,omitempty"`
}

type memberView struct {
	Disk string `json:"disk"`
	Node string `json:"node"`
	Kind string `json:"kind"`
}

func healthText(h storagedv1.Health) string {
	s, known := health.Of(h)
	if !known {
		return "Unknown"
	}
	return s.Word()
}

var modes = map[string]storagedv1.AccessMode{
	"exclusive": storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE, "shared": storagedv1.AccessMode_ACCESS_MODE_SHARED, "readonly": storagedv1.AccessMode_ACCESS_MODE_READ_ONLY,
}

func modeText(m storagedv1.AccessMode) string {
	for k, v := range modes {
		if v == m {
			return k
		}
	}
	return m.String()
}

func viewGrant(g *storagedv1.Grant) grantView {
	return grantView{Initiator: g.GetInitiator(), Mode: modeText(g.GetMode()), Node: g.GetNode(), CHAPUser: g.GetChapUser(), CHAPSecret: g.GetChapSecret()}
}

func viewVolume(v *storagedv1.Volume) volumeView {
	st := v.GetStatus()
	out := volumeView{
		head: kind("Volume"), ID: v.GetId(), Name: v.GetName(), IQN: v.GetIqn(), LUN: v.GetLun(), Portals: v.GetPortals(), SizeBytes: v.GetSizeBytes(),
		Replicas: v.GetReplicaFactor(), MinReplicas: v.GetMinReplicas(), Thin: v.GetThin(), State: v.GetState(), Health: healthText(st.GetHealth()),
		Reason: st.GetReason(), NextStep: st.GetNextStep(), OwnerNode: v.GetOwnerNode(), OwnerChunk: v.GetOwnerChunk(), Epoch: v.GetEpoch(),
		Extents: st.GetExtents(), Degraded: st.GetExtentsDegraded(), Unavailable: st.GetExtentsUnavailable(), ResyncLeft: st.GetResyncBytesLeft(),
		ResyncDone: st.GetResyncBytesDone(), Allocated: st.GetAllocatedBytes(), SnapshotBytes: st.GetSnapshotBytes(), Sessions: st.GetSessions(),
		SourceVolume: v.GetSourceVolumeId(), SourceSnapshot: v.GetSourceSnapshotId(), Labels: v.GetLabels(), Created: timeOf(v.GetCreated()), AsOf: timeOf(st.GetAsOf()),
		Grants: []grantView{},
	}
	if out.Portals == nil {
		out.Portals = []string{}
	}
	for _, g := range v.GetGrants() {
		out.Grants = append(out.Grants, viewGrant(g))
	}
	members := func(list []*storagedv1.Member) (views []memberView) {
		for _, m := range list {
			views = append(views, memberView{Disk: m.GetDiskId(), Node: m.GetNode(), Kind: m.GetKind()})
		}
		return views
	}
	for _, e := range st.GetExtentStatus() {
		out.ExtentList = append(out.ExtentList, extentView{Index: e.GetIndex(), Generation: e.GetGeneration(), State: e.GetState(), Members: members(e.GetMembers()), Absent: members(e.GetAbsent())})
	}
	return out
}

func (v *volumeView) table(w io.Writer) {
	provisioning := "thin"
	if !v.Thin {
		provisioning = "thick"
	}
	sync := ""
	if v.ResyncLeft > 0 {
		sync = fmt.Sprintf("%s copied, %s left", bytesText(v.ResyncDone), bytesText(v.ResyncLeft))
	}
	published := ""
	for _, g := range v.Grants {
		published += strings.TrimSpace(fmt.Sprintf("%s (%s) %s", g.Initiator, g.Mode, g.Node)) + ", "
	}
	pairs(w, "Name", v.Name, "ID", v.ID, "IQN", v.IQN, "LUN", strconv.Itoa(int(v.LUN)), "Portals", strings.Join(v.Portals, ", "),
		"Size", bytesText(v.SizeBytes)+", "+provisioning, "Used", bytesText(v.Allocated)+" live, "+bytesText(v.SnapshotBytes)+" in snapshots only",
		"Replicas", fmt.Sprintf("%d, writes need %d", v.Replicas, v.MinReplicas), "Owner", fmt.Sprintf("%s (chunk %d, epoch %d)", v.OwnerNode, v.OwnerChunk, v.Epoch),
		"State", v.State, "Health", v.Health, "Reason", v.Reason, "Next step", v.NextStep,
		"Extents", fmt.Sprintf("%d, %d degraded, %d unavailable", v.Extents, v.Degraded, v.Unavailable), "Resync", sync,
		"Sessions", strconv.Itoa(int(v.Sessions)), "Published to", strings.TrimSuffix(published, ", "),
		"Clone of", v.SourceVolume, "Restored from", v.SourceSnapshot, "Created", timeText(v.Created))
	if len(v.ExtentList) == 0 {
		return
	}
	var rows [][]string
	text := func(list []memberView) string {
		var s []string
		for _, m := range list {
			t := m.Node + "/" + m.Disk[:min(8, len(m.Disk))]
			if m.Kind != "full" {
				t += " (" + m.Kind + ")"
			}
			s = append(s, t)
		}
		return strings.Join(s, ", ")
	}
	for _, e := range v.ExtentList {
		rows = append(rows, []string{strconv.Itoa(int(e.Index)), strconv.Itoa(int(e.Generation)), text(e.Members), text(e.Absent), e.State})
	}
	fmt.Fprintln(w)
	columns(w, "EXTENT GENERATION MEMBERS ABSENT STATE", rows)
}

func (a *app) printVolume(cmd *cobra.Command, v *storagedv1.Volume) error {
	view := viewVolume(v)
	return a.print(cmd.OutOrStdout(), view, view.table)
}

// find looks a volume up by name or id.
func find(ctx context.Context, vc storagedv1.VolumesClient, nameOrID string, extents bool) (*storagedv1.Volume, error) {
	req := &storagedv1.GetVolumeRequest{Name: nameOrID, Extents: extents}
	if _, err := uuid.Parse(nameOrID); err == nil && len(nameOrID) == 36 {
		req.Id, req.Name = nameOrID, ""
	}
	return vc.GetVolume(ctx, req)
}

func (a *app) volumeCommand() *cobra.Command {
	return group("volume", "Create, show and change volumes",
		a.volumeCreate(), a.volumeList(), a.volumeShow(), a.volumeDelete(), a.volumeExpand(), a.volumeSnapshot(), a.volumePublish(), a.volumeUnpublish(), a.volumeMove(), a.volumeVerify(), a.volumeAcceptLoss(), a.volumeExport())
}

func (a *app) volumeCreate() *cobra.Command {
	var size quantity.Flag
	var replicas, minReplicas uint32
	var thick, noGrant bool
	var fromSnapshot, fromVolume, node string
	cmd := &cobra.Command{
		Use:   "create NAME --size SIZE [flags]",
		Short: "Create a volume and print how to reach its LUN",
		Long: `Create a volume, or restore one from a snapshot, or clone one.

Unless --no-grant is given, the volume is published to every initiator without authentication, so that any can be pointed
at it. Publish it to a certain initiator instead with --no-grant and "volume publish".`,
		Example: "  storaged ctl --dir DIR volume create data --size 1Gi --replicas 3",
		Args:    exactly(1),
	}
	f := cmd.Flags()
	f.Var(&size, "size", "size, as in 512Mi, 10Gi (rounded up to 1Mi)")
	f.Uint32Var(&replicas, "replicas", 2, "copies on different nodes: 1 (development only), 2 or 3")
	f.Uint32Var(&minReplicas, "min-replicas", 0, "copies in sync below which writes wait; 0 = one fewer than --replicas")
	f.BoolVar(&thick, "thick", false, "reserve all space at once")
	f.StringVar(&fromSnapshot, "from-snapshot", "", "restore this snapshot: ID, NAME, or VOLUME/NAME")
	f.StringVar(&fromVolume, "from-volume", "", "clone the present content of this volume: NAME or ID")
	f.StringVar(&node, "prefer-node", "", "node for the owner and one copy, if possible")
	f.BoolVar(&noGrant, "no-grant", false, "do not publish the volume")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if size == 0 && fromSnapshot == "" && fromVolume == "" {
			return usage("create volume %s: --size is missing, as in --size 10Gi", args[0])
		}
		return a.run(cmd, "create volume "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			req := &storagedv1.CreateVolumeRequest{Name: args[0], SizeBytes: uint64(size), ReplicaFactor: replicas, MinReplicas: minReplicas, Thick: thick, PreferNode: node}
			if fromSnapshot != "" {
				sn, err := findSnapshot(ctx, vc, fromSnapshot)
				if err != nil {
					return err
				}
				req.SourceSnapshotId = sn.GetId()
			}
			if fromVolume != "" {
				v, err := find(ctx, vc, fromVolume, false)
				if err != nil {
					return err
				}
				req.SourceVolumeId = v.GetId()
			}
			v, err := vc.CreateVolume(ctx, req)
			if err != nil {
				return err
			}
			if !noGrant {
				if _, err := vc.PublishVolume(ctx, &storagedv1.PublishVolumeRequest{VolumeId: v.GetId(), Initiator: anyInitiator, Mode: storagedv1.AccessMode_ACCESS_MODE_SHARED, NoAuth: true}); err != nil {
					return err
				}
				if v, err = find(ctx, vc, v.GetId(), false); err != nil {
					return err
				}
			}
			return a.printVolume(cmd, v)
		})
	}
	return cmd
}

// anyInitiator is the initiator of the open grant that "volume create" makes.
const anyInitiator = "*"

func (a *app) volumeList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List volumes", Args: exactly(0), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.run(cmd, "list volumes", func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			var views []volumeView
			for token := ""; ; {
				page, err := vc.ListVolumes(ctx, &storagedv1.ListVolumesRequest{PageToken: token})
				if err != nil {
					return err
				}
				for _, v := range page.GetVolumes() {
					views = append(views, viewVolume(v))
				}
				if token = page.GetNextPageToken(); token == "" {
					break
				}
			}
			return a.print(cmd.OutOrStdout(), newList("VolumeList", views), func(w io.Writer) {
				var rows [][]string
				for _, v := range views {
					rows = append(rows, []string{v.Name, bytesText(v.SizeBytes), strconv.Itoa(int(v.Replicas)), v.Health, v.OwnerNode, strconv.Itoa(int(v.Sessions)), v.ID})
				}
				columns(w, "NAME SIZE REPLICAS HEALTH OWNER SESSIONS ID", rows)
			})
		})
	}}
}

func (a *app) volumeShow() *cobra.Command {
	var extents bool
	cmd := &cobra.Command{Use: "show VOLUME", Short: "Show a volume", Args: exactly(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.run(cmd, "show volume "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			v, err := find(ctx, vc, args[0], extents)
			if err != nil {
				return err
			}
			return a.printVolume(cmd, v)
		})
	}}
	cmd.Flags().BoolVar(&extents, "extents", false, "show where each extent lies")
	return cmd
}

func (a *app) volumeDelete() *cobra.Command {
	var cascade bool
	cmd := &cobra.Command{
		Use:   "delete VOLUME",
		Short: "Delete a volume and its data",
		Long: `Delete a volume and its data. The open grant that "volume create" made is withdrawn first; a volume that is published
to a certain initiator, or that has snapshots (without --cascade), is not deleted.`,
		Args: exactly(1),
	}
	cmd.Flags().BoolVar(&cascade, "cascade", false, "delete its snapshots, too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.run(cmd, "delete volume "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			v, err := find(ctx, vc, args[0], false)
			if err != nil {
				return err
			}
			// Only if nothing else stands in the way, so that a refused deletion changes nothing.
			if g := v.GetGrants(); len(g) == 1 && g[0].GetInitiator() == anyInitiator {
				if !cascade {
					if err := refuseSnapshots(ctx, vc, v); err != nil {
						return err
					}
				}
				if _, err := vc.UnpublishVolume(ctx, &storagedv1.UnpublishVolumeRequest{VolumeId: v.GetId(), Initiator: anyInitiator}); err != nil {
					return err
				}
			}
			if _, err := vc.DeleteVolume(ctx, &storagedv1.DeleteVolumeRequest{Id: v.GetId(), CascadeSnapshots: cascade}); err != nil {
				return err
			}
			return a.done(cmd, "Volume", v.GetId(), v.GetName(), "deleted")
		})
	}
	return cmd
}

func refuseSnapshots(ctx context.Context, vc storagedv1.VolumesClient, v *storagedv1.Volume) error {
	l, err := vc.ListSnapshots(ctx, &storagedv1.ListSnapshotsRequest{VolumeId: v.GetId(), PageSize: 1})
	if err != nil || len(l.GetSnapshots()) == 0 {
		return err
	}
	return status.Errorf(codes.FailedPrecondition, "it has snapshots (%s): delete them first, or give --cascade", l.GetSnapshots()[0].GetName())
}

// done reports a change that has no value to print.
func (a *app) done(cmd *cobra.Command, k, id, name, what string) error {
	value := struct {
		head
		ID     string `json:"id,omitempty"`
		Name   string `json:"name"`
		Result string `json:"result"`
	}{kind(k), id, name, what}
	return a.print(cmd.OutOrStdout(), value, func(w io.Writer) { fmt.Fprintf(w, "%s %s %s\n", strings.ToLower(k), name, what) })
}

func (a *app) volumeExpand() *cobra.Command {
	var size quantity.Flag
	cmd := &cobra.Command{Use: "expand VOLUME --size SIZE", Short: "Grow a volume, in use or not", Args: exactly(1)}
	cmd.Flags().Var(&size, "size", "new size, as in 20Gi")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if size == 0 {
			return usage("expand volume %s: --size is missing, as in --size 20Gi", args[0])
		}
		return a.run(cmd, "expand volume "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			v, err := find(ctx, vc, args[0], false)
			if err != nil {
				return err
			}
			if v, err = vc.ExpandVolume(ctx, &storagedv1.ExpandVolumeRequest{Id: v.GetId(), SizeBytes: uint64(size)}); err != nil {
				return err
			}
			return a.printVolume(cmd, v)
		})
	}
	return cmd
}

func (a *app) volumeSnapshot() *cobra.Command {
	return &cobra.Command{Use: "snapshot VOLUME SNAPSHOT", Short: "Take a snapshot", Args: exactly(2), RunE: func(cmd *cobra.Command, args []string) error {
		return a.run(cmd, "take snapshot "+args[1]+" of volume "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			v, err := find(ctx, vc, args[0], false)
			if err != nil {
				return err
			}
			sn, err := vc.CreateSnapshot(ctx, &storagedv1.CreateSnapshotRequest{VolumeId: v.GetId(), Name: args[1]})
			if err != nil {
				return err
			}
			view := viewSnapshot(sn)
			view.Volume = v.GetName()
			return a.print(cmd.OutOrStdout(), view, view.table)
		})
	}}
}

func (a *app) volumePublish() *cobra.Command {
	var initiator, mode, node, user string
	var noAuth bool
	cmd := &cobra.Command{
		Use:   "publish VOLUME --initiator IQN",
		Short: "Give an initiator access and print its credentials",
		Args:  exactly(1),
	}
	f := cmd.Flags()
	f.StringVar(&initiator, "initiator", "", `iSCSI name of the initiator, or "*" for any`)
	f.StringVar(&mode, "mode", "exclusive", "exclusive, shared or readonly")
	f.StringVar(&node, "node", "", "node of the initiator, if it is one of the cluster: the volume moves there")
	f.StringVar(&user, "chap-user", "", "CHAP user name; the initiator's name by default")
	f.BoolVar(&noAuth, "no-auth", false, "no CHAP; otherwise a secret is generated")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, ok := modes[mode]
		if !ok {
			return usage("publish volume %s: --mode %q: want exclusive, shared or readonly", args[0], mode)
		}
		if initiator == "" {
			return usage("publish volume %s: --initiator is missing", args[0])
		}
		return a.run(cmd, "publish volume "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			v, err := find(ctx, vc, args[0], false)
			if err != nil {
				return err
			}
			g, err := vc.PublishVolume(ctx, &storagedv1.PublishVolumeRequest{VolumeId: v.GetId(), Initiator: initiator, Mode: m, Node: node, NoAuth: noAuth, ChapUser: user})
			if err != nil {
				return err
			}
			value := struct {
				head
				Volume  string   `json:"volume"`
				ID      string   `json:"id"`
				IQN     string   `json:"iqn"`
				LUN     uint32   `json:"lun"`
				Portals []string `json:"portals"`
				grantView
			}{kind("Grant"), v.GetName(), v.GetId(), v.GetIqn(), v.GetLun(), v.GetPortals(), viewGrant(g)}
			return a.print(cmd.OutOrStdout(), value, func(w io.Writer) {
				pairs(w, "Volume", v.GetName(), "Initiator", value.Initiator, "Mode", value.Mode, "Node", value.Node, "IQN", value.IQN, "LUN", strconv.Itoa(int(value.LUN)),
					"Portals", strings.Join(value.Portals, ", "), "CHAP user", value.CHAPUser, "CHAP secret", value.CHAPSecret)
			})
		})
	}
	return cmd
}

func (a *app) volumeUnpublish() *cobra.Command {
	var initiator, node string
	cmd := &cobra.Command{Use: "unpublish VOLUME --initiator IQN", Short: "Withdraw an initiator's access; returns when its sessions are closed", Args: exactly(1)}
	cmd.Flags().StringVar(&initiator, "initiator", "", "iSCSI name of the initiator")
	cmd.Flags().StringVar(&node, "node", "", "node of the initiator, instead of its name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if initiator == "" && node == "" {
			return usage("unpublish volume %s: --initiator or --node is missing; `volume show %s` lists both", args[0], args[0])
		}
		return a.run(cmd, "unpublish volume "+args[0], func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			v, err := find(ctx, vc, args[0], false)
			if err != nil {
				return err
			}
			if _, err := vc.UnpublishVolume(ctx, &storagedv1.UnpublishVolumeRequest{VolumeId: v.GetId(), Initiator: initiator, Node: node}); err != nil {
				return err
			}
			return a.done(cmd, "Volume", v.GetId(), v.GetName(), "unpublished")
		})
	}
	return cmd
}

func (a *app) volumeMove() *cobra.Command {
	var node string
	cmd := &cobra.Command{Use: "move VOLUME --node NODE", Short: "Move a volume's ownership to a node, without an error at its initiators", Args: exactly(1)}
	cmd.Flags().StringVar(&node, "node", "", "node that has a copy of the volume")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if node == "" {
			return usage("move volume %s: --node is missing", args[0])
		}
		return a.run(cmd, "move volume "+args[0]+" to node "+node, func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			v, err := find(ctx, vc, args[0], false)
			if err != nil {
				return err
			}
			if v, err = vc.MoveOwner(ctx, &storagedv1.MoveOwnerRequest{VolumeId: v.GetId(), Node: node}); err != nil {
				return err
			}
			return a.printVolume(cmd, v)
		})
	}
	return cmd
}

// findSnapshot looks a snapshot up by id, by VOLUME/NAME, or by a name that only one volume has.
func findSnapshot(ctx context.Context, vc storagedv1.VolumesClient, ref string) (*storagedv1.Snapshot, error) {
	req := &storagedv1.GetSnapshotRequest{Name: ref}
	if _, err := uuid.Parse(ref); err == nil && len(ref) == 36 {
		req.Id, req.Name = ref, ""
	} else if volume, name, ok := strings.Cut(ref, "/"); ok {
		v, err := find(ctx, vc, volume, false)
		if err != nil {
			return nil, err
		}
		req.VolumeId, req.Name = v.GetId(), name
	}
	return vc.GetSnapshot(ctx, req)
}

func sortedBy[T any](items []T, key func(T) string) []T {
	slices.SortStableFunc(items, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	return items
}
