package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/iomesh/iomesh/csi/controller"
)

// claim is a volume on its way through the driver, as Kubernetes would take it.
type claim struct {
	c       *controller.Service
	n       csipb.NodeClient
	nodeID  string
	name    string
	cap     *csipb.VolumeCapability
	secrets map[string]string

	id      string
	context map[string]string
	publish map[string]string
}

func filesystem(fstype string) *csipb.VolumeCapability {
	return &csipb.VolumeCapability{AccessType: &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{FsType: fstype}},
		AccessMode: &csipb.VolumeCapability_AccessMode{Mode: csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}}
}

func rawBlock() *csipb.VolumeCapability {
	return &csipb.VolumeCapability{AccessType: &csipb.VolumeCapability_Block{Block: &csipb.VolumeCapability_BlockVolume{}},
		AccessMode: &csipb.VolumeCapability_AccessMode{Mode: csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER}}
}

func (k *claim) staging() string { return "/run/kubelet/staging/" + k.name }
func (k *claim) target() string  { return "/run/kubelet/pods/" + k.name }

func (k *claim) create(ctx context.Context, sizeBytes int64, parameters map[string]string) error {
	r, err := k.c.CreateVolume(ctx, &csipb.CreateVolumeRequest{Name: k.name, CapacityRange: &csipb.CapacityRange{RequiredBytes: sizeBytes},
		VolumeCapabilities: []*csipb.VolumeCapability{k.cap}, Parameters: parameters})
	if err != nil {
		return err
	}
	k.id, k.context = r.Volume.VolumeId, r.Volume.VolumeContext
	return nil
}

func (k *claim) controllerPublish(ctx context.Context) error {
	r, err := k.c.ControllerPublishVolume(ctx, &csipb.ControllerPublishVolumeRequest{VolumeId: k.id, NodeId: k.nodeID, VolumeCapability: k.cap,
		VolumeContext: k.context, Secrets: k.secrets})
	if err != nil {
		return err
	}
	k.publish = r.PublishContext
	return nil
}

func (k *claim) stage(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	_, err := k.n.NodeStageVolume(ctx, &csipb.NodeStageVolumeRequest{VolumeId: k.id, PublishContext: k.publish, StagingTargetPath: k.staging(),
		VolumeCapability: k.cap, VolumeContext: k.context, Secrets: k.secrets})
	return err
}

func (k *claim) nodePublish(ctx context.Context) error {
	_, err := k.n.NodePublishVolume(ctx, &csipb.NodePublishVolumeRequest{VolumeId: k.id, PublishContext: k.publish, StagingTargetPath: k.staging(),
		TargetPath: k.target(), VolumeCapability: k.cap, VolumeContext: k.context})
	return err
}

// up takes a claim to where a pod could use it.
func (k *claim) up(ctx context.Context, sizeBytes int64) error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"create", func() error { return k.create(ctx, sizeBytes, map[string]string{"replicaFactor": "3"}) }},
		{"controller publish", func() error { return k.controllerPublish(ctx) }},
		{"stage", func() error { return k.stage(ctx) }},
		{"node publish", func() error { return k.nodePublish(ctx) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s volume %s: %w", step.name, k.name, err)
		}
	}
	return nil
}

// expand grows the volume, the disk and the filesystem while they are in use.
func (k *claim) expand(ctx context.Context, sizeBytes int64) error {
	r := &csipb.CapacityRange{RequiredBytes: sizeBytes}
	if _, err := k.c.ControllerExpandVolume(ctx, &csipb.ControllerExpandVolumeRequest{VolumeId: k.id, CapacityRange: r, VolumeCapability: k.cap}); err != nil {
		return err
	}
	_, err := k.n.NodeExpandVolume(ctx, &csipb.NodeExpandVolumeRequest{VolumeId: k.id, VolumePath: k.target(), StagingTargetPath: k.staging(), CapacityRange: r, VolumeCapability: k.cap})
	return err
}

// down takes the claim away again, with its volume.
func (k *claim) down(ctx context.Context) error {
	_, err1 := k.n.NodeUnpublishVolume(ctx, &csipb.NodeUnpublishVolumeRequest{VolumeId: k.id, TargetPath: k.target()})
	_, err2 := k.n.NodeUnstageVolume(ctx, &csipb.NodeUnstageVolumeRequest{VolumeId: k.id, StagingTargetPath: k.staging()})
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("take volume %s down: %w", k.name, err)
	}
	_, err1 = k.c.ControllerUnpublishVolume(ctx, &csipb.ControllerUnpublishVolumeRequest{VolumeId: k.id, NodeId: k.nodeID})
	_, err2 = k.c.DeleteVolume(ctx, &csipb.DeleteVolumeRequest{VolumeId: k.id})
	return errors.Join(err1, err2)
}
