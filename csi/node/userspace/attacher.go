// Package userspace attaches volumes by iomesh-attach, the daemon of this node that outlives the CSI plugin.
package userspace

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	attachv1 "github.com/iomesh/iomesh/attach/api/v1"
	"github.com/iomesh/iomesh/csi/node"
)

// Attacher implements node.Attacher.
type Attacher struct {
	conn   *grpc.ClientConn
	client attachv1.AttacherClient
	socket string
}

// connect: a restarted daemon is back within seconds, and volumes wait for it.
var connect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
	MinConnectTimeout: 2 * time.Second,
}

// New makes an attacher over the daemon's socket. It connects at the first call.
func New(socket string) (*Attacher, error) {
	socket = strings.TrimPrefix(socket, "unix://")
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(connect))
	if err != nil {
		return nil, fmt.Errorf("attacher at %s: %w", socket, err)
	}
	return &Attacher{conn: conn, client: attachv1.NewAttacherClient(conn), socket: socket}, nil
}

// Close ends the connection.
func (a *Attacher) Close() error { return a.conn.Close() }

func (a *Attacher) failed(op string, err error) error {
	return fmt.Errorf("%s by iomesh-attach (%s): %w", op, a.socket, err)
}

func deviceOf(at *attachv1.Attachment) node.Device {
	d := node.Device{Path: at.GetDevice(), SizeBytes: at.GetSizeBytes()}
	if at.GetState() != attachv1.State_STATE_ATTACHED {
		d.Trouble = at.GetMessage()
		if d.Trouble == "" {
			d.Trouble = at.GetState().String()
		}
	}
	return d
}

// Attach implements node.Attacher.
func (a *Attacher) Attach(ctx context.Context, t node.Target) (node.Device, error) {
	at, err := a.client.Attach(ctx, &attachv1.AttachRequest{
		VolumeId: t.VolumeID, Iqn: t.IQN, Lun: t.LUN, Portals: t.Portals, Initiator: t.Initiator, ReadOnly: t.ReadOnly,
		ChapUser: t.ChapUser, ChapSecret: t.ChapSecret, MutualUser: t.MutualUser, MutualSecret: t.MutualSecret,
	})
	if err != nil {
		return node.Device{}, a.failed("attach", err)
	}
	return deviceOf(at), nil
}

// Detach implements node.Attacher.
func (a *Attacher) Detach(ctx context.Context, volumeID string) error {
	if _, err := a.client.Detach(ctx, &attachv1.DetachRequest{VolumeId: volumeID}); err != nil {
		return a.failed("detach", err)
	}
	return nil
}

// Find implements node.Attacher. A working attachment wins over what an earlier run of the daemon left.
func (a *Attacher) Find(ctx context.Context, volumeID string) (node.Device, bool, error) {
	list, err := a.client.List(ctx, &attachv1.ListRequest{})
	if err != nil {
		return node.Device{}, false, a.failed("list", err)
	}
	var found node.Device
	ok := false
	for _, at := range list.GetAttachments() {
		if at.GetVolumeId() != volumeID {
			continue
		}
		if d := deviceOf(at); !ok || d.Trouble == "" {
			found, ok = d, true
		}
	}
	return found, ok, nil
}

// Resize implements node.Attacher.
func (a *Attacher) Resize(ctx context.Context, volumeID string) (node.Device, error) {
	at, err := a.client.Resize(ctx, &attachv1.ResizeRequest{VolumeId: volumeID})
	if err != nil {
		return node.Device{}, a.failed("resize", err)
	}
	return deviceOf(at), nil
}
