// Package storage is the operator's thin client of the metadata members' control interface.
//
// One Client is connected to every member and takes them in turn. A call that a member does not answer in time is made once
// more, at the next member: every call is idempotent, and a member that lost its power leaves no sign but silence. Calls that
// need the leader are passed on by the member. Safe for concurrent use.
package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
)

// Bounds of one call.
const (
	callTimeout   = 3 * time.Second // of one attempt
	attempts      = 2
	responseBytes = 64 << 20
	pageSize      = 500
	// volumesMax bounds what Volumes collects; beyond it the list is cut, and says so.
	volumesMax = 100_000
)

// Client calls the metadata members of one cluster.
type Client struct {
	conn      *grpc.ClientConn
	endpoints string
	cluster   storagedv1.ClusterClient
	volumes   storagedv1.VolumesClient
}

// New makes a client of the members in endpoints (comma-separated host:port), which proves itself by the credentials of
// source. It does not connect yet.
func New(endpoints string, source *mtls.Source) (*Client, error) {
	var addresses []resolver.Address
	for e := range strings.SplitSeq(endpoints, ",") {
		if e = strings.TrimSpace(e); e != "" {
			addresses = append(addresses, resolver.Address{Addr: e})
		}
	}
	if len(addresses) == 0 {
		return nil, errors.New("metadata members: no address is known")
	}
	r := manual.NewBuilderWithScheme("iomesh-meta")
	r.InitialState(resolver.State{Addresses: addresses})
	conn, err := grpc.NewClient(r.Scheme()+":///meta",
		grpc.WithResolvers(r),
		grpc.WithTransportCredentials(source.ClientCredentials(mtls.RoleMeta)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(responseBytes)),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, fmt.Errorf("metadata members at %s: %w", endpoints, err)
	}
	return &Client{conn: conn, endpoints: endpoints, cluster: storagedv1.NewClusterClient(conn), volumes: storagedv1.NewVolumesClient(conn)}, nil
}

// Endpoints that New was given.
func (c *Client) Endpoints() string { return c.endpoints }

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }

// call bounds a call, repeats it if nobody answered, and names its target in the error.
func call[T any](ctx context.Context, c *Client, what string, f func(context.Context) (T, error)) (v T, err error) {
	for range attempts {
		v, err = once(ctx, f)
		if err == nil {
			return v, nil
		}
		if code := status.Code(err); ctx.Err() != nil || code != codes.DeadlineExceeded && code != codes.Unavailable {
			break
		}
	}
	return v, fmt.Errorf("%s at the metadata members (%s): %w", what, c.endpoints, err)
}

func once[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return f(ctx)
}

// Status is the whole view of the cluster.
func (c *Client) Status(ctx context.Context) (*storagedv1.ClusterStatus, error) {
	return call(ctx, c, "get status", func(ctx context.Context) (*storagedv1.ClusterStatus, error) {
		return c.cluster.GetStatus(ctx, &storagedv1.GetStatusRequest{})
	})
}

// Volumes lists all volumes, those being deleted included.
func (c *Client) Volumes(ctx context.Context) ([]*storagedv1.Volume, error) {
	var all []*storagedv1.Volume
	token := ""
	for {
		page, err := call(ctx, c, "list volumes", func(ctx context.Context) (*storagedv1.ListVolumesResponse, error) {
			return c.volumes.ListVolumes(ctx, &storagedv1.ListVolumesRequest{PageSize: pageSize, PageToken: token})
		})
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetVolumes()...)
		token = page.GetNextPageToken()
		if token == "" || len(all) >= volumesMax {
			return all, nil
		}
	}
}

// DrainDisk begins moving every replica off a disk, or, with cancel, ends that. Idempotent.
func (c *Client) DrainDisk(ctx context.Context, id string, cancel bool) error {
	_, err := call(ctx, c, "drain disk "+id, func(ctx context.Context) (*storagedv1.Disk, error) {
		return c.cluster.DrainDisk(ctx, &storagedv1.DrainDiskRequest{Id: id, Cancel: cancel})
	})
	return err
}

// RemoveDisk forgets a disk that no volume needs.
func (c *Client) RemoveDisk(ctx context.Context, id string) error {
	_, err := call(ctx, c, "remove disk "+id, func(ctx context.Context) (*storagedv1.RemoveDiskResponse, error) {
		return c.cluster.RemoveDisk(ctx, &storagedv1.RemoveDiskRequest{Id: id})
	})
	return err
}

// Joined reports whether the member votes and sees a leader.
func (c *Client) Joined(ctx context.Context) (bool, error) {
	p, err := call(ctx, c, "probe the member", func(ctx context.Context) (*storagedv1.ProbeResponse, error) {
		return storagedv1.NewMetaPeerClient(c.conn).Probe(ctx, &storagedv1.ProbeRequest{})
	})
	if err != nil {
		return false, err
	}
	if p.GetMessage() != "" && !p.GetEstablished() {
		return false, fmt.Errorf("the member %s is %s", p.GetName(), p.GetMessage())
	}
	return p.GetEstablished() && p.GetMemberId() != 0 && p.GetLeaderId() != 0 && !p.GetLearner(), nil
}

// Modes of a node.
const (
	ModeActive      = "active"
	ModeMaintenance = "maintenance"
)

// SetNodeMode moves ownership away from a node and holds rebuilds (maintenance), or ends that (active). Idempotent.
func (c *Client) SetNodeMode(ctx context.Context, node, mode string) error {
	_, err := call(ctx, c, "set node "+node+" to "+mode, func(ctx context.Context) (*storagedv1.Node, error) {
		return c.cluster.SetNodeMode(ctx, &storagedv1.SetNodeModeRequest{Node: node, Mode: mode})
	})
	return err
}

// RemoveNode forgets a node without disks.
func (c *Client) RemoveNode(ctx context.Context, node string) error {
	_, err := call(ctx, c, "remove node "+node, func(ctx context.Context) (*storagedv1.RemoveNodeResponse, error) {
		return c.cluster.RemoveNode(ctx, &storagedv1.RemoveNodeRequest{Node: node})
	})
	return err
}
