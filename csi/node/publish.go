package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/node/fsops"
	"github.com/iomesh/iomesh/csi/params"
)

// NodePublishVolume implements csi.NodeServer.
func (s *Service) NodePublishVolume(ctx context.Context, in *csipb.NodePublishVolumeRequest) (*csipb.NodePublishVolumeResponse, error) {
	id, target, staging := in.GetVolumeId(), in.GetTargetPath(), in.GetStagingTargetPath()
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if err := checkPath("target_path", target); err != nil {
		return nil, err
	}
	c, err := params.ParseCapability(in.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	if !volumeID(id) {
		return nil, code.New(code.NotFound, "volume %s does not exist", id)
	}
	rec, known, err := s.records.load(id)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, code.New(code.InUse, "volume %s is not staged on this node", id)
	}
	if rec.Block != c.Block {
		return nil, code.New(code.Conflict, "volume %s is staged with another volume mode", id)
	}
	if !c.Block && staging != rec.Staging {
		return nil, code.New(code.InUse, "volume %s is staged at %q, not at %q", id, rec.Staging, staging)
	}
	device, err := s.device(ctx, rec)
	if err != nil {
		return nil, err
	}
	if err := s.publish(rec, c, device, target, in.GetReadonly()); err != nil {
		return nil, fmt.Errorf("publish volume %s: %w", id, err)
	}
	return &csipb.NodePublishVolumeResponse{}, nil
}

// device returns the working device of a staged volume.
func (s *Service) device(ctx context.Context, rec record) (Device, error) {
	attacher, err := s.attacher(rec.Mode)
	if err != nil {
		return Device{}, err
	}
	d, ok, err := attacher.Find(ctx, rec.VolumeID)
	if err != nil {
		return Device{}, fmt.Errorf("find the device of volume %s: %w", rec.VolumeID, err)
	}
	if !ok {
		return Device{}, code.New(code.InUse, "volume %s is not attached on this node any more: delete the pods that use it", rec.VolumeID)
	}
	if d.Trouble != "" {
		return Device{}, code.New(code.InUse, "the device %s of volume %s does not work: %s", d.Path, rec.VolumeID, d.Trouble)
	}
	return d, nil
}

func (s *Service) publish(rec record, c params.Capability, device Device, target string, readOnly bool) error {
	number, err := deviceNumber(device.Path)
	if err != nil {
		return err
	}
	source := device.Path
	if !c.Block {
		source = rec.Staging
		at, mounted, err := s.fs.At(source)
		if err != nil {
			return err
		}
		if !mounted || at.Dead || at.Dev != number {
			return code.New(code.InUse, "volume %s is not mounted at %s: stage it first", rec.VolumeID, source)
		}
	}
	isVolume := func(at fsops.Mounted) bool {
		if c.Block {
			return at.Rdev == number
		}
		return at.Dev == number
	}
	if c.SingleWriter() {
		for _, other := range rec.Published {
			if other == target {
				continue
			}
			if at, mounted, err := s.fs.At(other); err != nil || mounted && isVolume(at) {
				return code.New(code.InUse, "volume %s is ReadWriteOncePod and in use at %s", rec.VolumeID, other)
			}
		}
	}
	at, mounted, err := s.fs.At(target)
	if err != nil {
		return err
	}
	if mounted && !at.Dead && isVolume(at) {
		// A device node bound read-only is not shown as such by its filesystem's options alone; the mount's own are compared.
		if at.ReadOnly != (readOnly || rec.ReadOnly && !c.Block) {
			return code.New(code.Conflict, "volume %s is published at %s, read-only %t", rec.VolumeID, target, at.ReadOnly)
		}
		return nil
	}
	if mounted {
		if err := s.fs.Drop(target); err != nil {
			return err
		}
	}
	rec.publish(target)
	if err := s.records.save(rec); err != nil {
		return err
	}
	if err := s.step(stepPublishRecorded); err != nil {
		return err
	}
	if err := makeTarget(target, c.Block); err != nil {
		return err
	}
	if err := s.step(stepTarget); err != nil {
		return err
	}
	if err := s.fs.Bind(source, target, readOnly); err != nil {
		return err
	}
	return s.step(stepBound)
}

// makeTarget makes what a bind mount needs: a directory, or for a device node a file.
func makeTarget(target string, block bool) error {
	if !block {
		if err := os.MkdirAll(target, 0o750); err != nil {
			return code.New(code.Internal, "make target path: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return code.New(code.Internal, "make target path: %w", err)
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return code.New(code.Internal, "make target path: %w", err)
	}
	return f.Close()
}

// NodeUnpublishVolume implements csi.NodeServer.
func (s *Service) NodeUnpublishVolume(_ context.Context, in *csipb.NodeUnpublishVolumeRequest) (*csipb.NodeUnpublishVolumeResponse, error) {
	id, target := in.GetVolumeId(), in.GetTargetPath()
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if err := checkPath("target_path", target); err != nil {
		return nil, err
	}
	if err := s.fs.Unmount(target); err != nil {
		return nil, fmt.Errorf("unpublish volume %s: %w", id, err)
	}
	if err := s.step(stepUnbound); err != nil {
		return nil, err
	}
	// Only ever an empty directory or the file made for the bind mount; never what is in it.
	if info, err := os.Lstat(target); err == nil && !info.IsDir() && info.Size() > 0 {
		return nil, code.New(code.Internal, "unpublish volume %s: %s is a file with %d bytes, which was not made here", id, target, info.Size())
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, code.New(code.Internal, "unpublish volume %s: remove target path: %w", id, err)
	}
	if volumeID(id) {
		rec, known, err := s.records.load(id)
		if err != nil {
			return nil, err
		}
		if known {
			rec.unpublish(target)
			if err := s.records.save(rec); err != nil {
				return nil, err
			}
		}
	}
	return &csipb.NodeUnpublishVolumeResponse{}, nil
}
