package node

import (
	"context"
	"log/slog"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/node/fsops"
	"github.com/iomesh/iomesh/csi/node/mode"
	"github.com/iomesh/iomesh/csi/nodename"
	"github.com/iomesh/iomesh/csi/topology"
)

// Grants is what the node needs of the block service: its own grant with the CHAP secret.
type Grants interface {
	GetGrant(context.Context, *storagedv1.GetGrantRequest, ...grpc.CallOption) (*storagedv1.Grant, error)
}

// Options of New.
type Options struct {
	// Node is the Kubernetes name of this node.
	Node string
	// Mode is how new volumes are attached.
	Mode mode.Mode
	// Attachers has at least Mode.
	Attachers Attachers
	Grants    Grants
	// ClusterID returns the id of the storage cluster.
	ClusterID func(context.Context) (string, error)
	// StateDir holds the records, on /run.
	StateDir string
	// Portal is the login redirector of this node, asked first; "" = none.
	Portal string
	// VolumesMax is the most volumes on this node; 0 = no limit.
	VolumesMax int64
	Log        *slog.Logger
	// Step, if set, is told each step of stage, publish and their opposites before the next one. An error ends the call there, with
	// nothing undone, as if the process had been killed. For tests.
	Step func(step string) error
}

// Service implements csi.NodeServer. Calls for one volume must not overlap (package rpc sees to it).
type Service struct {
	csipb.UnimplementedNodeServer
	opts      Options
	initiator string
	records   records
	fs        *fsops.Ops
	log       *slog.Logger
}

// New makes a service.
func New(opts Options) (*Service, error) {
	initiator, err := nodename.Initiator(opts.Node)
	if err != nil {
		return nil, err
	}
	return &Service{opts: opts, initiator: initiator, records: records{dir: opts.StateDir}, fs: fsops.New(opts.Log), log: opts.Log}, nil
}

func (s *Service) step(name string) error {
	if s.opts.Step == nil {
		return nil
	}
	return s.opts.Step(name)
}

// Steps are the names given to Options.Step.
func Steps() []string {
	return []string{
		stepRecorded, stepAttached, stepFormatting, stepMounted, stepPublishRecorded, stepTarget, stepBound,
		stepUnbound, stepUnmounted, stepDetached,
	}
}

const (
	stepRecorded        = "stage-recorded"
	stepAttached        = "stage-attached"
	stepFormatting      = "stage-formatting"
	stepMounted         = "stage-mounted"
	stepPublishRecorded = "publish-recorded"
	stepTarget          = "publish-target-made"
	stepBound           = "publish-bound"
	stepUnbound         = "unpublish-unbound"
	stepUnmounted       = "unstage-unmounted"
	stepDetached        = "unstage-detached"
)

// NodeGetInfo implements csi.NodeServer.
func (s *Service) NodeGetInfo(ctx context.Context, _ *csipb.NodeGetInfoRequest) (*csipb.NodeGetInfoResponse, error) {
	cluster, err := s.opts.ClusterID(ctx)
	if err != nil {
		return nil, err
	}
	s.log.Info("node info asked for", "node", s.opts.Node, "initiator", s.initiator, "attach", s.opts.Mode, "volumesMax", s.opts.VolumesMax)
	return &csipb.NodeGetInfoResponse{
		NodeId: s.initiator, MaxVolumesPerNode: s.opts.VolumesMax, AccessibleTopology: topology.OfNode(cluster, s.opts.Node),
	}, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (*Service) NodeGetCapabilities(context.Context, *csipb.NodeGetCapabilitiesRequest) (*csipb.NodeGetCapabilitiesResponse, error) {
	out := &csipb.NodeGetCapabilitiesResponse{}
	for _, t := range []csipb.NodeServiceCapability_RPC_Type{
		csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csipb.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csipb.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csipb.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	} {
		out.Capabilities = append(out.Capabilities, &csipb.NodeServiceCapability{
			Type: &csipb.NodeServiceCapability_Rpc{Rpc: &csipb.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return out, nil
}

// attacher returns the way a volume was attached.
func (s *Service) attacher(m mode.Mode) (Attacher, error) {
	if a, ok := s.opts.Attachers[m]; ok {
		return a, nil
	}
	return nil, code.New(code.Internal, "the volume was attached by %q, which this plugin cannot do; start it with --attach=%s", m, m)
}
