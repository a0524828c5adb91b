// Package registration tells kubelet of the driver, as the sidecar node-driver-registrar would: it serves kubelet's plugin registration
// protocol (k8s.io/kubelet/pkg/apis/pluginregistration/v1) on a socket in the directory that kubelet watches.
package registration

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"
	registerv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/iomesh/iomesh/csi/rpc"
)

// Server implements kubelet's RegistrationServer.
type Server struct {
	registerv1.UnimplementedRegistrationServer

	// Name is the driver's name.
	Name string
	// Endpoint is the path of the driver's CSI socket as kubelet sees it.
	Endpoint string
	Log      *slog.Logger

	mu         sync.Mutex
	registered bool
	lastError  string
}

// Socket is where kubelet with the given root directory looks for this driver.
func Socket(kubeletDir, driver string) string {
	return filepath.Join(kubeletDir, "plugins_registry", driver+"-reg.sock")
}

// GetInfo implements registerv1.RegistrationServer.
func (s *Server) GetInfo(context.Context, *registerv1.InfoRequest) (*registerv1.PluginInfo, error) {
	return &registerv1.PluginInfo{
		Type: registerv1.CSIPlugin, Name: s.Name, Endpoint: s.Endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus implements registerv1.RegistrationServer.
func (s *Server) NotifyRegistrationStatus(_ context.Context, in *registerv1.RegistrationStatus) (*registerv1.RegistrationStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registered, s.lastError = in.GetPluginRegistered(), in.GetError()
	if s.registered {
		s.Log.Info("registered with kubelet", "endpoint", s.Endpoint)
	} else {
		// kubelet tries again; the usual cause is that NodeGetInfo failed because the block service is not up yet.
		s.Log.Warn("kubelet could not register the driver and will try again", "error", s.lastError)
	}
	return &registerv1.RegistrationStatusResponse{}, nil
}

// Registered says whether kubelet knows the driver, and if not, what it said last.
func (s *Server) Registered() (bool, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registered, s.lastError
}

// Serve serves on socket until ctx ends, and removes the socket then, which makes kubelet forget the driver.
func (s *Server) Serve(ctx context.Context, socket string) error {
	l, err := rpc.Listen(socket)
	if err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	g := grpc.NewServer()
	registerv1.RegisterRegistrationServer(g, s)
	stop := context.AfterFunc(ctx, g.GracefulStop)
	defer stop()
	return g.Serve(l)
}
