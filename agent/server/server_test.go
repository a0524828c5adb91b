package server

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/inventory"
	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// throughDial serves on a socket and returns a client whose connection goes through Dial, as the plugin's does.
func throughDial(t *testing.T, snap inventory.Snapshot) agentv1.AgentClient {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "agent.sock")
	s := New(Options{Node: "n1", Version: "v1", Snapshot: func() inventory.Snapshot { return snap }, Now: time.Now,
		Attach: func() v1alpha1.AttachMode { return v1alpha1.AttachUserspace }, DevPath: func(d *blockdev.Device) string { return d.Path }})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, socket) }()
	near, far := net.Pipe()
	dialed := make(chan error, 1)
	conn, err := grpc.NewClient("passthrough:agent", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		go func() {
			var d net.Dialer
			for { // until the socket is there
				if c, err := d.DialContext(ctx, "unix", socket); err == nil {
					c.Close()
					break
				}
				if ctx.Err() != nil {
					break
				}
			}
			dialed <- Dial(socket, far, far)
			far.Close()
		}()
		return near, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		near.Close()
		if err := <-dialed; err != nil && !errors.Is(err, io.ErrClosedPipe) && !strings.Contains(err.Error(), "closed pipe") {
			t.Errorf("dial: %v", err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return agentv1.NewAgentClient(conn)
}

var snapshot = inventory.Snapshot{Time: time.Unix(1, 0), Items: []inventory.Item{
	{Device: &blockdev.Device{Path: "/dev/sdb", Type: blockdev.Disk, SizeBytes: 7, Key: blockdev.Key{Serial: "Z1"}}, Name: "bd-1", Published: true,
		Status: v1alpha1.BlockDeviceStatus{Eligible: true, ClaimState: v1alpha1.Unclaimed}},
	{Device: &blockdev.Device{Path: "/dev/zram0", Type: blockdev.Memory}, Reasons: []v1alpha1.Reason{{Code: "UnsuitableType", Message: "memory"}}},
}}

func TestDevicesAreListedThroughDial(t *testing.T) {
	c := throughDial(t, snapshot)
	resp, err := c.ListDevices(context.Background(), &agentv1.ListDevicesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Devices) != 2 || resp.Devices[0].Name != "bd-1" || !resp.Devices[0].Eligible || resp.Devices[0].Serial != "Z1" {
		t.Errorf("devices %v", resp.Devices)
	}
	if d := resp.Devices[1]; d.Eligible || d.Name != "" || len(d.Reasons) != 1 {
		t.Errorf("a device that is not published: %v", d)
	}
}

func TestOnlyScannedDevicesAreMeasured(t *testing.T) {
	c := throughDial(t, snapshot)
	_, err := c.Check(context.Background(), &agentv1.CheckRequest{FlushDevices: []string{"/etc/shadow"}})
	if status.Code(err) != codes.NotFound {
		t.Errorf("error %v: a path of the caller's must not be opened", err)
	}
}

func TestBeforeTheFirstScanNothingIsClaimedToBeKnown(t *testing.T) {
	c := throughDial(t, inventory.Snapshot{})
	if _, err := c.ListDevices(context.Background(), &agentv1.ListDevicesRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("error %v", err)
	}
}
