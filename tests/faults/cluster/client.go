package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/rpc"
)

// Client calls the control interface at whichever member answers.
type Client struct {
	conns []*grpc.ClientConn
	last  atomic.Int32 // which of them answered last
	// Volumes and Cluster are the services.
	Volumes storagedv1.VolumesClient
	Cluster storagedv1.ClusterClient
}

func newClient(addresses []string, tlsDir string) (*Client, error) {
	src, err := mtls.Load(tlsDir)
	if err != nil {
		return nil, err
	}
	c := &Client{}
	for _, a := range addresses {
		cc, err := rpc.Connect(a, rpc.Options{Credentials: src.ClientCredentials(mtls.RoleMeta)})
		if err != nil {
			return nil, err
		}
		c.conns = append(c.conns, cc)
	}
	c.Volumes, c.Cluster = storagedv1.NewVolumesClient(c), storagedv1.NewClusterClient(c)
	return c, nil
}

// Close closes the connections.
func (c *Client) Close() {
	for _, cc := range c.conns {
		_ = cc.Close()
	}
}

// callMax bounds a call at one member.
const callMax = 10 * time.Second

// Invoke implements grpc.ClientConnInterface: each member in turn, since one may be dead or frozen, from the one that answered last on. All calls
// are idempotent.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	var errs []error
	first := int(c.last.Load())
	for i := range c.conns {
		k := (first + i) % len(c.conns)
		cctx, cancel := context.WithTimeout(ctx, callMax)
		err := c.conns[k].Invoke(cctx, method, args, reply, opts...)
		cancel()
		if err == nil {
			c.last.Store(int32(k))
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// NewStream implements grpc.ClientConnInterface; nothing here streams.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.conns[0].NewStream(ctx, desc, method, opts...)
}

// Await polls f until it says "", or for the time given; then the error holds what it said last.
func Await(ctx context.Context, within time.Duration, f func() string) error {
	deadline := time.Now().Add(within)
	for {
		said := f()
		if said == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s", within, said)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), said)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// AwaitOnline waits until n chunks, each with its disk, and n meta members are there.
func (c *Client) AwaitOnline(ctx context.Context, n int, within time.Duration) error {
	err := Await(ctx, within, func() string {
		st, err := c.Cluster.GetStatus(ctx, &storagedv1.GetStatusRequest{})
		if err != nil {
			return err.Error()
		}
		chunks, disks, metas := 0, 0, 0
		for _, x := range st.Nodes {
			if x.State == "Online" {
				chunks++
			}
		}
		for _, x := range st.Disks {
			if x.State == "Active" {
				disks++
			}
		}
		for _, x := range st.Meta {
			if x.Healthy {
				metas++
			}
		}
		if chunks < n || disks < n || metas < n {
			return fmt.Sprintf("%d chunks, %d disks, %d meta members of %d", chunks, disks, metas, n)
		}
		return ""
	})
	if err != nil {
		return fmt.Errorf("the cluster is not up: %w", err)
	}
	return nil
}

// AwaitHealthy waits until all copies of the volumes are in sync.
func (c *Client) AwaitHealthy(ctx context.Context, ids []string, within time.Duration) error {
	for _, id := range ids {
		err := Await(ctx, within, func() string {
			v, err := c.Volumes.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: id})
			switch {
			case err != nil:
				return err.Error()
			case v.Status.GetHealth() != storagedv1.Health_HEALTH_OK:
				return v.Status.GetReason()
			}
			return ""
		})
		if err != nil {
			return fmt.Errorf("volume %s is not healthy: %w", id, err)
		}
	}
	return nil
}

// MoveOwner moves a volume to a node, tried for a while: a node that has just come back may not be ready.
func (c *Client) MoveOwner(ctx context.Context, id, node string) error {
	err := Await(ctx, 30*time.Second, func() string {
		v, err := c.Volumes.MoveOwner(ctx, &storagedv1.MoveOwnerRequest{VolumeId: id, Node: node})
		switch {
		case err != nil:
			return err.Error()
		case v.OwnerNode != node:
			return "owner is " + v.OwnerNode
		}
		return ""
	})
	if err != nil {
		return fmt.Errorf("move volume %s to %s: %w", id, node, err)
	}
	return nil
}
