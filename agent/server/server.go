package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/host"
	"github.com/iomesh/iomesh/agent/inventory"
	"github.com/iomesh/iomesh/agent/preflight"
	"github.com/iomesh/iomesh/agent/prepare"
	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Options of a Server.
type Options struct {
	Node, Version string
	Started       time.Time
	Snapshot      func() inventory.Snapshot
	Machine       host.Machine
	StateDir      string
	// Attach returns the way of attaching in use on this node.
	Attach func() v1alpha1.AttachMode
	// DevPath is where a device is opened from here.
	DevPath func(*blockdev.Device) string
	Now     func() time.Time
	// Runner runs programs of the machine when it is prepared; nil means in the namespaces of its first process.
	Runner prepare.Runner
}

// Server answers the calls. Safe for concurrent use.
type Server struct {
	agentv1.UnimplementedAgentServer
	opts Options
	// checking lets one examination run at a time: it measures disks.
	checking chan struct{}
	// preparing lets one preparation run at a time.
	preparing chan struct{}
}

// New returns a Server.
func New(opts Options) *Server {
	return &Server{opts: opts, checking: make(chan struct{}, 1), preparing: make(chan struct{}, 1)}
}

// Serve listens on the socket, replacing one that a dead agent left, and serves until ctx ends.
func (s *Server) Serve(ctx context.Context, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return fmt.Errorf("make directory of the socket: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", socket, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("protect %s: %w", socket, err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(1 << 20))
	agentv1.RegisterAgentServer(g, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		g.Stop()
	}()
	err = g.Serve(l)
	if ctx.Err() != nil {
		<-done
		return nil
	}
	return fmt.Errorf("serve %s: %w", socket, err)
}

// GetInfo implements the interface.
func (s *Server) GetInfo(context.Context, *agentv1.GetInfoRequest) (*agentv1.GetInfoResponse, error) {
	return &agentv1.GetInfoResponse{Node: s.opts.Node, Version: s.opts.Version, Now: timestamppb.New(s.opts.Now()), Started: timestamppb.New(s.opts.Started)}, nil
}

// ListDevices implements the interface.
func (s *Server) ListDevices(context.Context, *agentv1.ListDevicesRequest) (*agentv1.ListDevicesResponse, error) {
	snap := s.opts.Snapshot()
	if snap.Time.IsZero() {
		return nil, status.Error(codes.Unavailable, "the first scan is not done yet; try again in some seconds")
	}
	out := &agentv1.ListDevicesResponse{Scanned: timestamppb.New(snap.Time), Error: snap.Error}
	for _, it := range snap.Items {
		out.Devices = append(out.Devices, device(it))
	}
	return out, nil
}

func device(it inventory.Item) *agentv1.Device {
	d := it.Device
	out := &agentv1.Device{
		Name: it.Name, Path: d.Path, Type: string(d.Type), Drive: string(d.Drive), Transport: d.Transport, SizeBytes: d.SizeBytes,
		Vendor: d.Key.Vendor, Model: d.Key.Model, Serial: d.Key.Serial, Wwn: d.Key.WWN, Firmware: d.Firmware, BackingFile: d.Key.BackingFile,
		Holders: d.Holders, Eligible: len(it.Reasons) == 0 && it.Published && it.Status.Eligible,
		ClaimState: string(it.Status.ClaimState), DiskId: it.Status.DiskID, Message: it.Status.Message,
	}
	for _, f := range d.Signatures {
		out.Content = append(out.Content, f.String())
	}
	for _, m := range d.Mounts {
		out.Mounts = append(out.Mounts, m.Path)
	}
	reasons := it.Reasons
	if it.Published {
		reasons = it.Status.Reasons
	}
	for _, r := range reasons {
		out.Reasons = append(out.Reasons, &agentv1.Reason{Code: r.Code, Message: r.Message})
	}
	return out
}

// checkMax bounds one examination.
const checkMax = 2 * time.Minute

// Check implements the interface.
func (s *Server) Check(ctx context.Context, req *agentv1.CheckRequest) (*agentv1.CheckResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, checkMax)
	defer cancel()
	select {
	case s.checking <- struct{}{}:
		defer func() { <-s.checking }()
	case <-ctx.Done():
		return nil, status.Error(codes.Aborted, "another examination of this node is under way")
	}
	devices, err := s.flushDevices(req.FlushDevices)
	if err != nil {
		return nil, err
	}
	findings := preflight.Run(ctx, preflight.Options{
		Machine: s.opts.Machine, Attach: s.opts.Attach(), DataCIDR: req.DataCidr, StateDir: s.opts.StateDir, FlushDevices: devices,
	})
	out := &agentv1.CheckResponse{Node: s.opts.Node, Now: timestamppb.New(s.opts.Now()), DataMtuBytes: preflight.DataMTU(req.DataCidr)}
	for _, f := range findings {
		out.Findings = append(out.Findings, &agentv1.Finding{Id: f.ID, Status: agentv1.Status(f.Status), Evidence: f.Evidence, Fix: f.Fix})
	}
	return out, nil
}

// flushDevices finds the devices to measure among the scanned ones, so that no path of the caller's is ever opened.
func (s *Server) flushDevices(names []string) (map[string]string, error) {
	if len(names) > 64 {
		return nil, status.Errorf(codes.InvalidArgument, "%d devices to measure; at most 64 at a time", len(names))
	}
	out := map[string]string{}
	items := s.opts.Snapshot().Items
	for _, name := range names {
		found := false
		for _, it := range items {
			if name != "" && (it.Name == name || it.Device.Path == name) {
				out[name], found = s.opts.DevPath(it.Device), true
			}
		}
		if !found {
			return nil, status.Errorf(codes.NotFound, "node %s has no block device %q", s.opts.Node, name)
		}
	}
	return out, nil
}
