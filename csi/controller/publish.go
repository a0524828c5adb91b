package controller

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/nodename"
	"github.com/iomesh/iomesh/csi/params"
)

// Keys of the publish context, from ControllerPublishVolume to the node. No secret is among them: Kubernetes shows them to everybody
// who may read VolumeAttachments.
const (
	PublishIQN      = "iqn"
	PublishLUN      = "lun"
	PublishPortals  = "portals" // comma-separated host:port
	PublishReadOnly = "readOnly"
)

// ControllerPublishVolume implements csi.ControllerServer.
func (s *Service) ControllerPublishVolume(ctx context.Context, in *csipb.ControllerPublishVolumeRequest) (*csipb.ControllerPublishVolumeResponse, error) {
	if in.GetVolumeId() == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if in.GetNodeId() == "" {
		return nil, code.New(code.Invalid, "node_id is missing")
	}
	c, err := params.ParseCapability(in.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	v, err := s.get(ctx, in.GetVolumeId())
	if err != nil {
		return nil, err
	}
	node, err := nodename.Node(in.GetNodeId())
	if err != nil {
		return nil, code.New(code.NotFound, "node: %w", err)
	}
	initiator, mode := in.GetNodeId(), c.Access(in.GetReadonly())
	for _, g := range v.GetGrants() {
		if g.GetInitiator() == initiator && g.GetMode() != mode {
			return nil, code.New(code.Conflict, "volume %s is published to node %s as %s; unpublish it before it is published as %s", v.GetId(), node, g.GetMode(), mode)
		}
	}
	req := &storagedv1.PublishVolumeRequest{VolumeId: v.GetId(), Initiator: initiator, Mode: mode, Node: node}
	if in.GetVolumeContext()[ContextAuth] == "true" {
		if req.ChapUser, req.ChapSecret, err = userSecrets(in.GetSecrets()); err != nil {
			return nil, err
		}
	}
	if _, err := s.Store.PublishVolume(ctx, req); err != nil {
		return nil, fmt.Errorf("publish volume %s to node %s: %w", v.GetId(), node, err)
	}
	if err := s.step(stepPublished); err != nil {
		return nil, err
	}
	return &csipb.ControllerPublishVolumeResponse{PublishContext: map[string]string{
		PublishIQN:      v.GetIqn(),
		PublishLUN:      strconv.FormatUint(uint64(v.GetLun()), 10),
		PublishPortals:  strings.Join(v.GetPortals(), ","),
		PublishReadOnly: strconv.FormatBool(mode == storagedv1.AccessMode_ACCESS_MODE_READ_ONLY),
	}}, nil
}

// ControllerUnpublishVolume implements csi.ControllerServer. Without a node id the volume is taken from all nodes of ours; grants of
// initiators outside the cluster stay.
func (s *Service) ControllerUnpublishVolume(ctx context.Context, in *csipb.ControllerUnpublishVolumeRequest) (*csipb.ControllerUnpublishVolumeResponse, error) {
	id := in.GetVolumeId()
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	done := &csipb.ControllerUnpublishVolumeResponse{}
	if !issued(id) {
		return done, nil
	}
	initiators := []string{in.GetNodeId()}
	if in.GetNodeId() == "" {
		v, err := s.get(ctx, id)
		if missing(err) {
			return done, nil
		}
		if err != nil {
			return nil, err
		}
		initiators = publishedTo(v)
	}
	for _, initiator := range initiators {
		node, err := nodename.Node(initiator)
		if err != nil {
			continue // nothing was ever granted to it
		}
		_, err = s.Store.UnpublishVolume(ctx, &storagedv1.UnpublishVolumeRequest{VolumeId: id, Initiator: initiator, Node: node})
		if err != nil && !missing(err) {
			return nil, fmt.Errorf("unpublish volume %s from node %s: %w", id, node, err)
		}
		if err := s.step(stepUnpublished); err != nil {
			return nil, err
		}
	}
	return done, nil
}

// publishedTo returns the node ids of a volume's grants.
func publishedTo(v *storagedv1.Volume) []string {
	var out []string
	for _, g := range v.GetGrants() {
		if _, err := nodename.Node(g.GetInitiator()); err == nil {
			out = append(out, g.GetInitiator())
		}
	}
	return out
}
