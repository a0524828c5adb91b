package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/csi/code"
)

// NodeGetVolumeStats implements csi.NodeServer.
func (s *Service) NodeGetVolumeStats(ctx context.Context, in *csipb.NodeGetVolumeStatsRequest) (*csipb.NodeGetVolumeStatsResponse, error) {
	id, path := in.GetVolumeId(), in.GetVolumePath()
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if path == "" {
		return nil, code.New(code.Invalid, "volume_path is missing")
	}
	rec, err := s.staged(id)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil, code.New(code.NotFound, "volume %s is not at %s", id, path)
	}
	if rec.Block {
		d, err := s.device(ctx, rec)
		if err != nil {
			return nil, err
		}
		return &csipb.NodeGetVolumeStatsResponse{Usage: []*csipb.VolumeUsage{{Unit: csipb.VolumeUsage_BYTES, Total: int64(d.SizeBytes)}}}, nil
	}
	_, mounted, err := s.fs.At(path)
	if err != nil {
		return nil, err
	}
	if !mounted {
		return nil, code.New(code.NotFound, "volume %s is not mounted at %s", id, path)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, code.New(code.Internal, "usage of volume %s at %s: %w", id, path, err)
	}
	unit := int64(st.Bsize)
	return &csipb.NodeGetVolumeStatsResponse{Usage: []*csipb.VolumeUsage{
		{Unit: csipb.VolumeUsage_BYTES, Total: int64(st.Blocks) * unit, Available: int64(st.Bavail) * unit, Used: int64(st.Blocks-st.Bfree) * unit},
		{Unit: csipb.VolumeUsage_INODES, Total: int64(st.Files), Available: int64(st.Ffree), Used: int64(st.Files - st.Ffree)},
	}}, nil
}

// staged returns the record of a volume, or NotFound.
func (s *Service) staged(id string) (record, error) {
	if !volumeID(id) {
		return record{}, code.New(code.NotFound, "volume %s does not exist", id)
	}
	rec, known, err := s.records.load(id)
	if err != nil {
		return record{}, err
	}
	if !known {
		return record{}, code.New(code.NotFound, "volume %s is not staged on this node", id)
	}
	return rec, nil
}

// NodeGetVolumeHealth implements csi.NodeServer: what this node sees of the volume.
func (s *Service) NodeGetVolumeHealth(ctx context.Context, in *csipb.NodeGetVolumeHealthRequest) (*csipb.NodeGetVolumeHealthResponse, error) {
	id := in.GetVolumeId()
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	rec, err := s.staged(id)
	if err != nil {
		return nil, err
	}
	out := &csipb.VolumeHealth{VolumeId: id}
	add := func(reason, text string) {
		out.HealthStatuses = append(out.HealthStatuses, &csipb.VolumeHealth_VolumeHealthEntry{
			Status: csipb.VolumeHealthErrorType_INACCESSIBLE, Reason: reason, Message: text,
		})
	}
	attacher, err := s.attacher(rec.Mode)
	if err != nil {
		return nil, err
	}
	d, ok, err := attacher.Find(ctx, id)
	switch {
	case err != nil:
		return nil, fmt.Errorf("find the device of volume %s: %w", id, err)
	case !ok:
		add("DeviceGone", "the volume is not attached on this node any more: delete the pods that use it")
	case d.Trouble != "":
		add("DeviceBroken", d.Trouble)
	case !rec.Block:
		at, mounted, err := s.fs.At(rec.Staging)
		if err != nil {
			return nil, err
		}
		switch {
		case !mounted:
			add("NotMounted", "the filesystem is not mounted at "+rec.Staging)
		case at.Dead:
			add("FilesystemDead", "the filesystem was shut down after an I/O error: delete the pods that use it")
		case at.ReadOnly && !rec.ReadOnly:
			add("ReadOnlyFilesystem", "the filesystem became read-only after an error: delete the pods that use it, it is checked when it is mounted again")
		}
	}
	return &csipb.NodeGetVolumeHealthResponse{VolumeHealth: out}, nil
}
