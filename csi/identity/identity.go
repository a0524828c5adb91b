// Package identity is the Identity service of CSI, of controller and node alike.
package identity

import (
	"cmp"
	"context"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/iomesh/iomesh/internal/version"
)

// DriverName is the name under which Kubernetes knows the driver.
const DriverName = "com.iomesh.csi-driver"

// Service implements csi.IdentityServer.
type Service struct {
	csipb.UnimplementedIdentityServer
	// Name is the driver's name; DriverName if empty.
	Name string
	// Ready says why the plugin cannot work now, or nil. It is asked often and must be quick.
	Ready func(context.Context) error
}

// GetPluginInfo implements csi.IdentityServer.
func (s Service) GetPluginInfo(context.Context, *csipb.GetPluginInfoRequest) (*csipb.GetPluginInfoResponse, error) {
	return &csipb.GetPluginInfoResponse{Name: cmp.Or(s.Name, DriverName), VendorVersion: version.String()}, nil
}

// GetPluginCapabilities implements csi.IdentityServer.
func (Service) GetPluginCapabilities(context.Context, *csipb.GetPluginCapabilitiesRequest) (*csipb.GetPluginCapabilitiesResponse, error) {
	service := func(t csipb.PluginCapability_Service_Type) *csipb.PluginCapability {
		return &csipb.PluginCapability{Type: &csipb.PluginCapability_Service_{Service: &csipb.PluginCapability_Service{Type: t}}}
	}
	return &csipb.GetPluginCapabilitiesResponse{Capabilities: []*csipb.PluginCapability{
		service(csipb.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csipb.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
		{Type: &csipb.PluginCapability_VolumeExpansion_{VolumeExpansion: &csipb.PluginCapability_VolumeExpansion{Type: csipb.PluginCapability_VolumeExpansion_ONLINE}}},
	}}, nil
}

// Probe implements csi.IdentityServer. A block service that is away does not make the plugin unready: restarting it would help nobody.
func (s Service) Probe(ctx context.Context, _ *csipb.ProbeRequest) (*csipb.ProbeResponse, error) {
	ready := s.Ready == nil || s.Ready(ctx) == nil
	return &csipb.ProbeResponse{Ready: wrapperspb.Bool(ready)}, nil
}
